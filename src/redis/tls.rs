//! TLS of our own connections and of those that a server makes to us: whom we believe, and what we show.
//!
//! Redis asks every client for a certificate unless it is told not to (`tls-auth-clients`), so a server with TLS
//! switched on and nothing else is reached only with `cert_file` and `key_file`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    error::{Context, ExitCode, Failure, Result},
    policy::RedisConfig,
};

/// A certificate of our own and its key, as PEM files. They are read anew for each connection, so that new ones count
/// as soon as they lie there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    cert_file: PathBuf,
    key_file: PathBuf,
}

impl Identity {
    /// Takes both files from the policy, which has been checked for naming both or neither.
    pub(super) fn of(config: &RedisConfig) -> Option<Self> {
        let (cert_file, key_file) = config.cert_file.clone().zip(config.key_file.clone())?;
        Some(Self { cert_file, key_file })
    }

    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = certificates(&self.cert_file, "certificate file")?;
        let key = PrivateKeyDer::from_pem_file(&self.key_file)
            .failed(ExitCode::Usage, || unread("key file", &self.key_file))?;
        Ok((chain, key))
    }

    fn mismatched(&self, error: rustls::Error) -> Failure {
        let what = format!("the certificate of `{}` cannot be shown", self.cert_file.display());
        Failure::new(ExitCode::Usage, what)
            .because(error)
            .hint("Name a certificate and the key that belongs to it: cert_file = \"…\", key_file = \"…\".")
    }
}

/// Returns how we behave as a client: with a `ca_file` only what its authorities signed is believed.
pub(super) fn client(ca_file: Option<&Path>, identity: Option<&Identity>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            for certificate in certificates(path, "authority file")? {
                roots.add(certificate).failed(ExitCode::Usage, || unread("authority file", path))?;
            }
        }
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .failed(ExitCode::Failed, no_tls)?
        .with_root_certificates(roots);
    let Some(identity) = identity else { return Ok(Arc::new(config.with_no_client_auth())) };
    let (chain, key) = identity.read()?;
    let config = config.with_client_auth_cert(chain, key).map_err(|error| identity.mismatched(error))?;
    Ok(Arc::new(config))
}

/// Returns how we behave as a server, for one that follows us. A replica proves the chain of its primary's certificate,
/// and no name.
pub(super) fn server(identity: &Identity) -> Result<Arc<ServerConfig>> {
    let (chain, key) = identity.read()?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .failed(ExitCode::Failed, no_tls)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| identity.mismatched(error))?;
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn no_tls() -> String {
    "TLS cannot be set up".to_owned()
}

/// Reads all certificates of a PEM file; one at least must be in it.
fn certificates(path: &Path, kind: &str) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = || unread(kind, path);
    let found = CertificateDer::pem_file_iter(path).failed(ExitCode::Usage, wrong)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().failed(ExitCode::Usage, wrong)?;
    if found.is_empty() {
        return Err(Failure::new(ExitCode::Usage, wrong()).because("it holds no certificate"));
    }
    Ok(found)
}

fn unread(kind: &str, path: &Path) -> String {
    format!("{kind} `{}` cannot be read", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_hold_nothing_of_use_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (empty, absent) = (dir.path().join("empty.pem"), dir.path().join("absent.pem"));
        std::fs::write(&empty, "no certificate\n").unwrap();
        let identity = |cert: &Path, key: &Path| Identity { cert_file: cert.into(), key_file: key.into() };
        let cases = [
            (Some(&absent), None, "authority file `"),
            (Some(&empty), None, "authority file `"),
            (None, Some(identity(&empty, &absent)), "certificate file `"),
            (None, Some(identity(&absent, &absent)), "certificate file `"),
        ];
        for (ca_file, identity, told) in cases {
            let failure = client(ca_file.map(PathBuf::as_path), identity.as_ref()).unwrap_err();
            assert_eq!(failure.exit(), ExitCode::Usage);
            assert!(failure.to_string().starts_with(told), "{failure}");
        }
        assert!(client(None, None).is_ok());
    }
}
