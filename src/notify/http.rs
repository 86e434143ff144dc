//! Requests to those who take messages.

use reqwest::{Client, Response, StatusCode, redirect::Policy};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{Limits, Refused, hidden::without_secrets};

/// Bytes of an answer that are read; robots answer in a line.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Sends requests to one address, and tells of failures without its path.
pub(super) struct Caller {
    client: Client,
    secrets: Vec<SecretString>,
}

/// What a server answered to a request that it took.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

impl Answer {
    /// Returns the answer as JSON.
    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.body).ok()
    }
}

impl Caller {
    /// Makes a caller; `secrets` are never shown, whatever the server answers.
    pub(super) fn new(limits: Limits, secrets: Vec<SecretString>) -> Result<Self, Refused> {
        // An error means that somebody installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = || {
            let agent = concat!("lifeboat/", env!("CARGO_PKG_VERSION"));
            // A message that follows a redirect becomes a GET without a body, and nobody reads it.
            Client::builder().timeout(limits.request).redirect(Policy::none()).user_agent(agent)
        };
        // A bare container has no root certificates of its own.
        let client =
            client().build().or_else(|_| client().tls_backend_preconfigured(bundled_roots()).build());
        match client {
            Ok(client) => Ok(Self { client, secrets }),
            Err(error) => Err(Refused::for_good(without_secrets(&chain(&error), &secrets))),
        }
    }

    /// Posts a body; anything but success is a refusal.
    pub(super) async fn post(
        &self,
        url: &str,
        body: String,
        headers: &[(&str, String)],
    ) -> Result<Answer, Refused> {
        let mut request = self.client.post(url).body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let response = request.send().await.map_err(|error| self.unreached(url, error))?;
        let status = response.status();
        let answer =
            Answer { status, body: read(response).await.map_err(|error| self.unreached(url, error))? };
        if status.is_success() { Ok(answer) } else { Err(self.refused(&answer)) }
    }

    /// Posts JSON.
    pub(super) async fn post_json(&self, url: &str, body: &Value) -> Result<Answer, Refused> {
        self.post(url, body.to_string(), &[("content-type", "application/json; charset=utf-8".to_owned())])
            .await
    }

    /// Returns what a server said, without what is secret.
    pub(super) fn shown(&self, text: &str) -> String {
        without_secrets(text, &self.secrets)
    }

    fn unreached(&self, url: &str, error: reqwest::Error) -> Refused {
        if error.is_builder() {
            return Refused::for_good("the address is no URL").hint("Its secret must hold https://… alone.");
        }
        let host = host_of(url);
        let why = if error.is_timeout() {
            format!("`{host}` did not answer in time")
        } else {
            format!("`{host}` cannot be reached: {}", chain(&error.without_url()))
        };
        Refused::for_now(self.shown(&why))
            .hint("Can this host reach it? Look at its name server and its firewall.")
    }

    fn refused(&self, answer: &Answer) -> Refused {
        let status = answer.status;
        let said = self.shown(&answer.body);
        let why = if said.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {said}") };
        let is_passing = status.is_server_error()
            || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
        if is_passing {
            return Refused::for_now(why);
        }
        let hint = if status.is_redirection() {
            "Redirects are not followed: a message would be lost on the way. Write the address that it leads to."
        } else {
            "Check the address: is the robot or the hook still there?"
        };
        Refused::for_good(why).hint(hint)
    }
}

/// Returns the host of an address, which is no secret.
pub(super) fn host_of(url: &str) -> String {
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.unwrap_or_else(|| "the address".to_owned())
}

/// Returns the value of a secret, to be put into a request.
pub(super) fn reveal(secret: &SecretString) -> &str {
    secret.expose_secret().trim()
}

/// Reads the beginning of an answer.
async fn read(mut response: Response) -> Result<String, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(more) = response.chunk().await? {
        bytes.extend_from_slice(&more);
        if bytes.len() >= ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns an error with its causes, each once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut lines = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !lines.iter().any(|line| line.contains(&text)) {
            lines.push(text);
        }
        next = cause.source();
    }
    lines.join(": ")
}

fn bundled_roots() -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
}
