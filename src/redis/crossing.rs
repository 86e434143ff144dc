//! Whether a dump may cross to the server, and whether encrypted: what a server's owner wants encrypted never crosses a
//! network in clear.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio_rustls::TlsAcceptor;

use super::{
    control::Control,
    nearby,
    tls::{self, Identity},
};
use crate::{
    error::{ExitCode, Failure, Result},
    policy::RedisConfig,
};

/// The ways between the server and us, when it follows us.
#[derive(Clone)]
pub(super) struct Crossing {
    /// Addresses of this host, the likeliest first; with port 0 for any.
    pub(super) hosts: Vec<(String, u16)>,
    /// Encrypts.
    pub(super) tls: Option<TlsAcceptor>,
}

impl Crossing {
    /// Finds the ways by the server's settings and the addresses under which it may reach us.
    pub(super) async fn find(control: &mut Control, config: &RedisConfig) -> Result<Self> {
        let settings = control.settings("tls-replication").await?;
        let encrypts = settings.get("tls-replication").is_some_and(|value| value == "yes");
        let hosts = hosts(control, config.advertise.as_deref()).await;
        judge(config, encrypts, hosts)
    }
}

fn judge(config: &RedisConfig, encrypts: bool, mut hosts: Vec<(String, u16)>) -> Result<Crossing> {
    if let Some(identity) = Identity::of(config).filter(|_| encrypts) {
        return Ok(Crossing { hosts, tls: Some(TlsAcceptor::from(tls::server(&identity)?)) });
    }
    if encrypts || config.url.starts_with("rediss://") {
        hosts.retain(|(host, _)| nearby::stays_here(host));
    }
    if hosts.is_empty() {
        let what = "the dump would cross the network in clear, and the server's connections are encrypted";
        return Err(Failure::new(ExitCode::Failed, what).hint(
            "Nothing was changed. Set tls-replication yes on the server, and `cert_file` and `key_file` of this source, signed by an authority in its tls-ca-cert-file.",
        ));
    }
    Ok(Crossing { hosts, tls: None })
}

/// Returns addresses of this host.
async fn hosts(control: &mut Control, advertise: Option<&str>) -> Vec<(String, u16)> {
    if let Some(advertise) = advertise {
        let (host, port) = match advertise.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().unwrap_or(0))
            }
            _ => (advertise, 0),
        };
        return vec![(host.trim_matches(['[', ']']).to_owned(), port)];
    }
    // The address that the server sees us under is ours, or that of a gateway which is ours: so it is
    // for a container whose port is published here. Behind any other translation the policy must say.
    let seen: String = control.ask(&["CLIENT", "INFO"]).await.unwrap_or_default();
    let seen = seen.split(' ').find_map(|field| field.strip_prefix("addr=")?.parse::<SocketAddr>().ok());
    let mut hosts: Vec<IpAddr> = Vec::new();
    for address in [seen, control.local()].into_iter().flatten() {
        if !hosts.contains(&address.ip()) {
            hosts.push(address.ip());
        }
    }
    if hosts.is_empty() {
        hosts.push(Ipv4Addr::LOCALHOST.into());
    }
    hosts.into_iter().map(|host| (host.to_string(), 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encrypted_elsewhere_leaves_this_machine_only_encrypted() {
        let judged = |url: &str, encrypts: bool, hosts: &[&str]| {
            let config = RedisConfig { url: url.into(), ..RedisConfig::default() };
            let hosts = hosts.iter().map(|host| ((*host).to_owned(), 0)).collect();
            let judged = judge(&config, encrypts, hosts);
            judged.map(|crossing| crossing.hosts.into_iter().map(|(host, _)| host).collect::<Vec<_>>())
        };
        let (near, far) = ("127.0.0.1", "192.0.2.1");
        assert_eq!(judged("redis://h", false, &[far, near]).unwrap(), [far, near], "its owner has it so");
        for (url, encrypts) in [("redis://h", true), ("rediss://h", false), ("rediss://h", true)] {
            assert_eq!(judged(url, encrypts, &[far, near]).unwrap(), [near]);
            let refused = judged(url, encrypts, &[far]).unwrap_err();
            assert!(refused.hints()[0].contains("cert_file"), "{refused:?}");
        }
    }
}
