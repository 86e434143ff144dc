//! Certificates: how long those that servers show, and those that we show them, are still valid.
//!
//! Any certificate is taken, and nothing secret is sent: what is looked at is only when it runs out. Whether it is the
//! right one is what the connections of a backup check.
//!
//! *Order.* MySQL counts a handshake that ends half way against this host, and shuts it out after a hundred of them
//! (`max_connect_errors`); a login that succeeds begins the count anew. So its certificate is looked at after a login
//! of the same look, and not at all without one.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use x509_cert::{Certificate, der::Decode};

use super::{Looking, REPOSITORY};
use crate::{
    finding::{Finding, Law, Status, laws},
    policy::{Channel, MailEncryption, NotifyConfig, OptionValue, SourceKind, StoreConfig, Tls},
};

laws! {
    page "certificates";
    EXPIRY = "tls.certificate",
        "the server's certificate is valid for another three weeks",
        "Renew the certificate, and have the server load it.";
    OWN = "tls.own_certificate",
        "the certificate that this host shows is valid for another three weeks",
        "Renew it in the same place: each run reads it anew.";
}

/// How long one server may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Days below which a person should look, and below which it is late.
const DAYS: (i64, i64) = (21, 3);
/// The most that a server's greeting may have.
const GREETING_BYTES_MAX: usize = 4096;

/// What is said before TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// Nothing.
    Plain,
    /// The greeting of MySQL, and a wish.
    Mysql,
    /// The greeting of a mail server, and a wish.
    Mail,
}

/// A server that shows a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    /// Whom it belongs to: `source.redis`, `offsite.oss`.
    thing: String,
    host: String,
    port: u16,
    opening: Opening,
}

/// Looks at the certificates of all that is looked at, except those that MySQL servers show.
pub(super) async fn look(looking: Looking<'_>) -> Vec<Finding> {
    let mut findings = look_at(looking, |endpoint| endpoint.opening != Opening::Mysql).await;
    findings.extend(own(looking));
    findings
}

/// Looks at the certificates that servers ask us for.
fn own(looking: Looking<'_>) -> Vec<Finding> {
    let now = looking.ground.clock.now();
    let sources = looking.stack.sources_in_order().into_iter();
    let taken = sources.filter(|source| looking.takes(source.name.as_str()));
    let files = taken.filter_map(|source| {
        let file = match &source.kind {
            SourceKind::Redis(redis) => redis.cert_file.as_ref(),
            SourceKind::Mysql(mysql) => mysql.client_cert.as_ref(),
            SourceKind::S3(_) | SourceKind::Files(_) => None,
        };
        Some((format!("source.{}", source.name), file?))
    });
    files.map(|(thing, file)| own_one(file, now).of(&thing)).collect()
}

fn own_one(file: &Path, now: DateTime<Utc>) -> Finding {
    let shown = file.display().to_string();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    match chain.map(|chain| runs_out(&chain)) {
        Ok(Some(end)) => judge(OWN, &shown, end, now),
        Ok(None) => OWN.broken(format!("{shown}: it holds no certificate")),
        Err(error) => OWN.broken(format!("{shown}: {error}")),
    }
}

/// Looks at the certificates of those MySQL servers that let us in, as `findings` tell.
pub(super) async fn look_of_mysql(looking: Looking<'_>, findings: &[Finding]) -> Vec<Finding> {
    look_at(looking, |endpoint| endpoint.opening == Opening::Mysql && endpoint.let_us_in(findings)).await
}

async fn look_at(looking: Looking<'_>, is_wanted: impl Fn(&Endpoint) -> bool) -> Vec<Finding> {
    let now = looking.ground.clock.now();
    let wanted = endpoints(looking).into_iter().filter(is_wanted);
    join_all(wanted.map(async |endpoint| endpoint.look(now).await.of(&endpoint.thing))).await
}

fn endpoints(looking: Looking<'_>) -> Vec<Endpoint> {
    let stack = looking.stack;
    let mut found = Vec::new();
    for source in stack.sources_in_order() {
        if looking.takes(source.name.as_str()) {
            found.extend(of_source(&format!("source.{}", source.name), &source.kind));
        }
    }
    if looking.takes(REPOSITORY) {
        found.extend(of_store(REPOSITORY, &stack.repository.place));
    }
    for offsite in stack.offsites.iter().filter(|one| looking.takes(one.name.as_str())) {
        found.extend(of_store(&format!("offsite.{}", offsite.name), &offsite.place));
    }
    if looking.all() {
        found.extend(stack.notify.iter().filter_map(of_channel));
    }
    found
}

fn of_source(thing: &str, kind: &SourceKind) -> Option<Endpoint> {
    match kind {
        SourceKind::Mysql(mysql) if mysql.tls != Tls::Off && mysql.socket.is_none() => Some(Endpoint {
            thing: thing.to_owned(),
            host: mysql.host.clone(),
            port: mysql.port,
            opening: Opening::Mysql,
        }),
        SourceKind::Redis(redis) => of_url(thing, redis.addresses().next()?.strip_prefix("rediss://")?, 6379),
        SourceKind::S3(s3) => of_url(thing, s3.endpoint.strip_prefix("https://")?, 443),
        SourceKind::Mysql(_) | SourceKind::Files(_) => None,
    }
}

fn of_store(thing: &str, place: &StoreConfig) -> Option<Endpoint> {
    let address = match (place.store.as_str(), place.options.get("endpoint")) {
        ("s3", None) => "s3.amazonaws.com",
        // An address that is a secret is neither told nor replaced by another one.
        ("fs", _) | (_, None | Some(OptionValue::Secret(_))) => return None,
        (_, Some(OptionValue::Text(endpoint))) if endpoint.starts_with("http://") => return None,
        // Without a scheme these services are reached by TLS.
        (_, Some(OptionValue::Text(endpoint))) => endpoint.strip_prefix("https://").unwrap_or(endpoint),
    };
    of_url(thing, address, 443)
}

fn of_channel(notify: &NotifyConfig) -> Option<Endpoint> {
    let Channel::Email(email) = &notify.channel else { return None };
    let opening = match email.encryption {
        MailEncryption::Tls => Opening::Plain,
        MailEncryption::Starttls => Opening::Mail,
        MailEncryption::Off => return None,
    };
    Some(Endpoint {
        thing: format!("notify.{}", notify.name),
        host: email.host.clone(),
        port: email.port,
        opening,
    })
}

/// Reads `host`, `host:port` or `[address]:port`, and what may follow.
fn of_url(thing: &str, rest: &str, usual_port: u16) -> Option<Endpoint> {
    let address = rest.split(['/', '?', '#']).next()?;
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (address, usual_port),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return None;
    }
    Some(Endpoint { thing: thing.to_owned(), host: host.to_owned(), port, opening: Opening::Plain })
}

impl Endpoint {
    /// Returns whether the login of the same look was ok.
    fn let_us_in(&self, findings: &[Finding]) -> bool {
        let answers = format!("{}.answers", self.thing);
        findings.iter().any(|finding| finding.id == answers && finding.status == Status::Ok)
    }

    async fn look(&self, now: DateTime<Utc>) -> Finding {
        let shown = format!("{}:{}", self.host, self.port);
        let unknown = |why: &str| {
            let found = EXPIRY.found(Status::Unknown, format!("{shown}: {why}"));
            found.hint("See that the server runs, speaks TLS there and can be reached from this host.")
        };
        match timeout(LIMIT, self.chain()).await {
            Ok(Ok(chain)) => match runs_out(&chain) {
                Some(end) => judge(EXPIRY, &shown, end, now),
                None => unknown("the certificate cannot be read"),
            },
            Ok(Err(why)) => unknown(&why),
            Err(_) => unknown(&format!("no answer within {} s", LIMIT.as_secs())),
        }
    }

    /// Returns the certificates that the server shows.
    async fn chain(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let told = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(told)?;
        match self.opening {
            Opening::Plain => {}
            Opening::Mysql => wish_of_mysql(&mut stream).await?,
            Opening::Mail => wish_of_mail(&mut stream).await?,
        }
        let recorder = Arc::new(Recorder::new());
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&recorder.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&recorder) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        let shaken = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let chain = recorder.take();
        // A server that wants a certificate of ours too has shown its own before it hangs up.
        match (chain.is_empty(), shaken) {
            (false, _) => Ok(chain),
            (true, Err(error)) => Err(error.to_string()),
            (true, Ok(_)) => Err("it showed no certificate".to_owned()),
        }
    }
}

/// Reads MySQL's greeting and asks for TLS: a packet with the flags of protocol 4.1 and no user.
async fn wish_of_mysql(stream: &mut TcpStream) -> Result<(), String> {
    const FLAGS: u32 = 0x0000_0200 | 0x0000_0800 | 0x0000_8000;
    let told = |error: std::io::Error| error.to_string();
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.map_err(told)?;
    let size = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
    if size > GREETING_BYTES_MAX {
        return Err("it does not greet as MySQL does".to_owned());
    }
    let mut greeting = vec![0; size];
    stream.read_exact(&mut greeting).await.map_err(told)?;
    if greeting.first() != Some(&10) {
        return Err("it refuses us before it greets".to_owned());
    }
    let mut wish = vec![32, 0, 0, 1];
    wish.extend(FLAGS.to_le_bytes());
    wish.extend((1_u32 << 24).to_le_bytes());
    wish.push(45);
    wish.extend([0; 23]);
    stream.write_all(&wish).await.map_err(told)
}

/// Reads a mail server's greeting and asks for TLS.
async fn wish_of_mail(stream: &mut TcpStream) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    for (say, wanted) in [("", "220"), ("EHLO lifeboat\r\n", "250"), ("STARTTLS\r\n", "220")] {
        stream.write_all(say.as_bytes()).await.map_err(told)?;
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            if answer.len() > GREETING_BYTES_MAX {
                return Err("it does not answer as a mail server does".to_owned());
            }
            answer.push(stream.read_u8().await.map_err(told)?);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if !answer.starts_with(wanted) {
            return Err(format!("it answered `{}`", answer.lines().next().unwrap_or_default()));
        }
    }
    Ok(())
}

/// Returns whether a mail server's answer has ended: its last line has a blank after the number.
fn is_whole(answer: &[u8]) -> bool {
    let Some(lines) = answer.strip_suffix(b"\n") else { return false };
    let last = lines.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    last.get(3) == Some(&b' ')
}

/// Returns when the first of these certificates runs out.
fn runs_out(chain: &[CertificateDer<'_>]) -> Option<DateTime<Utc>> {
    let end = |der: &CertificateDer<'_>| {
        let certificate = Certificate::from_der(der.as_ref()).ok()?;
        let end = certificate.tbs_certificate.validity.not_after.to_unix_duration();
        DateTime::from_timestamp(i64::try_from(end.as_secs()).ok()?, 0)
    };
    chain.iter().filter_map(end).min()
}

fn judge(law: Law, shown: &str, end: DateTime<Utc>, now: DateTime<Utc>) -> Finding {
    let days = (end - now).num_days();
    let status = match days {
        days if days < DAYS.1 => Status::Broken,
        days if days < DAYS.0 => Status::Warn,
        _ => Status::Ok,
    };
    let detail = if end <= now {
        format!("{shown}: it ran out on {}", end.date_naive())
    } else {
        format!("{shown}: valid for {days} days, until {}", end.date_naive())
    };
    Finding { figure: Some(days as f64), ..law.found(status, detail) }
}

/// Takes every certificate and remembers it.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl Recorder {
    fn new() -> Self {
        Self { provider: Arc::new(rustls::crypto::ring::default_provider()), seen: Mutex::default() }
    }

    fn take(&self) -> Vec<CertificateDer<'static>> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = [end_entity].into_iter().chain(intermediates).map(|one| one.clone().into_owned());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = all.collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::TimeDelta;

    use super::*;
    use crate::{
        clock::{Clock as _, System},
        policy::SecretRef,
    };

    #[test]
    fn a_certificate_is_judged_by_its_days() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        for (days, status) in [
            (400, Status::Ok),
            (21, Status::Ok),
            (20, Status::Warn),
            (3, Status::Warn),
            (2, Status::Broken),
            (-1, Status::Broken),
        ] {
            let found = judge(EXPIRY, "db:3306", now + TimeDelta::days(days), now);
            assert_eq!((found.status, found.figure), (status, Some(days as f64)), "{days}");
        }
        assert!(judge(EXPIRY, "a:1", now, now).detail.contains("ran out"));
    }

    #[test]
    fn the_servers_of_a_store_are_known_by_their_address() {
        let store = |kind: &str, endpoint: Option<&str>| {
            let option = |text: &str| ("endpoint".to_owned(), OptionValue::Text(text.to_owned()));
            let options: BTreeMap<_, _> = endpoint.into_iter().map(option).collect();
            let found = of_store("repository", &StoreConfig { store: kind.to_owned(), options });
            found.map(|one| format!("{}:{}", one.host, one.port))
        };
        for (kind, endpoint, expected) in [
            ("fs", None, None),
            ("s3", None, Some("s3.amazonaws.com:443")),
            ("s3", Some("http://minio:9000"), None),
            ("s3", Some("https://minio:9000/x"), Some("minio:9000")),
            ("oss", Some("oss-cn-shanghai.aliyuncs.com"), Some("oss-cn-shanghai.aliyuncs.com:443")),
            ("webdav", Some("https://[::1]:8443"), Some("::1:8443")),
        ] {
            assert_eq!(store(kind, endpoint).as_deref(), expected, "{kind} {endpoint:?}");
        }
    }

    #[test]
    fn a_store_whose_address_is_a_secret_is_not_looked_for_elsewhere() {
        for kind in ["s3", "oss", "webdav"] {
            let secret = OptionValue::Secret(SecretRef::Env("ENDPOINT".into()));
            let options = BTreeMap::from([("endpoint".to_owned(), secret)]);
            assert_eq!(
                of_store("repository", &StoreConfig { store: kind.to_owned(), options }),
                None,
                "{kind}"
            );
        }
    }

    #[test]
    fn only_a_server_that_let_us_in_is_asked_for_its_certificate() {
        let endpoint = Endpoint {
            thing: "source.mysql".to_owned(),
            host: "db".to_owned(),
            port: 3306,
            opening: Opening::Mysql,
        };
        let found = |id: &str, status| Finding { id: id.to_owned(), ..EXPIRY.found(status, "seen") };
        let mine = "source.mysql.answers";
        assert!(endpoint.let_us_in(&[found(mine, Status::Ok)]));
        assert!(!endpoint.let_us_in(&[found(mine, Status::Broken)]));
        assert!(!endpoint.let_us_in(&[found("source.mysql.time", Status::Unknown)]));
        assert!(!endpoint.let_us_in(&[found("source.other.answers", Status::Ok)]));
    }

    /// Plays a server that says its lines, each after one of ours.
    async fn wished(lines: &'static [&'static str]) -> Result<(), String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for line in lines {
                stream.write_all(line.as_bytes()).await.unwrap();
                let mut heard = Vec::new();
                while !heard.ends_with(b"\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    heard.push(byte);
                }
            }
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        let wished = wish_of_mail(&mut stream).await;
        drop(stream);
        server.await.unwrap();
        wished
    }

    #[tokio::test]
    async fn a_mail_server_is_asked_for_tls_after_its_greeting() {
        let good = &["220 mx\r\n", "250-mx\r\n250-SIZE 9\r\n250 STARTTLS\r\n", "220 go\r\n"];
        assert_eq!(wished(good).await, Ok(()));
        let refused = wished(&["220 mx\r\n", "250 mx\r\n", "502 no\r\n"]).await;
        assert_eq!(refused, Err("it answered `502 no`".to_owned()));
    }

    #[test]
    fn our_own_certificate_is_judged_by_the_file_that_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("own.pem");
        let made = std::process::Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 10 -subj /CN=x -out own.pem".split(' '))
            .args(["-keyout", "own.key"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let now = System.now();
        let found = own_one(&file, now);
        assert_eq!((found.status, found.id.as_str()), (Status::Warn, "tls.own_certificate"));
        assert_eq!(own_one(&file, now + TimeDelta::days(11)).status, Status::Broken);
        std::fs::write(&file, "no certificate").unwrap();
        assert!(own_one(&file, now).detail.ends_with("it holds no certificate"));
        assert_eq!(own_one(&dir.path().join("absent.pem"), now).status, Status::Broken);
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        assert_eq!(runs_out(&[CertificateDer::from(vec![1, 2, 3])]), None);
        assert_eq!(runs_out(&[]), None);
    }
}
