//! TLS of a connection of our own, by the same rules as the driver's: its options say whom we believe.

use std::sync::Arc;

use mysql_async::{DriverError, IoError, Result, SslOpts, TlsError};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Encrypts a connection to `host`.
pub(super) async fn connect(opts: &SslOpts, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
    let config = config(opts).await?;
    let name = ServerName::try_from(host.to_owned()).map_err(TlsError::InvalidDnsName)?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

async fn config(opts: &SslOpts) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Tls)?;
    let builder = if opts.accept_invalid_certs() {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    } else {
        builder.with_root_certificates(roots(opts).await?)
    };
    let Some(identity) = opts.client_identity() else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(&identity.cert_chain().read().await?)?;
    let key = match PrivateKeyDer::from_pem_slice(&identity.priv_key().read().await?) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => return Err(DriverError::NoKeyFound.into()),
        Err(error) => return Err(of_pem(error)),
    };
    Ok(builder.with_client_auth_cert(chain, key).map_err(TlsError::Tls)?)
}

async fn roots(opts: &SslOpts) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if !opts.disable_built_in_roots() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for file in opts.root_certs() {
        for certificate in certificates(&file.read().await?)? {
            roots.add(certificate).map_err(TlsError::Tls)?;
        }
    }
    Ok(roots)
}

/// Returns the certificates of a file: PEM, or one as it is.
fn certificates(file: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(file).collect();
    let found = found.map_err(of_pem)?;
    let is_plain = found.is_empty() && !file.is_empty();
    Ok(if is_plain { vec![CertificateDer::from(file.to_vec())] } else { found })
}

fn of_pem(error: pem::Error) -> mysql_async::Error {
    IoError::Tls(TlsError::Pem(error)).into()
}

/// Believes whoever it is, as the policy says; the other side must still have the key of what it shows.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
