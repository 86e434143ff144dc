//! Buckets that clean up after themselves, and snapshots in memory.

#[path = "../live_support/s3.rs"]
mod s3;

use std::{
    collections::BTreeMap,
    env,
    io::Write,
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    primitives::{ByteStream, DateTime},
    types::{
        BucketLifecycleConfiguration, BucketVersioningStatus, CompletedMultipartUpload, CompletedPart,
        CorsConfiguration, CorsRule, DefaultRetention, ExpirationStatus, LifecycleExpiration, LifecycleRule,
        LifecycleRuleFilter, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockRetentionMode,
        ObjectLockRule, VersioningConfiguration,
    },
};
use bytes::Bytes;
use lifeboat::{
    clock::Ground,
    error::Result,
    event::{NoMonitor, SharedMonitor},
    flow::{
        Attrs, Coming, ComingEntry, EntryMeta, EntrySink, FlowResult, Point, Preflight, Previous,
        PreviousEntry, Problem, Reuse, STREAM_DEPTH, Source, Tally, Target, WriteOptions, channel, settle,
    },
    names::SourceName,
    policy::{S3Config, S3Tags, SecretRef, Versions},
    s3::{S3Source, S3Target},
};
use secrecy::ExposeSecret;

/// Keys that were seen to break something somewhere.
pub const ODD_KEYS: [&str; 30] = [
    "a",
    "a/b",
    "a-b",
    "dir/",
    "dir//",
    "//",
    "/leading",
    "double//slash",
    "./dot",
    "../climb",
    "x/../y",
    "x/./y",
    "new\nline",
    "carriage\rreturn",
    "tab\there",
    "\u{1}",
    "\u{7f}",
    "trailing space ",
    "a+b",
    "a%2Fb",
    "100%",
    "q?x=1",
    "hash#1",
    "\"quotes'",
    "<&>",
    "back\\slash:colon",
    "caf\u{e9}",
    "cafe\u{301}",
    "Case",
    "图片/🚣.png",
];

/// Returns the server's address.
pub fn endpoint() -> String {
    env::var("S3_ENDPOINT").expect("S3_ENDPOINT: source fixtures/stack env")
}

fn secret_file(secret: &str) -> PathBuf {
    static FILES: OnceLock<std::sync::Mutex<BTreeMap<String, tempfile::TempPath>>> = OnceLock::new();
    let mut files = FILES.get_or_init(Default::default).lock().unwrap();
    let path = files.entry(secret.to_owned()).or_insert_with(|| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(secret.as_bytes()).unwrap();
        file.into_temp_path()
    });
    path.to_path_buf()
}

/// Returns the settings of a source of one bucket.
pub fn config(endpoint: &str, bucket: &str) -> S3Config {
    S3Config {
        endpoint: endpoint.to_owned(),
        region: "us-east-1".to_owned(),
        buckets: vec![bucket.to_owned()],
        exclude: vec![],
        versions: Versions::Current,
        access_key: SecretRef::Env("S3_ACCESS_KEY".into()),
        secret_key: SecretRef::Env("S3_SECRET_KEY".into()),
        concurrency: 8,
        tags: S3Tags::Known,
        admin: None,
    }
}

/// Returns the name of all sources here.
pub fn name() -> SourceName {
    SourceName::new("minio").unwrap()
}

/// Returns a source for one bucket.
pub fn source(endpoint: &str, bucket: &str, monitor: SharedMonitor) -> S3Source {
    S3Source::new(name(), config(endpoint, bucket), Ground::system(), monitor)
}

/// Returns a source of the buckets that a pattern takes.
pub fn source_of(pattern: &str) -> S3Source {
    source(&endpoint(), pattern, NoMonitor::shared())
}

/// Makes a body.
pub fn body(bytes: &[u8]) -> ByteStream {
    ByteStream::from(bytes.to_vec())
}

/// Makes a client of the test's own.
fn client() -> Client {
    client_of(&config(&endpoint(), "*"))
}

/// Makes a client of the server that a policy names.
pub fn client_of(server: &S3Config) -> Client {
    let secret = |secret: &SecretRef| secret.resolve().unwrap().expose_secret().to_owned();
    s3::client(&server.endpoint, &secret(&server.access_key), &secret(&server.secret_key))
}

/// A bucket of one test.
pub struct Bucket {
    pub name: String,
    pub client: Client,
}

/// A bucket in the hands of somebody else.
#[derive(Clone)]
pub struct Hand {
    name: String,
    client: Client,
}

impl Hand {
    pub async fn put(&self, key: &str, bytes: &[u8]) {
        let put = self.client.put_object().bucket(&self.name).key(key).body(body(bytes));
        put.send().await.unwrap_or_else(|error| panic!("put {key:?}: {error:?}"));
    }
    pub async fn delete(&self, key: &str) {
        self.client.delete_object().bucket(&self.name).key(key).send().await.unwrap();
    }
    pub async fn suspend_versions(&self) {
        self.set_versioning(BucketVersioningStatus::Suspended).await;
    }
    async fn set_versioning(&self, status: BucketVersioningStatus) {
        let versioning = VersioningConfiguration::builder().status(status).build();
        let put = self.client.put_bucket_versioning().bucket(&self.name).versioning_configuration(versioning);
        put.send().await.unwrap();
    }
}

impl Bucket {
    /// Makes a name that no other test and no earlier run has; the bucket is not there.
    pub fn absent(what: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lbt-s3-{what}-{}-{count}-{}", std::process::id(), Ground::system().hex(3));
        Self { name, client: client() }
    }
    /// Makes an empty bucket.
    pub async fn new(what: &str) -> Self {
        let bucket = Self::absent(what);
        bucket.client.create_bucket().bucket(&bucket.name).send().await.unwrap();
        bucket
    }
    pub fn hand(&self) -> Hand {
        Hand { name: self.name.clone(), client: self.client.clone() }
    }
    pub fn source(&self) -> S3Source {
        self.source_at(&endpoint())
    }
    pub fn source_at(&self, endpoint: &str) -> S3Source {
        source(endpoint, &self.name, NoMonitor::shared())
    }
    pub fn source_with_secret(&self, secret: &str) -> S3Source {
        let mut config = config(&endpoint(), &self.name);
        config.secret_key = SecretRef::File(secret_file(secret));
        S3Source::new(name(), config, Ground::system(), NoMonitor::shared())
    }
    pub fn source_asking(&self, tags: S3Tags) -> S3Source {
        let config = S3Config { tags, ..config(&endpoint(), &self.name) };
        S3Source::new(name(), config, Ground::system(), NoMonitor::shared())
    }
    pub fn source_without(&self, exclude: &str) -> S3Source {
        let config = S3Config { exclude: vec![exclude.to_owned()], ..config(&endpoint(), &self.name) };
        S3Source::new(name(), config, Ground::system(), NoMonitor::shared())
    }
    pub fn target(&self) -> S3Target {
        self.target_at(&endpoint())
    }
    pub fn target_at(&self, endpoint: &str) -> S3Target {
        S3Target::new(name(), config(endpoint, &self.name), NoMonitor::shared())
    }
    pub fn target_without(&self, exclude: &str) -> S3Target {
        let config = S3Config { exclude: vec![exclude.to_owned()], ..config(&endpoint(), &self.name) };
        S3Target::new(name(), config, NoMonitor::shared())
    }
    pub async fn put(&self, key: &str, bytes: &[u8]) {
        self.hand().put(key, bytes).await;
    }
    /// Puts an object in parts: its `ETag` is no MD5 of its bytes.
    pub async fn put_in_parts(&self, key: &str, parts: &[&[u8]]) {
        let (client, bucket) = (&self.client, &self.name);
        let upload = client.create_multipart_upload().bucket(bucket).key(key).send().await.unwrap();
        let id = upload.upload_id().unwrap();
        let mut all = CompletedMultipartUpload::builder();
        for (number, bytes) in (1..).zip(parts) {
            let part = client.upload_part().bucket(bucket).key(key).upload_id(id).part_number(number);
            let part = part.body(body(bytes)).send().await.unwrap();
            let etag = part.e_tag().map(str::to_owned);
            all = all.parts(CompletedPart::builder().part_number(number).set_e_tag(etag).build());
        }
        let end = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(id);
        end.multipart_upload(all.build()).send().await.unwrap();
    }
    pub async fn delete(&self, key: &str) {
        self.hand().delete(key).await;
    }
    pub async fn get(&self, key: &str) -> Vec<u8> {
        let answer = self.client.get_object().bucket(&self.name).key(key).send().await.unwrap();
        answer.body.collect().await.unwrap().to_vec()
    }
    pub async fn keys(&self) -> Vec<String> {
        let page = self.client.list_objects_v2().bucket(&self.name).send().await.unwrap();
        page.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect()
    }
    pub async fn all(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        for key in self.keys().await {
            let bytes = self.get(&key).await;
            all.insert(key, bytes);
        }
        all
    }
    pub async fn keep_versions(&self) {
        self.hand().set_versioning(BucketVersioningStatus::Enabled).await;
    }
    pub async fn suspend_versions(&self) {
        self.hand().suspend_versions().await;
    }
    pub async fn expire_after_days(&self, days: i32) {
        self.expire(LifecycleExpiration::builder().days(days).build()).await;
    }
    pub async fn expire_at(&self, seconds: i64) {
        self.expire(LifecycleExpiration::builder().date(DateTime::from_secs(seconds)).build()).await;
    }
    async fn expire(&self, expiration: LifecycleExpiration) {
        let rule = LifecycleRule::builder()
            .id("old")
            .status(ExpirationStatus::Enabled)
            .filter(LifecycleRuleFilter::builder().prefix("logs/").build())
            .expiration(expiration)
            .build()
            .unwrap();
        let rules = BucketLifecycleConfiguration::builder().rules(rule).build().unwrap();
        let put = self.client.put_bucket_lifecycle_configuration().bucket(&self.name);
        put.lifecycle_configuration(rules).send().await.unwrap();
    }
    /// Returns whether the bucket has rules by which objects expire.
    pub async fn expires(&self) -> bool {
        self.client.get_bucket_lifecycle_configuration().bucket(&self.name).send().await.is_ok()
    }
    pub async fn allow_origin(&self, origin: &str) {
        let rule = CorsRule::builder().allowed_methods("GET").allowed_origins(origin).build().unwrap();
        let rules = CorsConfiguration::builder().cors_rules(rule).build().unwrap();
        self.client.put_bucket_cors().bucket(&self.name).cors_configuration(rules).send().await.unwrap();
    }
    pub async fn create_with_lock(&self, days: i32) {
        let create = self.client.create_bucket().bucket(&self.name).object_lock_enabled_for_bucket(true);
        create.send().await.unwrap();
        let retention =
            DefaultRetention::builder().mode(ObjectLockRetentionMode::Governance).days(days).build();
        let lock = ObjectLockConfiguration::builder()
            .object_lock_enabled(ObjectLockEnabled::Enabled)
            .rule(ObjectLockRule::builder().default_retention(retention).build())
            .build();
        let put = self.client.put_object_lock_configuration().bucket(&self.name);
        put.object_lock_configuration(lock).send().await.unwrap();
    }
}

impl Drop for Bucket {
    /// Removes the bucket, also after a failed assertion: the server is shared.
    fn drop(&mut self) {
        let bucket = self.name.clone();
        let sweep = async move {
            // Connections of the test's client wait for the test's runtime, which waits for us.
            let client = client();
            while let Ok(page) = client.list_object_versions().bucket(&bucket).send().await {
                let versions = page.versions().iter().map(|v| (v.key(), v.version_id()));
                let markers = page.delete_markers().iter().map(|m| (m.key(), m.version_id()));
                let all: Vec<_> = versions.chain(markers).collect();
                for (key, version) in &all {
                    let delete = client.delete_object().bucket(&bucket).set_key(key.map(str::to_owned));
                    let delete = delete.set_version_id(version.map(str::to_owned));
                    delete.bypass_governance_retention(true).send().await.ok();
                }
                if all.is_empty() || !page.is_truncated().unwrap_or(false) {
                    break;
                }
            }
            client.delete_bucket().bucket(&bucket).send().await.ok();
        };
        // The test's own runtime cannot be waited on from here.
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(sweep);
        });
        thread.join().ok();
    }
}

/// An entry in memory.
#[derive(Clone, Debug)]
pub struct Kept {
    pub meta: EntryMeta,
    pub trailer: Attrs,
    pub bytes: Vec<u8>,
    pub reused: bool,
}

/// All that a source sent, in its order.
#[derive(Debug)]
pub struct Snapshot {
    pub inventory: Vec<String>,
    pub order: Vec<String>,
    pub entries: BTreeMap<String, Kept>,
    pub problems: Vec<Problem>,
    pub point: Point,
}

impl Snapshot {
    pub fn object(&self, bucket: &str, key: &str) -> &Kept {
        let found = self
            .entries
            .values()
            .find(|kept| kept.meta.text("bucket") == Some(bucket) && kept.meta.text("key") == Some(key));
        found.unwrap_or_else(|| panic!("no object {bucket}/{key}"))
    }
    pub fn reused(&self) -> usize {
        self.entries.values().filter(|kept| kept.reused).count()
    }
}

/// Reads a source that must succeed.
pub async fn read(source: &S3Source) -> Snapshot {
    take(source.clone(), None).await.unwrap()
}

/// Reads a source beside what was read before.
pub async fn read_after(source: &S3Source, previous: Box<dyn Previous>) -> Snapshot {
    take(source.clone(), Some(previous)).await.unwrap()
}

/// Reads a source that may fail.
pub async fn try_read(source: S3Source) -> FlowResult<Snapshot> {
    take(source, None).await
}

/// Reads a source that may fail beside what was read before.
pub async fn try_read_after(source: S3Source, previous: Box<dyn Previous>) -> FlowResult<Snapshot> {
    take(source, Some(previous)).await
}

async fn take(source: S3Source, previous: Option<Box<dyn Previous>>) -> FlowResult<Snapshot> {
    let (sink, mut stream) = channel(STREAM_DEPTH);
    let receive = async {
        let (mut order, mut readers, mut entries) =
            (Vec::new(), tokio::task::JoinSet::new(), BTreeMap::new());
        while let Some(mut entry) = stream.next().await? {
            order.push(entry.meta.path.to_string());
            readers.spawn(async move {
                let mut bytes = Vec::new();
                let reused = entry.body.reused().cloned();
                match &reused {
                    Some(Reuse(kept)) => bytes.extend_from_slice(kept),
                    None => {
                        while let Some(some) = entry.body.next().await? {
                            bytes.extend_from_slice(&some);
                        }
                    }
                }
                let trailer = entry.body.trailer().clone();
                FlowResult::Ok(Kept { meta: entry.meta, trailer, bytes, reused: reused.is_some() })
            });
        }
        while let Some(kept) = readers.join_next().await {
            let kept = kept.unwrap()?;
            entries.insert(kept.meta.path.to_string(), kept);
        }
        FlowResult::Ok((order, entries))
    };
    let (sent, received) = tokio::join!(Box::new(source).read(sink, previous), receive);
    let ((), (order, entries)) = settle(sent, received)?;
    let (inventory, problems) = (stream.inventory().to_vec(), stream.problems().to_vec());
    Ok(Snapshot { inventory, order, entries, problems, point: stream.point().unwrap().clone() })
}

struct Remembered(std::vec::IntoIter<PreviousEntry>);

#[async_trait]
impl Previous for Remembered {
    async fn next(&mut self) -> Result<Option<PreviousEntry>> {
        Ok(self.0.next())
    }
}

/// Returns a snapshot as the next run sees it; the token to reuse an entry is its bytes.
pub fn remembered(all: &Snapshot) -> Box<dyn Previous> {
    let entry = |path: &String| {
        let kept = &all.entries[path];
        PreviousEntry {
            meta: kept.meta.clone(),
            trailer: kept.trailer.clone(),
            size_bytes: kept.bytes.len() as u64,
            reuse: Reuse(Bytes::from(kept.bytes.clone())),
        }
    };
    let entries: Vec<_> = all.order.iter().map(entry).collect();
    Box::new(Remembered(entries.into_iter()))
}

/// Writes a whole snapshot into a target.
pub async fn replay(all: &Snapshot, target: Box<dyn Target>, replace: bool) -> FlowResult<Tally> {
    write(all, target, WriteOptions { replace, ..WriteOptions::default() }).await
}

/// Writes what is wanted of a snapshot into a target.
pub async fn write(all: &Snapshot, target: Box<dyn Target>, options: WriteOptions) -> FlowResult<Tally> {
    let (sink, stream) = channel(STREAM_DEPTH);
    let only = options.only.clone();
    let send = async {
        sink.announce(all.inventory.clone()).await?;
        for problem in &all.problems {
            sink.report(problem.clone()).await?;
        }
        for path in &all.order {
            let kept = &all.entries[path];
            if only.wants(&kept.meta) {
                let mut body = sink.begin_knowing(kept.meta.clone(), kept.trailer.clone()).await?;
                body.write(Bytes::from(kept.bytes.clone())).await?;
                body.finish_with(kept.trailer.clone()).await?;
            }
        }
        for item in &all.inventory {
            sink.complete(item);
        }
        sink.finish(all.point.clone()).await
    };
    let (up, written) = tokio::join!(send, target.write(options, stream));
    settle(up, written).map(|((), tally)| tally)
}

struct Looked<'a> {
    entries: std::vec::IntoIter<ComingEntry>,
    problems: &'a [Problem],
}

#[async_trait]
impl Coming for Looked<'_> {
    async fn next(&mut self) -> Result<Option<ComingEntry>> {
        Ok(self.entries.next())
    }
    fn problems(&self) -> &[Problem] {
        self.problems
    }
}

/// Lets a target look at what is wanted of a snapshot, as a plan does.
pub async fn look(all: &Snapshot, target: &mut dyn Target, options: &WriteOptions) -> Result<Preflight> {
    let wanted =
        all.order.iter().map(|path| &all.entries[path]).filter(|kept| options.only.wants(&kept.meta));
    let coming = wanted.map(|kept| ComingEntry {
        meta: kept.meta.clone(),
        trailer: kept.trailer.clone(),
        size_bytes: kept.bytes.len() as u64,
        definition: None,
    });
    let entries = coming.collect::<Vec<_>>().into_iter();
    target.preflight(options, &mut Looked { entries, problems: &all.problems }).await
}

/// A source whose bucket is called by another name, so that a copy can be compared with its original.
pub struct Renamed {
    pub inner: S3Source,
    pub from: String,
    pub to: String,
}

#[async_trait]
impl Source for Renamed {
    fn name(&self) -> &SourceName {
        self.inner.name()
    }
    async fn read(self: Box<Self>, sink: EntrySink, _: Option<Box<dyn Previous>>) -> FlowResult<()> {
        let all = take(self.inner.clone(), None).await?;
        sink.announce(vec![self.to.clone()]).await?;
        for path in &all.order {
            let Kept { meta, trailer, bytes, .. } = all.entries[path].clone();
            let text = serde_json::to_string(&meta).unwrap().replace(&self.from, &self.to);
            let mut body = sink.begin(serde_json::from_str(&text).unwrap()).await?;
            body.write(bytes.into()).await?;
            body.finish_with(trailer).await?;
        }
        sink.complete(&self.to);
        sink.finish(all.point).await
    }
}

/// Returns whether a request's first line asks for the bytes of an object.
pub fn reads_an_object(line: &str) -> bool {
    let target = line.strip_prefix("GET /").unwrap_or_default();
    let key = target.split_once('/').map(|(_, rest)| rest).unwrap_or_default();
    !key.is_empty() && !key.starts_with(['?', ' ']) && !key.contains("?tagging")
}

/// Returns whether a request's first line writes an object.
pub fn writes_an_object(line: &str) -> bool {
    // Each bucket is tried first whether it keeps to conditions.
    let is_trial = line.contains("/.lifeboat-probe");
    reads_an_object(&line.replacen("PUT ", "GET ", 1)) && line.starts_with("PUT ") && !is_trial
}
