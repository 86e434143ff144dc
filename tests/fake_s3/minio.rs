//! What `MinIO` does beyond S3, as its source has it: listings that tell tags, exports and imports for its
//! administrator. Every request must be signed (Signature Version 4), as there.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex},
};

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The bucket.
pub const BUCKET: &str = "files";
/// Its objects; the last one is archived.
pub const KEYS: [&str; 4] = ["a", "b", "c", "frozen"];
/// The keys of a user and of the administrator, each with its secret.
pub const USER: (&str, &str) = ("user", "user-secret");
pub const ADMIN: (&str, &str) = ("admin", "admin-secret");

/// What it does with a listing that is to tell tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    Tells,
    Ignores,
    Refuses,
    /// The answer is no XML: metadata may have names that XML has not.
    Unreadable,
}

/// What it exports.
#[derive(Clone, Debug)]
pub enum Export {
    Zip(Vec<u8>),
    /// The connection ends in the middle.
    Cut(Vec<u8>),
    /// So many MiB of nothing.
    Endless(usize),
    Unknown,
}

/// A server.
#[derive(Clone)]
pub struct FakeMinio {
    pub port: u16,
    /// The first lines of requests, as they came.
    pub asked: Arc<Mutex<Vec<String>>>,
    /// Tags by key, as a query.
    pub tags: Arc<Mutex<BTreeMap<String, String>>>,
    /// What was imported.
    pub imported: Arc<Mutex<Vec<u8>>>,
    listing: Listing,
    export: Export,
}

/// A request.
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// A status, headers and a body.
pub type Answer = (u16, String, Vec<u8>);

impl FakeMinio {
    pub async fn start(listing: Listing, export: Export) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, tags, imported) = (Arc::default(), Arc::default(), Arc::default());
        let server = Self { port, asked, tags, imported, listing, export };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = serving.clone();
                // A client that hangs up is no concern of the server.
                tokio::spawn(async move { server.serve(client).await.ok() });
            }
        });
        server
    }

    pub fn tag(&self, key: &str, tags: &str) {
        self.tags.lock().unwrap().insert(key.to_owned(), tags.to_owned());
    }

    /// Returns what was asked since the last time.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    async fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        loop {
            while let Some(request) = Request::take(&mut bytes) {
                let (status, headers, body) = self.answer(&request);
                let is_cut = matches!(self.export, Export::Cut(_)) && request.target.contains("/export-");
                let length = body.len() + usize::from(is_cut);
                let head = format!(
                    "HTTP/1.1 {status} As asked\r\nserver: MinIO\r\ncontent-length: {length}\r\n{headers}\r\n"
                );
                client.write_all(head.as_bytes()).await?;
                if request.method != "HEAD" {
                    client.write_all(&body).await?;
                }
                if is_cut {
                    return Ok(());
                }
            }
            if client.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        self.asked.lock().unwrap().push(format!("{} {}", request.method, request.target));
        let Some(account) = request.signer() else {
            return refusal(403, "SignatureDoesNotMatch");
        };
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        if let Some(route) = path.strip_prefix("/minio/admin/v3/") {
            return if account == ADMIN.0 {
                self.admin(request, route)
            } else {
                refusal(403, "AccessDenied")
            };
        }
        let key =
            path.trim_start_matches('/').split_once('/').map(|(_, key)| key).filter(|key| !key.is_empty());
        match key {
            None if query.contains("list-type=2") => self.list(query.contains("metadata=true")),
            None => refusal(404, "NoSuchConfiguration"),
            Some(key) if query.contains("tagging") => (200, String::new(), self.tagging(key).into()),
            Some("frozen") => refusal(403, "InvalidObjectState"),
            Some(key) => {
                let count = self.tags.lock().unwrap().get(key).map_or(0, |tags| tags.split('&').count());
                let mut headers = format!("etag: \"{}\"\r\n", etag(key));
                if count > 0 {
                    write!(headers, "x-amz-tagging-count: {count}\r\n").unwrap();
                }
                (200, headers, key.into())
            }
        }
    }

    fn admin(&self, request: &Request, route: &str) -> Answer {
        let route = route.split('?').next().unwrap();
        match (request.method.as_str(), route, &self.export) {
            ("GET", "export-iam" | "export-bucket-metadata", Export::Zip(zip) | Export::Cut(zip)) => {
                (200, String::new(), zip.clone())
            }
            ("GET", "export-iam", Export::Endless(mib)) => (200, String::new(), vec![0; mib << 20]),
            // The newer of the two imports is not known to this one.
            ("PUT", "import-iam", _) => {
                self.imported.lock().unwrap().clone_from(&request.body);
                (200, String::new(), Vec::new())
            }
            _ => refusal(404, "XMinioAdminNoSuchRoute"),
        }
    }

    fn list(&self, tells: bool) -> Answer {
        if tells && self.listing == Listing::Refuses {
            return refusal(400, "InvalidArgument");
        }
        let mut page =
            "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>".to_owned();
        for key in KEYS {
            write!(
                page,
                "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>\
                 <ETag>\"{}\"</ETag><Size>{}</Size>",
                etag(key),
                key.len()
            )
            .unwrap();
            if tells && self.listing != Listing::Ignores {
                page.push_str(
                    "<UserMetadata><content-type>a/b</content-type><expires>x</expires></UserMetadata>",
                );
                if let Some(tags) = self.tags.lock().unwrap().get(key).filter(|tags| !tags.is_empty()) {
                    write!(page, "<UserTags>{}</UserTags>", tags.replace('&', "&amp;")).unwrap();
                }
                page.push_str("<Internal><K>1</K><M>0</M></Internal>");
            }
            if tells && self.listing == Listing::Unreadable {
                page.push_str("<X-Amz-Meta-a&b>x</X-Amz-Meta-c>");
            }
            page.push_str("</Contents>");
        }
        page.push_str("</ListBucketResult>");
        (200, String::new(), page.into())
    }

    fn tagging(&self, key: &str) -> String {
        let tags = self.tags.lock().unwrap().get(key).cloned().unwrap_or_default();
        let pairs = tags.split('&').filter_map(|pair| pair.split_once('='));
        let tags: Vec<String> =
            pairs.map(|(k, v)| format!("<Tag><Key>{k}</Key><Value>{v}</Value></Tag>")).collect();
        format!("<Tagging><TagSet>{}</TagSet></Tagging>", tags.concat())
    }
}

impl Request {
    /// Takes the first request, if all of it has come.
    pub fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let mut words = lines.next()?.split(' ').map(str::to_owned);
        let (method, target) = (words.next()?, words.next()?);
        let pairs = lines.filter_map(|line| line.split_once(':'));
        let headers: BTreeMap<_, _> =
            pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let body = bytes.get(end + 4..end + 4 + length)?.to_vec();
        bytes.drain(..end + 4 + length);
        Some(Self { method, target, headers, body })
    }

    /// Returns who signed it, if the signature and the hash of the body are right.
    fn signer(&self) -> Option<&'static str> {
        let words = self.headers.get("authorization")?.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let word = |name: &str| words.split(", ").find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let (account, scope) = word("Credential")?.split_once('/')?;
        let (name, secret) = [USER, ADMIN].into_iter().find(|(name, _)| *name == account)?;
        let signed = word("SignedHeaders")?;
        let hash = self.headers.get("x-amz-content-sha256")?;
        if *hash != hex::encode(Sha256::digest(&self.body)) {
            return None;
        }
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let mut query: Vec<String> = query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
        query.sort();
        let headers: Vec<String> =
            signed.split(';').map(|name| format!("{name}:{}\n", self.headers[name])).collect();
        let canonical =
            format!("{}\n{path}\n{}\n{}\n{signed}\n{hash}", self.method, query.join("&"), headers.concat());
        let text = format!(
            "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
            self.headers.get("x-amz-date")?,
            hex::encode(Sha256::digest(canonical))
        );
        let first = format!("AWS4{secret}").into_bytes();
        let key = scope.split('/').fold(first, |key, part| keyed(&key, part));
        (hex::encode(keyed(&key, &text)) == word("Signature")?).then_some(name)
    }
}

fn pair(pair: &str) -> String {
    if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") }
}

fn keyed(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn etag(key: &str) -> String {
    hex::encode(Md5::digest(key))
}

/// Returns a refusal.
pub fn refusal(status: u16, code: &str) -> Answer {
    (status, String::new(), format!("<Error><Code>{code}</Code></Error>").into())
}
