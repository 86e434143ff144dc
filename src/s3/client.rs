//! A signed connection to one S3 server: its limits, its headers, and what its errors mean to a person.
//!
//! *Limits.* [`CONNECT_SECONDS`], [`ANSWER_SECONDS`], [`LIST_SECONDS`] for the first byte of an answer,
//! [`BODY_SECONDS`] between two pieces of a body, [`ATTEMPTS`] per request. The SDK's own guard against slow
//! streams is off: it cannot tell a stalled server from a reader of ours that is busy.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, ConfigBag, Credentials, Intercept, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, RuntimeComponents, StalledStreamProtectionConfig,
        http::{HttpRequest, HttpResponse},
        interceptors::{
            BeforeDeserializationInterceptorContextMut, BeforeDeserializationInterceptorContextRef,
            BeforeTransmitInterceptorContextMut,
        },
        retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
};
use aws_smithy_http_client::tls;
use md5::{Digest, Md5};
use secrecy::ExposeSecret;

use crate::{
    error::{ExitCode, Failure, Result},
    names::SourceName,
    policy::S3Config,
};

/// Seconds that a TCP and TLS handshake may take.
pub(super) const CONNECT_SECONDS: u64 = 10;
/// Seconds until the first byte of an answer.
pub(super) const ANSWER_SECONDS: u64 = 120;
/// Seconds until the first byte of a listing; a full single disk was seen to take minutes.
pub(super) const LIST_SECONDS: u64 = 600;
/// Seconds that a body may stand still while somebody waits for it.
pub(super) const BODY_SECONDS: u64 = 60;
/// How often one request is tried.
pub(super) const ATTEMPTS: u32 = 5;

/// The credentials are wrong, whatever is asked.
const REFUSED: [&str; 6] = [
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "ExpiredToken",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "AuthorizationHeaderMalformed",
];

/// One S3 server as one source of a stack sees it.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// The SDK's client.
    pub(super) client: Client,
    /// What the server calls itself.
    product: Arc<OnceLock<String>>,
    /// The `Date` of its last answer.
    date: Arc<Mutex<Option<String>>>,
    name: SourceName,
    endpoint: String,
}

/// What an SDK call returns when it fails.
pub(super) type CallError<E> = SdkError<E, HttpResponse>;

impl Server {
    /// Makes the connection's settings; nothing is sent yet.
    pub(super) fn new(name: &SourceName, config: &S3Config) -> Result<Self> {
        let access = config.access_key.resolve()?;
        let secret = config.secret_key.resolve()?;
        let credentials =
            Credentials::new(access.expose_secret(), secret.expose_secret(), None, None, "lifeboat policy");
        let (product, date) = (Arc::new(OnceLock::new()), Arc::default());
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let sdk = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .endpoint_url(&config.endpoint)
            .region(Region::new(config.region.clone()))
            .credentials_provider(credentials)
            // Only path style works for every bucket name and every server.
            .force_path_style(true)
            // Older servers reject or store the trailers that the SDK would add by itself.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts(ANSWER_SECONDS))
            .interceptor(Manners { product: Arc::clone(&product), date: Arc::clone(&date) })
            .build();
        let client = Client::from_conf(sdk);
        Ok(Self { client, product, date, name: name.clone(), endpoint: config.endpoint.clone() })
    }

    /// Returns where it is.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns what the server calls itself, once it has answered anything.
    pub(super) fn product(&self) -> Option<&str> {
        self.product.get().map(String::as_str)
    }

    /// Returns whether the server calls itself `MinIO`, once it has answered anything.
    pub(super) fn is_minio(&self) -> bool {
        self.product().is_some_and(|product| product.starts_with("MinIO"))
    }

    /// Returns the `Date` of its last answer, once it has answered anything.
    pub(super) fn date(&self) -> Option<String> {
        self.date.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the product and where it is, as a person would say it.
    pub(super) fn version(&self) -> String {
        format!("{} at {}", self.product().unwrap_or("S3"), self.endpoint)
    }

    /// Turns an error of a call into what a person is told; `doing` fits after "failed to".
    pub(super) fn failure<E>(&self, doing: &str, error: CallError<E>) -> Failure
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let (name, endpoint) = (&self.name, &self.endpoint);
        let Some(answer) = error.raw_response() else {
            let what =
                format!("failed to {doing}: the S3 server of `{name}` at `{endpoint}` does not answer");
            return Failure::new(ExitCode::SourceDown, what)
                .because(error)
                .hint("Is the server running, and is `endpoint` right?");
        };
        let status = answer.status().as_u16();
        let told = Told::of(&error, status);
        let what = format!("failed to {doing} of `{name}` at `{endpoint}`");
        Failure::new(ExitCode::SourceDown, what).because(told.text()).hint(told.hint())
    }
}

/// Returns the limits of a request whose answer may take `answer_seconds` to begin.
pub(super) fn timeouts(answer_seconds: u64) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(CONNECT_SECONDS))
        .read_timeout(Duration::from_secs(answer_seconds))
        .build()
}

/// What a server said when it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// The HTTP status.
    pub(super) status: u16,
    /// The error's code; empty where the answer has no body (HEAD).
    pub(super) code: String,
    message: String,
    /// The region that it named as the right one.
    region: Option<String>,
}

impl Told {
    /// Returns what the server said, `None` when there was no answer at all.
    pub(super) fn from<E: ProvideErrorMetadata>(error: &CallError<E>) -> Option<Self> {
        error.raw_response().map(|answer| Self::of(error, answer.status().as_u16()))
    }

    fn of<E: ProvideErrorMetadata>(error: &CallError<E>, status: u16) -> Self {
        let code = error.code().unwrap_or_default().to_owned();
        let message = error.message().unwrap_or_default().to_owned();
        Self { status, code, message, region: error.raw_response().and_then(region_of) }
    }

    /// Returns whether it is the credentials that are wrong and not the thing that was asked for.
    pub(super) fn is_about_credentials(&self) -> bool {
        REFUSED.contains(&self.code.as_str())
    }

    /// Returns whether it is the bucket that is elsewhere, whatever is asked of it here.
    pub(super) fn is_about_place(&self) -> bool {
        matches!(self.status, 301 | 302 | 307 | 308)
    }

    /// Returns whether it is the object that is refused, or the objects, and not all of us.
    pub(super) fn is_about_objects(&self) -> bool {
        (400..500).contains(&self.status)
            && !matches!(self.status, 408 | 429)
            && self.code != "NoSuchBucket"
            && !self.is_about_credentials()
    }

    /// Returns whether the thing is simply not there.
    pub(super) fn is_absent(&self) -> bool {
        self.status == 404
    }

    /// Returns whether the server does not know this kind of request.
    pub(super) fn is_unknown_request(&self) -> bool {
        self.status == 501 || self.status == 405 || self.code == "NotImplemented"
    }

    /// Returns the refusal as one line.
    pub(super) fn text(&self) -> String {
        let parts = [self.code.as_str(), self.message.as_str()];
        let said: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("the server answered {} {}", self.status, said.join(": ")).trim_end().to_owned()
    }

    fn hint(&self) -> String {
        match &self.region {
            Some(region) if self.is_about_place() => {
                format!(
                    "The bucket is in another region: set `region = \"{region}\"`, and `endpoint` to that region's."
                )
            }
            Some(region) if self.code == "AuthorizationHeaderMalformed" => {
                format!("The server signs for another region: set `region = \"{region}\"`.")
            }
            _ => self.plain_hint().to_owned(),
        }
    }

    fn plain_hint(&self) -> &'static str {
        match self.code.as_str() {
            "RequestTimeTooSkewed" => "The clocks of this host and of the server differ: set them by NTP.",
            "AuthorizationHeaderMalformed" => "Check `region`: the server signs for another one.",
            "SlowDown" => "The server asks for fewer requests: lower `concurrency` of this source.",
            code if REFUSED.contains(&code) => "Check `access_key` and `secret_key` of this source.",
            "NoSuchBucket" => "Check the bucket's name in `buckets`.",
            _ if self.is_about_place() => "The bucket is elsewhere: check `endpoint` and `region`.",
            _ if self.status == 403 => "Give this access key the right to list and read its buckets.",
            _ if self.status == 404 => "Check the bucket's name and `endpoint`.",
            _ if self.status >= 500 => "Look into the server's log; it has trouble of its own.",
            _ => "Look into the server's log for this request.",
        }
    }
}

/// Returns the region that a refusal names as the right one: AWS does in a header, and in the body.
fn region_of(answer: &HttpResponse) -> Option<String> {
    let body = || {
        let text = std::str::from_utf8(answer.body().bytes()?).ok()?;
        Some(text.split_once("<Region>")?.1.split_once("</Region>")?.0)
    };
    let region = answer.headers().get("x-amz-bucket-region").or_else(body)?;
    let is_name = region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (is_name && !region.is_empty()).then(|| region.to_owned())
}

/// What every request of ours does and notices.
#[derive(Debug)]
struct Manners {
    product: Arc<OnceLock<String>>,
    date: Arc<Mutex<Option<String>>>,
}

impl Intercept for Manners {
    fn name(&self) -> &'static str {
        "lifeboat"
    }

    /// A body in memory is sent with its MD5, so that the server refuses what was changed on the way;
    /// locked buckets demand it, and every server since 2006 knows it.
    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        add_md5(context.request_mut());
        Ok(())
    }

    /// A header may hold any byte and come more than once, and the SDK refuses a whole answer for one that is no text
    /// or that comes twice. Several of one name are one list (RFC 9110, 5.3).
    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let mut all: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for (name, value) in context.response().headers().iter_bytes() {
            all.entry(name.to_owned()).or_default().push(value.to_vec());
        }
        for (name, mut values) in all {
            let is_one = values.len() == 1;
            if !name.starts_with("x-amz-meta-") {
                // Said twice by a proxy, a date is no list.
                values.dedup();
            }
            match String::from_utf8(values.join(&b", "[..])) {
                Err(raw) => drop(context.response_mut().headers_mut().insert(name, wrap(raw.as_bytes()))),
                Ok(_) if is_one => {}
                Ok(text) => drop(context.response_mut().headers_mut().insert(name, text)),
            }
        }
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(product) = context.response().headers().get("server") {
            self.product.get_or_init(|| product.to_owned());
        }
        if let Some(date) = context.response().headers().get("date") {
            *self.date.lock().unwrap_or_else(PoisonError::into_inner) = Some(date.to_owned());
        }
        Ok(())
    }
}

/// What stands around the bytes of a header that is no text, written in hex.
const WRAPPING: (&str, &str) = ("=?lifeboat-hex?", "?=");

fn wrap(value: &[u8]) -> String {
    format!("{}{}{}", WRAPPING.0, hex::encode(value), WRAPPING.1)
}

/// Returns the bytes, in hex, of a header's value that was no text.
///
/// What a user wrote in that form would be bytes that are text: such a value is what it looks like.
pub(super) fn unwrap_raw(value: &str) -> Option<&str> {
    let inner = value.strip_prefix(WRAPPING.0)?.strip_suffix(WRAPPING.1)?;
    let bytes = hex::decode(inner).ok()?;
    std::str::from_utf8(&bytes).is_err().then_some(inner)
}

/// Takes the newer checksums from a request and leaves it the MD5 of its body: the SDK adds one to each request that
/// demands a checksum, also where none is to be added, and there are servers that refuse a header unknown to them.
pub(super) fn md5_alone(request: &mut HttpRequest) {
    let names: Vec<String> = request.headers().iter().map(|(name, _)| name.to_owned()).collect();
    let is_newer =
        |name: &&String| name.starts_with("x-amz-checksum-") || *name == "x-amz-sdk-checksum-algorithm";
    for name in names.iter().filter(is_newer) {
        request.headers_mut().remove(name.as_str());
    }
    add_md5(request);
}

/// Adds `Content-MD5` to a request that has a body in memory.
fn add_md5(request: &mut HttpRequest) {
    let digest = request.body().bytes().filter(|bytes| !bytes.is_empty()).map(Md5::digest);
    if let Some(digest) = digest {
        request.headers_mut().insert("content-md5", aws_smithy_types::base64::encode(digest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, code: &str) -> Told {
        Told { status, code: code.to_owned(), message: "no".to_owned(), region: None }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        assert!(told(403, "SignatureDoesNotMatch").hint().contains("secret_key"));
        assert!(told(403, "AccessDenied").hint().contains("right to list"));
        assert!(told(403, "RequestTimeTooSkewed").hint().contains("clocks"));
        assert!(told(503, "SlowDown").hint().contains("concurrency"));
        assert!(told(301, "").hint().contains("endpoint"));
        assert!(told(404, "NoSuchBucket").hint().contains("bucket"));
    }

    #[test]
    fn a_header_that_is_no_text_is_told_from_one_that_looks_like_it() {
        assert_eq!(unwrap_raw(&wrap(b"caf\xe9")), Some("636166e9"));
        for text in [&wrap(b"text"), "=?lifeboat-hex?e?=", "=?UTF-8?Q?caf=E9?=", ""] {
            assert_eq!(unwrap_raw(text), None, "{text}");
        }
    }

    #[test]
    fn a_refusal_is_one_line() {
        assert_eq!(told(403, "AccessDenied").text(), "the server answered 403 AccessDenied: no");
        let head = Told { message: String::new(), ..told(403, "") };
        assert_eq!(head.text(), "the server answered 403");
    }
}
