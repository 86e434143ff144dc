//! Mail: plain text and HTML, in one conversation with the server that the policy names.
//!
//! A message that is sent again has the same `Message-ID`, so a server or a reader can tell that it is the same. What
//! is told of one incident refers to its beginning and lies in one thread.

use std::time::Duration;

use chrono::{DateTime, Utc};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message as Mail, Tokio1Executor,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        Error,
        authentication::Credentials,
        client::{CertificateStore, Tls, TlsParameters},
        extension::ClientId,
    },
};
use rustls::{RootCertStore, pki_types::CertificateDer};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use super::{
    Message, Refused,
    hidden::{cut, without_secrets},
    http::{chain, reveal},
};
use crate::policy::{EmailConfig, MailEncryption};

/// Bytes of a text; no report is so long.
const TEXT_BYTES_MAX: usize = 200_000;

pub(super) async fn send(
    config: &EmailConfig,
    password: Option<SecretString>,
    channel: &str,
    message: &Message,
    now: DateTime<Utc>,
    patience: Duration,
) -> Result<(), Refused> {
    let mail = mail(config, channel, message, now)?;
    let secrets: Vec<SecretString> = password.iter().cloned().collect();
    let told = |error: &Error| Refused {
        why: without_secrets(&format!("`{}`: {}", config.host, chain(error)), &secrets),
        again: !(error.is_permanent() || error.is_client() || is_of_certificate(error)),
        hint: hint(error, config),
    };
    let roots = roots(rustls_native_certs::load_native_certs().certs);
    let conversation = async {
        let transport =
            transport(config, password.as_ref(), roots, patience).map_err(|error| told(&error))?;
        transport.send(mail).await.map(drop).map_err(|error| told(&error))
    };
    tokio::time::timeout(patience, conversation).await.unwrap_or_else(|_| {
        Err(Refused::for_now(format!("`{}` did not take the mail in {} s", config.host, patience.as_secs())))
    })
}

/// Returns whose certificates count: those of the system alone, which may be one company's own. A bare container has
/// none that can be used, and then those count that came with the program.
fn roots(system: Vec<CertificateDer<'static>>) -> CertificateStore {
    let (usable, _) = RootCertStore::empty().add_parsable_certificates(system);
    if usable == 0 { CertificateStore::WebpkiRoots } else { CertificateStore::Default }
}

/// Returns whether nothing was sent, because the server's certificate was not believed.
fn is_of_certificate(error: &Error) -> bool {
    error.is_tls() || chain(error).contains("certificate")
}

fn hint(error: &Error, config: &EmailConfig) -> Option<String> {
    let hint = if is_of_certificate(error) {
        "Its certificate is not believed. Add its CA to the system's, or to the file that SSL_CERT_FILE names."
    } else if error.is_permanent() && config.user.is_some() {
        "Check `user`, `password` and `from`: many servers want an app password and their own address as sender."
    } else if error.is_client() {
        "Does the server take a login on this port, and is `encryption` right?"
    } else {
        return None;
    };
    Some(hint.to_owned())
}

fn transport(
    config: &EmailConfig,
    password: Option<&SecretString>,
    roots: CertificateStore,
    patience: Duration,
) -> Result<AsyncSmtpTransport<Tokio1Executor>, Error> {
    let parameters = || TlsParameters::builder(config.host.clone()).certificate_store(roots).build_rustls();
    let tls = match config.encryption {
        MailEncryption::Tls => Tls::Wrapper(parameters()?),
        // Required: a server that takes the offer back gets neither password nor mail.
        MailEncryption::Starttls => Tls::Required(parameters()?),
        MailEncryption::Off => Tls::None,
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.host)
        .port(config.port)
        .tls(tls)
        .hello_name(ClientId::default())
        .timeout(Some(patience));
    if let (Some(user), Some(password)) = (&config.user, password) {
        builder = builder.credentials(Credentials::new(user.clone(), reveal(password).to_owned()));
    }
    Ok(builder.build())
}

/// Writes the mail.
fn mail(config: &EmailConfig, channel: &str, message: &Message, now: DateTime<Utc>) -> Result<Mail, Refused> {
    let wrong = |what: &str| Refused::for_good(format!("`{what}` is no mail address"));
    let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|_| wrong(text));
    let words = message.words();
    let mut builder = Mail::builder()
        .from(mailbox(&config.from)?)
        .subject(words.title.clone())
        .date(now.into())
        .message_id(Some(id_of(channel, message)))
        .raw_header(header("Auto-Submitted", "auto-generated")?);
    for to in &config.to {
        builder = builder.to(mailbox(to)?);
    }
    if let Some(thread) = thread_of(message) {
        builder = builder.references(thread);
    }
    if message.is_urgent() {
        builder = builder.raw_header(header("X-Priority", "1")?);
    }
    let (plain, html) = (cut(&words.plain(), TEXT_BYTES_MAX), cut(&words.html(), TEXT_BYTES_MAX));
    builder
        .multipart(MultiPart::alternative_plain_html(plain, html))
        .map_err(|error| Refused::for_good(format!("the mail cannot be written: {error}")))
}

fn header(name: &str, value: &str) -> Result<HeaderValue, Refused> {
    let name = HeaderName::new_from_ascii(name.to_owned())
        .map_err(|_| Refused::for_good("the mail cannot be written: a header's name"))?;
    Ok(HeaderValue::new(name, value.to_owned()))
}

/// Returns the id of a mail: the same for the same message.
fn id_of(channel: &str, message: &Message) -> String {
    let facts = serde_json::to_vec(message).unwrap_or_default();
    let hash = Sha256::new().chain_update(channel).chain_update([0]).chain_update(facts).finalize();
    format!("<{}@{}>", hex::encode(&hash[..16]), domain(message))
}

/// Returns the id that all mails of an incident refer to.
fn thread_of(message: &Message) -> Option<String> {
    let incident = message.incident()?;
    let opened = incident.opened.timestamp();
    Some(format!("<incident-{}-{opened}@{}>", incident.number, domain(message)))
}

/// Returns what stands for a domain in ids: the stack's name has letters, digits and hyphens only, or nearly so.
fn domain(message: &Message) -> String {
    format!("{}.lifeboat", message.stack.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn the_programs_own_roots_count_only_where_the_system_has_none() {
        let one = CertificateDer::from_pem_slice(include_bytes!("tests/localhost.crt")).unwrap();
        let broken = CertificateDer::from(b"no certificate".to_vec());
        let is_own = |system| matches!(roots(system), CertificateStore::WebpkiRoots);
        assert!(is_own(vec![]) && is_own(vec![broken.clone()]));
        assert!(!is_own(vec![broken, one]), "one is enough");
    }
}
