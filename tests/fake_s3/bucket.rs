//! One bucket in memory that is as strict as the strictest server, and answers otherwise when it is told to.
//!
//! It takes no part beyond the ten-thousandth and no request of more than 5 GiB, wants an MD5 with each body (as a
//! locked bucket does), and knows none of the checksums and trailers of newer clients. Of what it is sent it keeps
//! the bytes of small objects alone. Where its encryption is set it does as with a key of a KMS: no `ETag` is an MD5.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex},
};

use md5::{Digest, Md5};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::fake_minio::{Answer, Request, refusal};

/// Bytes that one request may carry.
const PUT_BYTES_MAX: u64 = 5 << 30;
/// Bytes that a part must have, if it is not the last.
const PART_BYTES_MIN: u64 = 5 << 20;
/// Parts that an object may have.
const PARTS_MAX: u64 = 10_000;
/// Bytes of user metadata that S3 takes.
const META_BYTES_MAX: usize = 2048;
/// Bytes of an object up to which they are kept.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// The header of an object that may not be removed.
pub const HELD: &str = "x-amz-object-lock-legal-hold";
/// The header that tells how an object is encrypted.
const ENCRYPTION: &str = "x-amz-server-side-encryption";
/// Bytes that are made up at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// The content of an object.
#[derive(Clone, Debug)]
pub enum Content {
    Bytes(Vec<u8>),
    /// So many zeros, made up as they are sent; of what was sent only the length is kept.
    Long(u64),
}

/// An object.
#[derive(Clone, Debug)]
pub struct Object {
    pub etag: String,
    /// Headers of its answers, as often as they stand here.
    pub headers: Vec<(String, String)>,
    pub content: Content,
    /// The sizes of its parts.
    pub parts: Vec<u64>,
}

/// The answer of a script that lets the request be done, and the connection end without a word.
pub const LOST: (u16, &str, &str) = (0, "", "");

/// What happens instead of an answer to requests whose first line contains a text.
pub struct Script {
    pub line: &'static str,
    /// Status, headers and body.
    pub answer: (u16, &'static str, &'static str),
    /// How often.
    pub times: usize,
}

/// What happens when a request has its answer: a key gets another object.
pub struct Event {
    /// What the first line of the request contains.
    pub line: &'static str,
    /// After how many bytes of the body the connection ends, if it does.
    pub breaks_off: Option<usize>,
    pub key: &'static str,
    pub then: Object,
}

/// A server.
#[derive(Clone)]
pub struct FakeBucket {
    port: u16,
    name: String,
    /// Whether it tells of the parts of an object when it is asked for one.
    tells_parts: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    /// What was set of the bucket, by what a request asks for it.
    settings: BTreeMap<String, Vec<u8>>,
    /// The parts of uploads under way: size and MD5 by number.
    uploads: BTreeMap<String, BTreeMap<u64, (u64, Vec<u8>)>>,
    requests: Vec<(String, BTreeMap<String, String>)>,
    scripts: Vec<Script>,
    /// Whether an answer holds the range that was asked for; else always the whole object.
    knows_ranges: bool,
    /// What happens with an answer, once for each.
    events: Vec<Event>,
}

impl Object {
    /// Makes one of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let etag = hex::encode(Md5::digest(bytes));
        Self { etag, headers: vec![], content: Content::Bytes(bytes.to_vec()), parts: vec![] }
    }
    /// Makes one that was put together of parts.
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let sums: Vec<_> = parts.iter().map(Md5::digest).collect();
        let etag = format!("{}-{}", hex::encode(Md5::digest(sums.concat())), parts.len());
        let sizes = parts.iter().map(|part| part.len() as u64).collect();
        Self { etag, parts: sizes, ..Self::of(&parts.concat()) }
    }
    /// Adds a header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
    pub fn size_bytes(&self) -> u64 {
        match &self.content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Long(size_bytes) => *size_bytes,
        }
    }
}

impl FakeBucket {
    pub async fn start(name: &str, tells_parts: bool, scripts: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { scripts, ..State::default() }));
        let server = Self { port, name: name.to_owned(), tells_parts, state };
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
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
    pub fn put(&self, key: &str, object: Object) {
        self.state.lock().unwrap().objects.insert(key.to_owned(), object);
    }
    pub fn objects(&self) -> BTreeMap<String, Object> {
        self.state.lock().unwrap().objects.clone()
    }
    /// Sends ranges of small objects from now on.
    pub fn know_ranges(&self) {
        self.state.lock().unwrap().knows_ranges = true;
    }
    /// Makes something happen once.
    pub fn expect(&self, event: Event) {
        self.state.lock().unwrap().events.push(event);
    }
    /// Sets something of the bucket.
    pub fn set(&self, name: &str, text: &str) {
        self.state.lock().unwrap().settings.insert(name.to_owned(), text.as_bytes().to_vec());
    }
    /// Returns what is set of the bucket.
    pub fn setting(&self, name: &str) -> Option<String> {
        let state = self.state.lock().unwrap();
        state.settings.get(name).map(|text| String::from_utf8(text.clone()).unwrap())
    }
    /// Returns the names of all that is set.
    pub fn set_names(&self) -> Vec<String> {
        self.state.lock().unwrap().settings.keys().cloned().collect()
    }
    /// Returns the first line and the headers of each request so far.
    pub fn requests(&self) -> Vec<(String, BTreeMap<String, String>)> {
        self.state.lock().unwrap().requests.clone()
    }
    /// Returns how many requests have a first line that begins so and contains a text.
    pub fn count(&self, method: &str, text: &str) -> usize {
        let requests = self.requests();
        requests.iter().filter(|(line, _)| line.starts_with(method) && line.contains(text)).count()
    }

    async fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        // An answer is written in two pieces, and the second would wait for the first to be confirmed.
        client.set_nodelay(true)?;
        let mut bytes = Vec::new();
        loop {
            while let Some(request) = Request::take(&mut bytes) {
                let (status, headers, body) = self.answer(&request);
                if status == LOST.0 {
                    return Ok(());
                }
                let headers = format!("date: {}\r\n{headers}", now());
                let length = if headers.contains("content-length") {
                    String::new()
                } else {
                    format!("content-length: {}\r\n", body.len())
                };
                let head = format!("HTTP/1.1 {status} As asked\r\n{length}{headers}\r\n");
                client.write_all(head.as_bytes()).await?;
                if let Some(after_bytes) = self.happens(&request).and_then(|event| event.breaks_off) {
                    return client.write_all(&body[..after_bytes]).await;
                }
                if request.method != "HEAD" {
                    client.write_all(&body).await?;
                }
                if request.method == "GET" {
                    self.made_up(&mut client, &request.target).await?;
                }
            }
            if client.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Sends the bytes of an object that has none in memory.
    async fn made_up(&self, client: &mut TcpStream, target: &str) -> std::io::Result<()> {
        let Some(mut left) = self.key(target).and_then(|key| match self.object(&key)?.content {
            Content::Long(size_bytes) if !target.contains("tagging") => Some(size_bytes),
            _ => None,
        }) else {
            return Ok(());
        };
        let piece = vec![0; usize::try_from(PIECE_BYTES).unwrap()];
        while left > 0 {
            let now = left.min(PIECE_BYTES);
            client.write_all(&piece[..usize::try_from(now).unwrap()]).await?;
            left -= now;
        }
        Ok(())
    }

    /// Returns what happens with the answer to a request, if anything, and makes it happen.
    fn happens(&self, request: &Request) -> Option<Event> {
        let line = format!("{} {}", request.method, request.target);
        let mut state = self.state.lock().unwrap();
        let at = state.events.iter().position(|event| line.contains(event.line))?;
        let event = state.events.remove(at);
        state.objects.insert(event.key.to_owned(), event.then.clone());
        Some(event)
    }

    fn object(&self, key: &str) -> Option<Object> {
        self.state.lock().unwrap().objects.get(key).cloned()
    }

    /// Returns the key of a path.
    fn key(&self, target: &str) -> Option<String> {
        let path = target.split('?').next()?;
        let key = path.strip_prefix('/')?.strip_prefix(&self.name)?.strip_prefix('/')?;
        (!key.is_empty()).then(|| percent_decode_str(key).decode_utf8().unwrap().into_owned())
    }

    fn answer(&self, request: &Request) -> Answer {
        let line = format!("{} {}", request.method, request.target);
        let scripted = {
            let mut state = self.state.lock().unwrap();
            state.requests.push((line.clone(), request.headers.clone()));
            let script = state.scripts.iter_mut().find(|one| one.times > 0 && line.contains(one.line));
            script.map(|script| {
                script.times -= 1;
                script.answer
            })
        };
        if let Some((status, headers, body)) = scripted {
            if status == LOST.0 {
                self.act(request);
            }
            return (status, headers.to_owned(), body.into());
        }
        self.act(request)
    }

    /// Does what a request asks for.
    fn act(&self, request: &Request) -> Answer {
        if let Some(refused) = unknown(request) {
            return refused;
        }
        let query = request.target.split_once('?').map(|(_, query)| query).unwrap_or_default();
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        match (request.method.as_str(), self.key(&request.target).as_deref()) {
            _ if !request.target.trim_start_matches('/').starts_with(&self.name) => {
                refusal(404, "NoSuchBucket")
            }
            ("GET", None) if value("list-type") == Some("2") => (200, String::new(), self.list().into()),
            ("GET", None) if query.contains("versioning") => {
                (200, String::new(), "<VersioningConfiguration/>".into())
            }
            ("GET", None) => match self.state.lock().unwrap().settings.get(setting(query)) {
                Some(text) => (200, String::new(), text.clone()),
                None => refusal(404, "NoSuchConfiguration"),
            },
            ("PUT", None) if !setting(query).is_empty() => {
                let mut state = self.state.lock().unwrap();
                state.settings.insert(setting(query).to_owned(), request.body.clone());
                (200, String::new(), Vec::new())
            }
            ("DELETE", None) if !setting(query).is_empty() => {
                self.state.lock().unwrap().settings.remove(setting(query));
                (204, String::new(), Vec::new())
            }
            ("GET", Some(_)) if query.contains("tagging") => {
                (200, String::new(), "<Tagging><TagSet></TagSet></Tagging>".into())
            }
            ("GET" | "HEAD", Some(key)) => {
                let part = value("partNumber").map(|part| part.parse().unwrap());
                self.read(request, key, part)
            }
            ("PUT", Some(key)) => self.write(request, key, value("partNumber").zip(value("uploadId"))),
            ("POST", None) if query.contains("delete") => {
                self.remove(&String::from_utf8_lossy(&request.body))
            }
            ("POST", Some(key)) => self.upload(key, value("uploadId")),
            ("DELETE", Some(key)) => {
                self.state.lock().unwrap().objects.remove(key);
                (204, String::new(), Vec::new())
            }
            _ => (200, String::new(), Vec::new()),
        }
    }

    fn list(&self) -> String {
        let mut page =
            "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>".to_owned();
        for (key, object) in &self.state.lock().unwrap().objects {
            let key = utf8_percent_encode(key, NON_ALPHANUMERIC);
            write!(
                page,
                "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>\
                 <ETag>\"{}\"</ETag><Size>{}</Size></Contents>",
                object.etag,
                object.size_bytes()
            )
            .unwrap();
        }
        page + "</ListBucketResult>"
    }

    /// Answers a HEAD or a GET, which may ask for a range.
    fn read(&self, request: &Request, key: &str, part: Option<usize>) -> Answer {
        let is_get = request.method == "GET";
        let Some(object) = self.object(key) else { return refusal(404, "NoSuchKey") };
        let mut headers = format!("etag: \"{}\"\r\n", object.etag);
        let mut size_bytes = object.size_bytes();
        if let Some(part) = part.filter(|_| self.tells_parts) {
            let Some(part_bytes) = object.parts.get(part - 1) else { return refusal(416, "InvalidRange") };
            size_bytes = *part_bytes;
            write!(headers, "x-amz-mp-parts-count: {}\r\n", object.parts.len()).unwrap();
        }
        for (name, value) in &object.headers {
            write!(headers, "{name}: {value}\r\n").unwrap();
        }
        let range =
            request.headers.get("range").filter(|_| is_get && self.state.lock().unwrap().knows_ranges);
        if let (Some(range), Content::Bytes(bytes)) = (range, &object.content) {
            let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            write!(headers, "content-range: bytes {first}-{last}/{size_bytes}\r\n").unwrap();
            return (206, headers, bytes[first..=last].to_vec());
        }
        if !headers.contains("content-length") {
            write!(headers, "content-length: {size_bytes}\r\n").unwrap();
        }
        match object.content {
            Content::Bytes(bytes) if is_get => (200, headers, bytes),
            _ => (200, headers, Vec::new()),
        }
    }

    fn write(&self, request: &Request, key: &str, part: Option<(&str, &str)>) -> Answer {
        let (size_bytes, md5) = (request.body.len() as u64, Md5::digest(&request.body).to_vec());
        let etag = format!("etag: \"{}\"\r\n", hex::encode(&md5));
        let mut state = self.state.lock().unwrap();
        if let Some((number, id)) = part {
            let number = number.parse().unwrap();
            if number > PARTS_MAX {
                return refusal(400, "InvalidArgument");
            }
            state.uploads.get_mut(id).unwrap().insert(number, (size_bytes, md5));
            return (200, etag, Vec::new());
        }
        let stands = state.objects.get(key);
        let is_met = match (request.headers.get("if-none-match"), request.headers.get("if-match")) {
            (Some(_), _) => stands.is_none(),
            (_, Some(wanted)) => stands.is_some_and(|object| format!("\"{}\"", object.etag) == *wanted),
            _ => true,
        };
        if !is_met {
            return refusal(412, "PreconditionFailed");
        }
        let kept = request.headers.iter().filter(|(name, _)| name.starts_with("x-amz-meta-"));
        let mut object = if request.body.len() <= KEPT_BYTES_MAX {
            Object::of(&request.body)
        } else {
            let content = Content::Long(size_bytes);
            Object { etag: hex::encode(md5), headers: vec![], content, parts: vec![] }
        };
        object.headers = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut answer = etag;
        if state.settings.contains_key("encryption") {
            object = object.with(ENCRYPTION, "aws:kms").with("last-modified", &now());
            object.etag = hex::encode(Md5::digest(&object.etag));
            answer = format!("etag: \"{}\"\r\n{ENCRYPTION}: aws:kms\r\n", object.etag);
        }
        state.objects.insert(key.to_owned(), object);
        (200, answer, Vec::new())
    }

    /// Removes the objects that a document names, but those that are held.
    fn remove(&self, document: &str) -> Answer {
        let is_xml = |c: char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
        if !document.chars().all(is_xml) {
            return refusal(400, "MalformedXML");
        }
        let (mut state, mut answer) = (self.state.lock().unwrap(), "<DeleteResult>".to_owned());
        for key in document.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
            let key =
                &key.replace("&lt;", "<").replace("&gt;", ">").replace("&apos;", "'").replace("&amp;", "&");
            if state
                .objects
                .get(key)
                .is_some_and(|object| object.headers.iter().any(|(name, _)| name == HELD))
            {
                write!(answer, "<Error><Key>{key}</Key><Code>AccessDenied</Code></Error>").unwrap();
            } else {
                state.objects.remove(key);
            }
        }
        (200, String::new(), (answer + "</DeleteResult>").into())
    }

    /// Begins an upload, or ends it.
    fn upload(&self, key: &str, id: Option<&str>) -> Answer {
        let mut state = self.state.lock().unwrap();
        let Some(id) = id else {
            let id = format!("u{}", state.uploads.len());
            state.uploads.insert(id.clone(), BTreeMap::new());
            let begun = format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            );
            return (200, String::new(), begun.into());
        };
        let parts: Vec<(u64, Vec<u8>)> = state.uploads.remove(id).unwrap().into_values().collect();
        if parts[..parts.len() - 1].iter().any(|(size_bytes, _)| *size_bytes < PART_BYTES_MIN) {
            return refusal(400, "EntityTooSmall");
        }
        let sums: Vec<u8> = parts.iter().flat_map(|(_, md5)| md5.clone()).collect();
        let etag = format!("{}-{}", hex::encode(Md5::digest(sums)), parts.len());
        let sizes: Vec<u64> = parts.into_iter().map(|(size_bytes, _)| size_bytes).collect();
        let content = Content::Long(sizes.iter().sum());
        state
            .objects
            .insert(key.to_owned(), Object { etag: etag.clone(), headers: vec![], content, parts: sizes });
        let done =
            format!("<CompleteMultipartUploadResult><ETag>\"{etag}\"</ETag></CompleteMultipartUploadResult>");
        (200, String::new(), done.into())
    }
}

/// Returns the time as headers tell it.
fn now() -> String {
    lifeboat::clock::Ground::system().clock.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Returns the setting of a bucket that a query is about.
fn setting(query: &str) -> &str {
    query.split(['=', '&']).next().unwrap_or_default()
}

/// Refuses what an old and strict server does not take.
fn unknown(request: &Request) -> Option<Answer> {
    let has = |name: &str| request.headers.keys().any(|header| header.starts_with(name));
    let is_chunked =
        request.headers.get("content-encoding").is_some_and(|coding| coding.contains("aws-chunked"));
    if has("x-amz-checksum-") || has("x-amz-sdk-checksum") || has("x-amz-trailer") || is_chunked {
        return Some(refusal(501, "NotImplemented"));
    }
    if request.body.len() as u64 > PUT_BYTES_MAX {
        return Some(refusal(400, "EntityTooLarge"));
    }
    let meta =
        request.headers.iter().filter_map(|(name, value)| Some((name.strip_prefix("x-amz-meta-")?, value)));
    if meta.map(|(name, value)| name.len() + value.len()).sum::<usize>() > META_BYTES_MAX {
        return Some(refusal(400, "MetadataTooLarge"));
    }
    let wants_sum = request.method != "POST" || request.target.contains("?delete");
    let is_bare = wants_sum && !request.body.is_empty() && !has("content-md5");
    is_bare.then(|| refusal(400, "InvalidRequest"))
}
