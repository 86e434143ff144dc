//! The suite over a service in memory and over a real one, and what happens when answers get lost.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::store::conformance::{self, Quirks};

fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn an_answer_is_told_without_the_request() {
    let error = opendal::Error::new(ErrorKind::PermissionDenied, "AccessDenied:\n  no")
        .with_context("uri", "https://example.com")
        .with_operation("stat");
    let told = sort("refs/a", &error);
    assert!(matches!(told, StoreError::Denied { .. }));
    assert_eq!(told.failure().chain(), ["the store refuses access to `refs/a`", "AccessDenied: no"]);
}

#[tokio::test]
async fn the_suite_over_a_service_in_memory() {
    let operator = Operator::new(opendal::services::Memory::default()).unwrap();
    let store = RemoteStore::over(operator, "memory", "memory".to_owned());
    let create_only_is_atomic = store.guarantees().create_only_is_atomic;
    conformance::run(&store, Quirks { create_only_is_atomic, tells_time: false }).await;
}

/// Reads one request: its head in small letters, and its body.
async fn request(stream: &mut BufReader<TcpStream>) -> (String, Vec<u8>) {
    let (mut head, mut line) = (String::new(), String::new());
    while stream.read_line(&mut line).await.unwrap() > 2 {
        head.push_str(&std::mem::take(&mut line).to_lowercase());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |n| n.trim().parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    (head, body)
}

/// What a tiny S3 does with the next put that it has stored.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Answers,
    LosesTheAnswer,
    KeepsHalf,
    IsFull,
}

/// Just enough of S3 for one object at a time: create-only PUT, HEAD and GET.
#[derive(Clone)]
struct TinyS3 {
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    mood: Arc<Mutex<Mood>>,
}

impl TinyS3 {
    async fn start(mood: Mood) -> (Self, RemoteStore) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { objects: Arc::default(), mood: Arc::new(Mutex::new(mood)) };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        let options = options(&[
            ("bucket", "b"),
            ("endpoint", &endpoint),
            ("region", "r"),
            ("access_key_id", "a"),
            ("secret_access_key", "s"),
        ]);
        (server, RemoteStore::new("s3", &options).unwrap())
    }

    /// Answers one request and closes the connection.
    async fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        let (head, body) = request(&mut stream).await;
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let mut words = head.split(' ');
        let (verb, path) = (words.next().unwrap(), words.next().unwrap());
        let answer = match verb {
            "put" => self.store(path, body, header("if-none-match").is_some()),
            _ => {
                self.objects.lock().unwrap().get(path).map_or(Some((404, vec![])), |b| Some((200, b.clone())))
            }
        };
        if let Some((status, body)) = answer {
            let head =
                format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            if verb == "get" || status >= 400 && verb != "head" {
                stream.write_all(&body).await.unwrap();
            }
        }
    }

    fn store(&self, path: &str, mut body: Vec<u8>, create_only: bool) -> Option<(u16, Vec<u8>)> {
        let mut objects = self.objects.lock().unwrap();
        assert!(create_only, "a put without If-None-Match");
        if objects.contains_key(path) {
            return Some((412, b"<Error><Code>PreconditionFailed</Code></Error>".to_vec()));
        }
        let mood = std::mem::replace(&mut *self.mood.lock().unwrap(), Mood::Answers);
        match mood {
            Mood::IsFull => return Some((507, b"<Error><Code>XMinioStorageFull</Code></Error>".to_vec())),
            Mood::KeepsHalf => body.truncate(body.len() / 2),
            Mood::Answers | Mood::LosesTheAnswer => {}
        }
        objects.insert(path.to_owned(), body);
        (mood != Mood::LosesTheAnswer).then(|| (200, vec![]))
    }
}

#[tokio::test]
async fn our_own_object_behind_a_lost_answer_is_no_conflict() {
    let (server, store) = TinyS3::start(Mood::LosesTheAnswer).await;
    let key = Key::new("refs/a").unwrap();
    store.put(&key, "ours".into()).await.unwrap();
    assert_eq!(server.objects.lock().unwrap().len(), 1);
    assert!(store.put(&key, "ours".into()).await.unwrap_err().is_exists(), "no answer was lost this time");
}

#[tokio::test]
async fn half_an_object_is_not_taken_for_a_whole_one() {
    let (_server, store) = TinyS3::start(Mood::KeepsHalf).await;
    let error = store.put(&Key::new("packs/a").unwrap(), "12345678".into()).await.unwrap_err();
    let told = "after a put of 8 bytes the object has 4 bytes";
    assert_eq!(error.failure().chain(), ["the store failed at `packs/a`", told]);
}

#[tokio::test]
async fn a_put_at_a_pace_arrives_whole_and_every_byte_of_it_waited_for_its_turn() {
    let (server, store) = TinyS3::start(Mood::Answers).await;
    let (began, pace) = (tokio::time::Instant::now(), Pace::new(64 << 20));
    let store = store.paced(pace.clone()).unwrap();
    let body = Bytes::from((0..4_u32 << 20).map(|n| n.to_le_bytes()[1]).collect::<Vec<u8>>());
    let key = Key::new("packs/a").unwrap();
    store.put(&key, body.clone()).await.unwrap();
    assert_eq!(server.objects.lock().unwrap()["/b/packs/a"], body);
    assert_eq!(store.get(&key, None).await.unwrap(), body);
    // Whoever comes next has its turn after all that was sent: a sixteenth of a second for these bytes.
    assert!(pace.reserve(0, began) >= began + Duration::from_micros(62_400));
    assert!(store.put(&key, "other".into()).await.unwrap_err().is_exists(), "what is refused is told");
}

#[tokio::test]
async fn a_lost_answer_and_a_full_service_are_told_at_a_pace_too() {
    let (server, store) = TinyS3::start(Mood::LosesTheAnswer).await;
    let store = store.paced(Pace::new(u64::MAX)).unwrap();
    store.put(&Key::new("refs/a").unwrap(), "ours".into()).await.unwrap();
    *server.mood.lock().unwrap() = Mood::IsFull;
    let error = store.put(&Key::new("refs/b").unwrap(), "12345678".into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
}

#[tokio::test]
async fn a_full_service_is_told_as_such() {
    let (_server, store) = TinyS3::start(Mood::IsFull).await;
    let error = store.put(&Key::new("packs/a").unwrap(), "12345678".into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
}

/// Serves just enough of WebDAV for one object, and answers the first `refusals` puts with 405.
async fn tiny_webdav(mut refusals: u32) -> RemoteStore {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut object = None;
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let (head, body) = request(&mut stream).await;
            let (status, text) = match (head.split(' ').next().unwrap(), &object) {
                ("put", _) if refusals > 0 => {
                    refusals -= 1;
                    (405, "Method Not Allowed".to_owned())
                }
                ("put", _) => {
                    object = Some(body.len());
                    (201, String::new())
                }
                ("propfind", Some(len)) if head.starts_with("propfind /x ") => (
                    207,
                    format!(
                        "<D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>/x</D:href><D:propstat><D:prop>\
                         <D:resourcetype/><D:getcontentlength>{len}</D:getcontentlength>\
                         <D:getlastmodified>Mon, 23 Nov 2026 00:00:00 GMT</D:getlastmodified></D:prop>\
                         <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>"
                    ),
                ),
                ("mkcol", _) => (201, String::new()),
                _ => (404, String::new()),
            };
            let len = text.len();
            let answer =
                format!("HTTP/1.1 {status} x\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{text}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    RemoteStore::new("webdav", &options(&[("endpoint", &endpoint)])).unwrap()
}

#[tokio::test]
async fn a_webdav_server_that_did_not_take_the_body_is_asked_again() {
    let store = tiny_webdav(1).await;
    let key = Key::new("x").unwrap();
    store.put(&key, "12345678".into()).await.unwrap();
    assert_eq!(store.size(&key).await.unwrap(), Some(8));
    assert!(store.put(&key, "other".into()).await.unwrap_err().is_exists());
}

/// Settings of the S3 server that `fixtures/stack` runs, with a bucket of our own that is made here.
async fn live_options() -> BTreeMap<String, String> {
    use aws_sdk_s3::{
        Client,
        config::{BehaviorVersion, Credentials, Region},
    };
    let var = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let (endpoint, id, secret) = (var("S3_ENDPOINT"), var("S3_ACCESS_KEY"), var("S3_SECRET_KEY"));
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(
            aws_smithy_http_client::Builder::new()
                .tls_provider(aws_smithy_http_client::tls::Provider::Rustls(
                    aws_smithy_http_client::tls::rustls_provider::CryptoMode::Ring,
                ))
                .build_https(),
        )
        .region(Region::new("us-east-1"))
        .endpoint_url(&endpoint)
        .force_path_style(true)
        .credentials_provider(Credentials::new(&id, &secret, None, None, "test"))
        .build();
    let bucket = "lifeboat-store-suite";
    let made = Client::from_conf(config).create_bucket().bucket(bucket).send().await;
    if let Err(error) = made {
        let error = error.into_service_error();
        assert!(error.is_bucket_already_owned_by_you(), "{error:?}");
    }
    options(&[
        ("bucket", bucket),
        ("endpoint", &endpoint),
        ("region", "us-east-1"),
        ("access_key_id", &id),
        ("secret_access_key", &secret),
        ("root", &format!("run-{}", std::process::id())),
    ])
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn live_the_suite_over_a_real_s3() {
    let store = RemoteStore::new("s3", &live_options().await).unwrap();
    conformance::run(&store, Quirks { create_only_is_atomic: true, tells_time: true }).await;
}

#[tokio::test]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn live_wrong_keys_and_missing_buckets_are_told_apart() {
    let options = live_options().await;
    let changed = |name: &str, value: &str| {
        let mut options = options.clone();
        options.insert(name.to_owned(), value.to_owned());
        RemoteStore::new("s3", &options).unwrap()
    };
    let key = Key::new("x").unwrap();
    let denied = changed("secret_access_key", "wrong").get(&key, None).await.unwrap_err();
    assert!(matches!(denied, StoreError::Denied { .. }), "{denied:?}");
    let nowhere = changed("bucket", "lifeboat-no-such-bucket");
    assert!(nowhere.list("refs/").await.is_err());
    assert!(nowhere.put(&key, "x".into()).await.is_err());
    assert!(nowhere.get(&key, None).await.is_err());
}
