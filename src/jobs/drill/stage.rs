//! The stage of a drill: which servers the lab needs, and how each source is reached once they run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};

use super::scene::Cast;
use crate::{
    clock::Ground,
    drill,
    error::{Context, ExitCode, Result},
    lab::{Product, Running, Server},
    mysql,
    names::SourceName,
    policy::{LabKind, SecretRef, SourceConfig, SourceKind, Stack, Tls},
    redis,
    repo::{Snapshot, format::SourceManifest},
    s3,
};

/// Images of servers whose version nobody knows.
const MYSQL: &str = "mysql:8.0";
const REDIS: &str = "redis:7";
const S3: &str = "minio/minio";

/// What a snapshot says of the server that a source was read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// The product and its version, as a person would say it: `MariaDB 10.11.6`.
    pub(super) version: Option<String>,
}

/// Returns what the snapshot says of each source's server.
pub(super) async fn origins(snapshot: &Snapshot) -> Result<BTreeMap<SourceName, Origin>> {
    let mut origins = BTreeMap::new();
    for source in &snapshot.manifest.sources {
        let version = match source.kind.as_str() {
            "redis" => redis_version(snapshot, source).await?,
            _ => source.point.marks.get("version").cloned(),
        };
        origins.insert(source.name.clone(), Origin { version });
    }
    Ok(origins)
}

async fn redis_version(snapshot: &Snapshot, source: &SourceManifest) -> Result<Option<String>> {
    let mut lines = snapshot.entries(source);
    while let Some(record) = lines.next().await? {
        // A dump's trailer tells the server's version.
        if redis::compare::is_dump(record.meta.path.as_str()) {
            let text = |name: &str| record.trailer.get(name).and_then(serde_json::Value::as_str);
            let product = if text("rdb_flavour") == Some("valkey") { "Valkey" } else { "Redis" };
            return Ok(text("redis_version").map(|version| format!("{product} {version}")));
        }
    }
    Ok(None)
}

/// Returns the server that takes a source's place; `None` for files, which need a folder only.
pub(super) fn server(
    stack: &Stack,
    config: &SourceConfig,
    origin: &Origin,
    ground: &Ground,
) -> Option<Server> {
    let (product, usual) = usual(&config.kind, origin)?;
    let name = config.name.to_string();
    Some(Server {
        image: stack.drill.images.get(&name).cloned().unwrap_or(usual),
        arguments: stack.drill.arguments.get(&name).cloned().unwrap_or_default(),
        password: SecretString::from(ground.hex(32)),
        product,
        name,
    })
}

/// Returns the product that a source was read from, and the image of the same release.
fn usual(kind: &SourceKind, origin: &Origin) -> Option<(Product, String)> {
    let version = origin.version.as_deref().unwrap_or_default();
    let release = drill::release(version);
    let of = |image: &str, unknown: &str| match &release {
        Some(release) => format!("{image}:{release}"),
        None => unknown.to_owned(),
    };
    Some(match kind {
        SourceKind::Mysql(_) if version.starts_with("MariaDB") => {
            (Product::Mariadb, of("mariadb", "mariadb:lts"))
        }
        SourceKind::Mysql(_) => (Product::Mysql, of("mysql", MYSQL)),
        SourceKind::Redis(_) if version.starts_with("Valkey") => (Product::Redis, of("valkey/valkey", REDIS)),
        SourceKind::Redis(_) => (Product::Redis, of("redis", REDIS)),
        SourceKind::S3(_) => (Product::S3, S3.to_owned()),
        SourceKind::Files(_) => return None,
    })
}

/// Returns what a person should know of an S3 server that nobody chose: a snapshot does not tell the release of the one
/// that it was read from, so no image can be of the same.
pub(super) fn unmatched(stack: &Stack, config: &SourceConfig) -> Option<String> {
    if !matches!(config.kind, SourceKind::S3(_)) {
        return None;
    }
    let name = &config.name;
    let is_chosen = stack.drill.images.contains_key(name.as_str());
    Some(match stack.drill.lab {
        LabKind::Docker if is_chosen => return None,
        LabKind::Docker => format!(
            "{name}: restored into the newest `{S3}`, whatever release was backed up: set its image in [drill.images]"
        ),
        LabKind::Process => {
            format!("{name}: restored into this host's own S3 server, whatever release was backed up")
        }
    })
}

/// Returns the source as it is reached in the lab, with all that is in the databases and buckets of the snapshot: what
/// was left out of it was not restored, and what the policy leaves out today says nothing of a snapshot of its day. Of
/// what an image makes by itself, the snapshot says nothing. Its password goes into a file
/// in `folder`, which is the drill's own: so the engines read it as they read any other, and it stands in no argument
/// and no environment.
pub(super) fn cast(
    config: &SourceConfig,
    inventory: &[String],
    (server, running): (&Server, &Running),
    folder: &Path,
) -> Result<Cast> {
    let secret = |name: &str, text: &str| -> Result<SecretRef> {
        let path = folder.join(format!("{}-{name}", config.name));
        std::fs::write(&path, text)
            .failed(ExitCode::DrillNotRun, || format!("`{}` cannot be written", path.display()))?;
        Ok(SecretRef::File(path))
    };
    let password = server.password.expose_secret();
    let mut kind = config.kind.clone();
    match &mut kind {
        SourceKind::Mysql(mysql) => {
            (mysql.host, mysql.port, mysql.socket) =
                (running.address.ip().to_string(), running.address.port(), None);
            (mysql.user, mysql.tls) = (server.product.user().to_owned(), Tls::Off);
            (mysql.ca_file, mysql.client_cert, mysql.client_key) = (None, None, None);
            (mysql.databases, mysql.exclude) = mysql::compare::patterns_of(inventory);
            mysql.password = Some(secret("password", password)?);
        }
        SourceKind::Redis(redis) => {
            redis.point_at(format!("redis://{}", running.address));
            (redis.user, redis.ca_file, redis.advertise) = (None, None, None);
            redis.password = Some(secret("password", password)?);
        }
        SourceKind::S3(s3) => {
            s3.endpoint = format!("http://{}", running.address);
            let buckets = inventory.iter().filter(|item| s3::is_bucket(item));
            (s3.buckets, s3.exclude) = (buckets.map(|bucket| bucket_pattern(bucket)).collect(), Vec::new());
            s3.admin = None;
            s3.access_key = secret("access-key", server.product.user())?;
            s3.secret_key = secret("secret-key", password)?;
        }
        SourceKind::Files(_) => {}
    }
    let config = SourceConfig { name: config.name.clone(), kind };
    Ok(Cast { config, running: Some(running.clone()), folder: None })
}

/// Returns a bucket as a pattern: one that is named must be there, and one that is gone is what a drill looks for.
fn bucket_pattern(bucket: &str) -> String {
    format!("{{{}}}", globset::escape(bucket))
}

/// Returns files as they are found below `folder`, where a restore puts them as they were. Their paths are those of the
/// snapshot: the policy may have others since.
pub(super) fn cast_files(config: &SourceConfig, inventory: &[String], folder: &Path) -> Cast {
    let folder = folder.join(config.name.as_str());
    let mut kind = config.kind.clone();
    if let SourceKind::Files(files) = &mut kind {
        let of_item = |item: &String| {
            // A name that is no text stands in the inventory as it is shown.
            let named = files.paths.iter().find(|path| path.to_string_lossy() == item.as_str());
            named.cloned().unwrap_or_else(|| item.into())
        };
        let paths: Vec<PathBuf> = inventory.iter().map(of_item).collect();
        files.paths = paths.iter().map(|path| folder.join(path.strip_prefix("/").unwrap_or(path))).collect();
        files.exclude.clear();
        // What was young enough when it was backed up may be older now.
        files.max_age_days = None;
    }
    Cast { config: SourceConfig { name: config.name.clone(), kind }, running: None, folder: Some(folder) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_image_is_of_the_release_that_was_backed_up() {
        let mysql: SourceKind =
            toml::from_str::<crate::policy::MysqlConfig>("user = \"x\"").map(SourceKind::Mysql).unwrap();
        let image =
            |version: Option<&str>| usual(&mysql, &Origin { version: version.map(str::to_owned) }).unwrap();
        assert_eq!(image(Some("MySQL 8.0.36")), (Product::Mysql, "mysql:8.0".to_owned()));
        assert_eq!(image(Some("MariaDB 10.11.6")), (Product::Mariadb, "mariadb:10.11".to_owned()));
        assert_eq!(image(None), (Product::Mysql, "mysql:8.0".to_owned()));
    }

    /// Returns how a source of the policy is reached in a lab.
    fn copied(kind: SourceKind, inventory: &[&str], folder: &Path) -> SourceKind {
        let inventory: Vec<String> = inventory.iter().map(|&item| item.to_owned()).collect();
        let config = SourceConfig { name: SourceName::new("source").unwrap(), kind };
        let stack = Stack::parse(
            "stack = \"shop\"\n[repository]\nstore = \"fs\"\noptions = { root = \"/repo\" }\n\
             recipients = [\"age1abc\"]\n",
            "p.toml",
            crate::policy::Need::Repository,
        );
        let server = server(&stack.unwrap(), &config, &Origin::default(), &Ground::system()).unwrap();
        let address = ([127, 0, 0, 1], 4000).into();
        let (name, inside, image) = (server.name.clone(), String::new(), String::new());
        let running = Running { name, address, inside, image };
        cast(&config, &inventory, (&server, &running), folder).unwrap().config.kind
    }

    #[test]
    fn of_a_lab_all_is_read_that_the_snapshot_has_whatever_the_policy_leaves_out_today() {
        let dir = tempfile::tempdir().unwrap();
        let mysql = "user = \"x\"\ndatabases = [\"im\"]\nexclude = [\"im.log\", \"accounts\"]";
        let SourceKind::Mysql(mysql) = copied(
            SourceKind::Mysql(toml::from_str(mysql).unwrap()),
            &["im", "im.log", "a%2Eb[1]", "a%2Eb[1].x"],
            dir.path(),
        ) else {
            unreachable!()
        };
        let escaped = ["a.b[[]1[]]", "im"].map(str::to_owned).to_vec();
        assert_eq!((mysql.databases, mysql.exclude), (escaped, vec!["accounts".to_owned()]));
        let all = |items: &[&str]| {
            mysql::compare::patterns_of(&items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(all(&["im", "accounts"]), (vec!["im".to_owned()], Vec::new()));
        // A database of that name is not left out with the accounts.
        assert_eq!(all(&["accounts (database)", "accounts.t"]), (vec!["accounts".to_owned()], Vec::new()));
        let s3 = "endpoint = \"http://x\"\naccess_key = { env = \"A\" }\nsecret_key = { env = \"B\" }\n\
                  buckets = [\"im-*\"]\nexclude = [\"im-tmp/**\"]";
        let SourceKind::S3(s3) =
            copied(SourceKind::S3(toml::from_str(s3).unwrap()), &["im-files"], dir.path())
        else {
            unreachable!()
        };
        assert_eq!((&*s3.buckets, s3.exclude.len()), (["{im-files}".to_owned()].as_slice(), 0));
        let glob = globset::Glob::new(&s3.buckets[0]).unwrap().compile_matcher();
        assert!(glob.is_match("im-files") && !glob.is_match("im-files2"));
    }

    #[test]
    fn an_s3_server_that_nobody_chose_is_told() {
        let stack = |more: &str| {
            let text = format!(
                "stack = \"shop\"\n[repository]\nstore = \"fs\"\noptions = {{ root = \"/repo\" }}\n\
                 recipients = [\"age1abc\"]\n[[source]]\nname = \"minio\"\nkind = \"s3\"\n\
                 endpoint = \"http://x\"\naccess_key = {{ env = \"A\" }}\nsecret_key = {{ env = \"B\" }}\n\
                 [[source]]\nname = \"files\"\nkind = \"files\"\npaths = [\"/data\"]\n{more}"
            );
            Stack::parse(&text, "p.toml", crate::policy::Need::Repository).unwrap()
        };
        let told = |stack: &Stack| -> Vec<Option<String>> {
            stack.sources.iter().map(|config| unmatched(stack, config)).collect()
        };
        let usual = "minio: restored into the newest `minio/minio`, whatever release was backed up: \
                     set its image in [drill.images]";
        assert_eq!(told(&stack("")), [Some(usual.to_owned()), None]);
        let own = "minio: restored into this host's own S3 server, whatever release was backed up";
        assert_eq!(told(&stack("[drill]\nlab = \"process\"\n")), [Some(own.to_owned()), None]);
        assert_eq!(told(&stack("[drill.images]\nminio = \"minio/minio:1\"\n")), [None, None]);
    }
}
