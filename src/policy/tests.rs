//! Policies that load, and the words for those that do not.

mod offsites;
mod people;
mod sources;
mod topology;

use std::path::Path;

use super::*;
use crate::{
    error::{ExitCode, Failure},
    retention::{Rules, Within},
};

/// The least that loads.
pub(crate) const SMALL: &str = r#"
stack = "shop"
[repository]
store = "fs"
options = { root = "/backups" }
recipients = ["age1abc"]
[[source]]
name = "db"
kind = "mysql"
user = "lifeboat"
"#;

/// The example of the design, one key per line where TOML wants that.
const WHOLE: &str = r#"
stack = "im-suite"
timezone = "Asia/Shanghai"
[repository]
store = "fs"
options = { root = "/var/backups/lifeboat" }
recipients = ["age1abc", "age1def"]
[[source]]
name = "config"
kind = "files"
paths = ["/opt/im-suite/.env", "/opt/im-suite/config"]
[[source]]
name = "minio"
kind = "s3"
endpoint = "http://127.0.0.1:9000"
buckets = ["*"]
access_key = { env = "ID" }
secret_key = { credential = "minio" }
[[source]]
name = "redis"
kind = "redis"
url = "redis://127.0.0.1:6379"
password = { env = "REDIS_PASSWORD" }
[[source]]
name = "mysql"
kind = "mysql"
host = "127.0.0.1"
port = 3306
user = "lifeboat"
password = { file = "/run/secrets/mysql" }
[[offsite]]
name = "oss"
store = "oss"
options = { bucket = "im-suite-backups", endpoint = "https://oss.example.com", access_key_secret = { env = "OSS" } }
after_backup = true
[schedule]
backup = "0 2 * * *"
sync = "0 4 * * *"
prune = "30 4 * * *"
verify = "0 5 * * 0"
drill = "0 3 1 * *"
[retention]
daily = 7
weekly = 4
monthly = 3
min_keep = 3
[drill]
lab = "docker"
[[drill.reference]]
source = "mysql"
query = "SELECT storage_path, file_hash FROM im.files WHERE deleted_at IS NULL"
in = "minio"
bucket = "im-files"
[[notify]]
kind = "dingtalk"
webhook = { env = "DINGTALK_WEBHOOK" }
secret = { env = "DINGTALK_SECRET" }
"#;

fn parse(text: &str) -> Result<Stack, PolicyProblems> {
    Stack::parse(text, "p.toml", Need::Sources)
}

/// Returns the problems as a person sees them, hints and all.
fn told(text: &str) -> String {
    let failure = Failure::from(parse(text).expect_err("the policy is wrong"));
    assert_eq!(failure.exit(), ExitCode::Usage);
    let hints = failure.hints().iter().map(|hint| format!("hint: {hint}"));
    failure.chain().into_iter().chain(hints).collect::<Vec<_>>().join("\n")
}

/// Returns the problems of [`SMALL`] with more at its end, which belongs to its source.
fn told_with(more: &str) -> String {
    told(&format!("{SMALL}{more}"))
}

#[test]
fn the_least_policy_gets_its_defaults() {
    let stack = parse(SMALL).unwrap();
    assert_eq!(stack.timezone, chrono_tz::UTC);
    assert_eq!(stack.retention.min_keep, 3);
    assert_eq!(stack.repository.settings.compression_level, 3);
    assert_eq!(stack.repository.settings.index_key(), Path::new("/etc/lifeboat/keys/index.key"));
    assert!(stack.schedule.jobs().next().is_none(), "nothing happens that nobody asked for");
    let SourceKind::Mysql(mysql) = &stack.sources[0].kind else { panic!("{:?}", stack.sources) };
    assert_eq!((mysql.host.as_str(), mysql.port), ("127.0.0.1", 3306));
}

#[test]
fn sources_are_read_rows_first_whatever_the_order_of_the_file() {
    let stack = parse(WHOLE).unwrap();
    let order: Vec<&str> = stack.sources_in_order().iter().map(|source| source.name.as_str()).collect();
    assert_eq!(order, ["mysql", "redis", "minio", "config"]);
}

#[test]
fn every_secret_is_found_and_none_is_shown() {
    let stack = parse(WHOLE).unwrap();
    let secrets: Vec<String> =
        stack.secrets().iter().map(|(what, secret)| format!("{what}: {secret}")).collect();
    insta::assert_snapshot!(secrets.join("\n"), @"
    source minio access_key: $ID
    source minio secret_key: credential minio
    source redis password: $REDIS_PASSWORD
    source mysql password: file /run/secrets/mysql
    offsite oss option access_key_secret: $OSS
    notify dingtalk webhook: $DINGTALK_WEBHOOK
    notify dingtalk secret: $DINGTALK_SECRET
    ");
}

#[test]
fn the_effective_policy_says_the_same_again() {
    for text in [SMALL, WHOLE] {
        let stack = parse(text).unwrap();
        let effective = stack.effective().unwrap();
        let again =
            parse(&effective).unwrap_or_else(|problems| panic!("{:#?}\n{effective}", problems.lines()));
        assert_eq!(stack, again, "{effective}");
    }
}

/// Returns what is effective of [`SMALL`], and of it the tables of drills.
fn effective() -> (String, String) {
    let text = parse(SMALL).unwrap().effective().unwrap();
    let (above, below) = text.split_once("[drill]\n").unwrap();
    let (drill, below) = below.split_once("[anomaly]\n").unwrap();
    (format!("{above}[anomaly]\n{below}"), format!("[drill]\n{drill}"))
}

#[test]
fn the_effective_policy_shows_the_defaults() {
    let (text, _) = effective();
    insta::assert_snapshot!(text, @r#"
    stack = "shop"
    timezone = "UTC"
    language = "en"
    offsite = []
    notify = []

    [repository]
    store = "fs"
    recipients = ["age1abc"]
    signers = []
    sharded = false
    keys = "/etc/lifeboat/keys"
    compression_level = 3

    [repository.options]
    root = "/backups"

    [[source]]
    name = "db"
    kind = "mysql"
    host = "127.0.0.1"
    port = 3306
    user = "lifeboat"
    tls = "off"
    databases = ["*"]
    exclude = []
    threads = 2
    lock_wait_seconds = 60
    long_query_seconds = 2

    [schedule]
    jitter_seconds = 0
    overlap = "skip"
    catch_up = "once"
    retries = 2
    retry_minutes = 5

    [retention]
    min_keep = 3
    remove_percent_max = 50

    [anomaly]
    shrink_percent = 30
    grow_percent = 400

    [serve]
    listen = "127.0.0.1:9412"
    remember_days = 400
    "#);
}

#[test]
fn the_effective_policy_shows_the_defaults_of_drills() {
    let (_, drill) = effective();
    insta::assert_snapshot!(drill, @r#"
    [drill]
    lab = "docker"
    from = "repository"
    pick = "latest"
    after_backup = false
    by_hand = false
    freeze_prune = true
    deadline_minutes = 240
    memory_mib = 1024
    data_in_memory = false
    objects_percent = 100
    reference = []
    expect = []
    freshness = []
    command = []

    [drill.images]

    [drill.arguments]
    "#);
}

#[test]
fn what_was_found_wrong_is_found_all_at_once() {
    let text = r#"
stack = "Shop 1"
timezone = "Asia/Shangai"
pasword = "x"
[repository]
store = "s4"
recipients = []
compression_level = 22
[[source]]
name = "db"
kind = "mysql"
user = "lifeboat"
pasword = { env = "X" }
port = "3306"
threads = 0
[[source]]
name = "db"
kind = "reddis"
[retention]
dayly = 7
"#;
    insta::assert_snapshot!(told(text), @"
    policy `p.toml` has 11 problems
    p.toml:2:9: `Shop 1` is not a stack name: use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit
    p.toml:3:12: timezone `Asia/Shangai` is not known
    p.toml:4:1: unknown key `pasword` in the policy
    p.toml:6:9: store `s4` is not known
    p.toml:7:14: `recipients` is empty
    p.toml:8:21: `compression_level` must be from 1 to 19
    p.toml:13:1: unknown key `pasword` in [[source]] db
    p.toml:14:8: `port` is a text in quotes, but must be a whole number
    p.toml:17:8: name `db` is taken
    p.toml:18:8: kind `reddis` is not known
    p.toml:20:1: unknown key `dayly` in [retention]
    hint: Line 3: Did you mean `Asia/Shanghai`?
    hint: Line 6: This build knows cos, fs, obs, oss, s3, webdav.
    hint: Line 7: `lifeboat keys new` makes a key pair; write the age1… line here.
    hint: Line 13: Did you mean `password`?
    hint: Line 17: Give each a name of its own: it is how restores and reports call it.
    hint: Line 18: Did you mean `redis`?
    hint: Line 20: Did you mean `daily`?
    ");
}

#[test]
fn an_unknown_key_is_told_with_the_one_that_was_meant() {
    insta::assert_snapshot!(told_with("pasword = { env = \"X\" }\nlock_wait_second = 5"), @"
    policy `p.toml` has 2 problems
    p.toml:11:1: unknown key `pasword` in [[source]] db
    p.toml:12:1: unknown key `lock_wait_second` in [[source]] db
    hint: Line 11: Did you mean `password`?
    hint: Line 12: Did you mean `lock_wait_seconds`?
    ");
}

#[test]
fn a_secret_that_was_written_out_is_refused_and_not_repeated() {
    for value in
        ["\"hunter2\"", "{ value = \"hunter2\" }", "{ env = \"A\", file = \"/hunter2\" }", "[\"hunter2\"]"]
    {
        let told = told_with(&format!("password = {value}"));
        assert!(!told.contains("hunter2"), "{told}");
        assert!(told.contains("p.toml:11:12: `password`"), "{told}");
    }
    insta::assert_snapshot!(told_with("password = \"hunter2\""), @r#"
    policy `p.toml` has a problem
    p.toml:11:12: `password`: a secret is named here, never written
    hint: Line 11: Write { env = "NAME" }, { file = "/run/secrets/name" } or { credential = "name" }.
    "#);
    let options = SMALL.replace(
        "fs\"\noptions = { root = \"/backups\" }",
        "s3\"\noptions = { bucket = \"b\", secret_access_key = \"hunter2\" }",
    );
    insta::assert_snapshot!(told(&options), @r#"
    policy `p.toml` has a problem
    p.toml:5:27: `secret_access_key`: a secret is named here, never written
    hint: Line 5: Write { env = "NAME" }, { file = "/run/secrets/name" } or { credential = "name" }.
    "#);
    let key = SMALL.replace("age1abc", "AGE-SECRET-KEY-1HUNTER2");
    insta::assert_snapshot!(told(&key), @"
    policy `p.toml` has a problem
    p.toml:6:15: a secret key stands where the public one belongs
    hint: Line 6: A recipient begins with age1 and is safe to show.
    ");
}

#[test]
fn signers_have_roles_and_an_end() {
    let (writer, keeper) = (format!("RWQ{}", "a".repeat(53)), format!("RWQ{}", "b".repeat(53)));
    let lists = format!("signers = [\"{writer}\"]\nmaintainers = [\"{keeper}\"]\n");
    let with = |more: &str| SMALL.replace("[[source]]", &format!("{lists}{more}\n[[source]]"));
    let table = format!("[[repository.revoked]]\nsigner = \"{writer}\"\nafter_seq = 41");
    let inline = format!("revoked = [{{ signer = \"{writer}\", after_seq = 41 }}]");
    for form in [table, inline] {
        let stack = parse(&with(&form)).unwrap();
        let settings = &stack.repository.settings;
        assert_eq!(settings.maintainers.join(" "), keeper);
        assert_eq!(settings.revoked_after(), [(writer.as_str(), 41)]);
        assert_eq!(parse(&stack.effective().unwrap()).unwrap(), stack);
    }
}

#[test]
fn signers_that_are_none_or_come_twice_are_told_with_their_place() {
    let secret = "RWQAAEIy".repeat(20);
    let lists = format!(
        "signers = [\"RWa\", \"RWa\", \"age1abc\", \"{secret}\"]\nmaintainers = [\"RWb\", \"RWb\"]\n\
         revoked = [\n    {{ signer = \"RWa\", after_seq = 1 }},\n    {{ signer = \"RWc\", after_seq = 1 }},\n    \
         {{ signer = \"RWa\", after_seq = 2 }},\n    {{ signer = \"{secret}\", after_seq = 2 }},\n    \
         {{ signer = \"RWa\", after_sec = 2 }},\n    {{ signer = \"RWa\", after_seq = -1 }},\n]\n"
    );
    let told = told(&SMALL.replace("[[source]]", &format!("{lists}[[source]]")));
    assert!(!told.contains(&secret));
    insta::assert_snapshot!(told, @"
    policy `p.toml` has 10 problems
    p.toml:7:19: `RWa` is named twice in `signers`
    p.toml:7:26: `age1abc` is no signer
    p.toml:7:37: what stands here is too long for a signer's public key
    p.toml:8:23: `RWb` is named twice in `maintainers`
    p.toml:11:16: `RWc` is not among `signers`
    p.toml:12:16: `RWa` is revoked twice
    p.toml:13:16: what stands here is too long for a signer's public key
    p.toml:14:5: `after_seq` is missing in [[repository.revoked]] 5
    p.toml:14:23: unknown key `after_sec` in [[repository.revoked]] 5
    p.toml:15:35: `after_seq` cannot be -1
    hint: Line 7: A signer begins with RW and is safe to show: the line of signing.pub.
    hint: Line 7: A signer begins with RW and is safe to show: the line of signing.pub.
    hint: Line 7: A signer begins with RW and is safe to show: the line of signing.pub.
    hint: Line 8: A signer begins with RW and is safe to show: the line of signing.pub.
    hint: Line 11: Keep a revoked key in `signers`: what it signed before is still believed.
    hint: Line 12: Keep the table with the smaller `after_seq`.
    hint: Line 13: A signer begins with RW and is safe to show: the line of signing.pub.
    hint: Line 14: Did you mean `after_seq`?
    ");
}

#[test]
fn an_address_with_a_login_is_refused_and_not_repeated() {
    let redis = "[[source]]\nname = \"r\"\nkind = \"redis\"\nurl = \"redis://:hunter2@h:6379\"\n";
    let told = told_with(redis);
    assert!(!told.contains("hunter2"));
    insta::assert_snapshot!(told, @r#"
    policy `p.toml` has a problem
    p.toml:14:7: `url` holds a login
    hint: Line 14: Take the login out of the address: user = "…" and password = { file = "…" } are keys of their own.
    "#);
}

#[test]
fn stores_and_their_options_are_checked() {
    let more = r#"
[[offsite]]
name = "a"
store = "oss"
options = { buket = "b", endpoint = "oss.example.com" }
[[offsite]]
name = "b"
store = "fs"
options = { root = "relative" }
[[offsite]]
name = "c"
store = "fs"
options = { root = "/backups" }
"#;
    insta::assert_snapshot!(told_with(more), @"
    policy `p.toml` has 5 problems
    p.toml:15:11: store `oss` needs the option `bucket`
    p.toml:15:13: store `oss` has no option `buket`
    p.toml:15:26: `endpoint` must begin with http:// or https://, not `oss.example.com`
    p.toml:19:13: `root` must be absolute, not `relative`
    p.toml:23:11: offsite `c` is the repository itself
    hint: Line 15: Did you mean `bucket`?
    hint: Line 23: A copy helps only where the first one is not.
    ");
}

#[test]
fn times_and_retention_are_checked() {
    let more = r#"
[schedule]
backup = "0 2 * *"
prune = "0 25 * * *"
sync = "*/5 * * * * *"
[retention]
daily = 0
within = "7 days"
min_keep = 0
"#;
    insta::assert_snapshot!(told_with(more), @r#"
    policy `p.toml` has 5 problems
    p.toml:13:10: `backup` is no time of a schedule: invalid pattern: Pattern must have 5 fields when seconds are disallowed
    p.toml:14:9: `prune` is no time of a schedule: component error: Number out of bounds
    p.toml:15:8: `sync` is no time of a schedule: invalid pattern: Pattern must have 5 fields when seconds are disallowed
    p.toml:18:10: `7 days` is no span of time
    p.toml:19:12: `min_keep` cannot be 0
    hint: Line 13: Five fields: minute, hour, day of month, month, day of week, as "0 2 * * *".
    hint: Line 14: Five fields: minute, hour, day of month, month, day of week, as "0 2 * * *".
    hint: Line 15: Five fields: minute, hour, day of month, month, day of week, as "0 2 * * *".
    hint: Line 18: A number from 1 to 9999 with h, d, w, m or y behind it, as 7d.
    hint: Line 19: At least 1: the newest good snapshot is never removed.
    "#);
}

#[test]
fn each_key_of_retention_becomes_the_rule_of_its_name() {
    let keys = "last = 1\nhourly = 2\ndaily = 3\nweekly = 4\nmonthly = 5\nyearly = 6\nwithin = \"7d\"";
    let more = format!("[retention]\n{keys}\nmin_keep = 8\nremove_percent_max = 9\n");
    let stack = parse(&format!("{SMALL}{more}")).unwrap();
    assert_eq!(
        stack.retention.rules().unwrap(),
        Rules {
            last: Some(1),
            hourly: Some(2),
            daily: Some(3),
            weekly: Some(4),
            monthly: Some(5),
            yearly: Some(6),
            within: Some(Within::parse("7d").unwrap()),
            min_keep: 8,
            remove_percent_max: 9,
        }
    );
    assert_eq!(RetentionConfig::default().rules().unwrap(), Rules::default());
}

#[test]
fn drills_ask_sources_that_are_there() {
    let more = r#"
[drill]
from = "oss"
lab = "podman"
[drill.images]
dbb = "mysql:8.0"
[[drill.reference]]
source = "d"
query = "DELETE FROM im.files"
in = "db"
bucket = "im-files"
[[drill.expect]]
name = "none"
source = "db"
query = "SELECT 1; DROP TABLE x"
"#;
    insta::assert_snapshot!(told_with(more), @r#"
    policy `p.toml` has 6 problems
    p.toml:14:7: `lab` cannot be "podman"
    p.toml:18:10: source `d` is not in the policy
    p.toml:19:9: `query` is not a single SELECT
    p.toml:20:6: source `db` is of kind mysql, not s3
    p.toml:22:1: no answer is wrong here, or none is right
    p.toml:25:9: `query` is not a single SELECT
    hint: Line 14: Use `docker` or `process`.
    hint: Line 19: A drill asks one question: SELECT …
    hint: Line 22: Give `at_least`, `at_most` or both.
    hint: Line 25: A drill asks one question: SELECT …
    "#);
}

#[test]
fn what_drills_ask_is_checked() {
    let more = r#"
[drill]
by_hand = true
identity = "key.txt"
cpu_percent = 0
objects_percent = 0
[drill.arguments]
dbb = ["--lower-case-table-names=1"]
[[drill.reference]]
source = "db"
query = "SELECT token FROM im.sessions"
in = "cache"
orphans_max = 0
[[drill.reference]]
source = "db"
query = "SELECT path FROM im.files"
in = "objects"
orphans = "im-files/[a"
[[drill.freshness]]
name = "messages"
source = "db"
query = "SELECT MAX(at) FROM im.messages"
within_minutes = 15
timezone = "Peking"
[[drill.command]]
name = "smoke"
command = []
timeout_minutes = 0
[[source]]
name = "cache"
kind = "redis"
url = "redis://127.0.0.1:6379"
[[source]]
name = "objects"
kind = "s3"
endpoint = "http://127.0.0.1:9000"
access_key = { env = "A" }
secret_key = { env = "B" }
"#;
    insta::assert_snapshot!(told_with(more), @r#"
    policy `p.toml` has 11 problems
    p.toml:13:11: `by_hand` needs `by_hand_image`
    p.toml:14:12: `identity` must be an absolute path, not `key.txt`
    p.toml:15:15: `cpu_percent` cannot be 0
    p.toml:16:19: `objects_percent` must be from 1 to 100
    p.toml:18:1: source `dbb` is not in the policy
    p.toml:23:15: it is not said which keys must have a row
    p.toml:24:1: `bucket` is empty
    p.toml:28:11: `im-files/[a` is no glob: unclosed character class; missing ']'
    p.toml:34:12: `Peking` is no time zone
    p.toml:37:11: `command` is empty
    p.toml:38:19: `timeout_minutes` cannot be 0
    hint: Line 13: Name an image that has bash, age, zstd, tar, jq and minisign.
    hint: Line 16: 100 reads every object whole; existence, size and metadata are always compared.
    hint: Line 23: Write a glob in `orphans`, as "session:*".
    hint: Line 24: Name the bucket of the objects.
    hint: Line 34: Use a name of the IANA database, as "Asia/Shanghai".
    hint: Line 37: Write ["/path/to/program", "argument"].
    "#);
}

#[test]
fn the_wrong_shape_of_a_table_is_told() {
    let text = "stack = \"x\"\nrepository = \"fs\"\nsource = { name = \"a\" }\nschedule = []\n";
    insta::assert_snapshot!(told(text), @"
    policy `p.toml` has 3 problems
    p.toml:2:14: `repository` is no table
    p.toml:3:10: `source` is no list of tables
    p.toml:4:12: `schedule` is no table
    hint: Line 2: Write [repository].
    hint: Line 3: Write [[source]], with two brackets, once for each.
    hint: Line 4: Write [schedule].
    ");
}

#[test]
fn what_is_no_toml_says_where() {
    insta::assert_snapshot!(told("stack = \"x\n[repository\nstore = fs\n"), @r#"
    policy `p.toml` has 2 problems
    p.toml:1:11: this is no TOML: invalid basic string, expected `"`
    p.toml:2:12: this is no TOML: unclosed table, expected `]`
    "#);
    insta::assert_snapshot!(told("stack = \"x\"\n图 = \"y\"\nstack = \"z\"\n"), @"
    policy `p.toml` has 2 problems
    p.toml:2:1: this is no TOML: invalid unquoted key, expected letters, numbers, `-`, `_`
    p.toml:3:1: this is no TOML: duplicate key
    ");
}

#[test]
fn an_empty_policy_lacks_everything_that_is_needed() {
    insta::assert_snapshot!(told(""), @"
    policy `p.toml` has 3 problems
    p.toml:1:1: the policy has no [repository]
    p.toml:1:1: the policy has no [[source]], so nothing is protected
    p.toml:1:1: `stack` is missing in the policy
    hint: Line 1: It says where the snapshots lie: store, options, recipients.
    hint: Line 1: Add a [[source]] table for each database, object store or folder.
    ");
}

#[test]
fn a_host_that_is_rebuilt_needs_only_the_repository() {
    let text = SMALL.split("[[source]]").next().unwrap();
    assert!(parse(text).is_err());
    assert!(Stack::parse(text, "p.toml", Need::Repository).is_ok());
}

#[test]
fn a_missing_file_is_told_as_such() {
    let problems = Stack::load(Path::new("/no/such/policy.toml")).unwrap_err();
    assert_eq!(
        problems.lines(),
        ["/no/such/policy.toml: cannot be read: No such file or directory (os error 2)"]
    );
}

#[test]
fn a_starter_loads_as_soon_as_a_source_is_appended() {
    let options = [("root".to_owned(), OptionValue::Text("/var/backups/a \"b\"".to_owned()))].into();
    let recipients = ["age1abc".to_owned(), "age1def".to_owned()];
    let signers = ["RWabc".to_owned()];
    let new = Starter {
        stack: "shop",
        store: "fs",
        options: &options,
        recipients: &recipients,
        signers: &signers,
        keys: Path::new("/etc/lifeboat/keys"),
        timezone: "Asia/Shanghai",
    };
    let text = starter(&new);
    assert!(text.starts_with("stack = \"shop\"\n"));
    assert_eq!(text.matches('@').count(), 0, "each mark is replaced");
    Stack::parse(&text, "p.toml", Need::Repository).unwrap();
    let whole = format!("{text}\n[[source]]\nname = \"db\"\nkind = \"mysql\"\nuser = \"u\"\n");
    let stack = parse(&whole).unwrap();
    assert_eq!(stack.repository.place.text("root"), Some("/var/backups/a \"b\""));
    assert_eq!(stack.sources.len(), 1);
    // Its commented examples are good ones as well.
    let is_key = |code: &str| code.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let examples: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(code) if code.starts_with("[[") || is_key(code) => format!("{code}\n"),
            Some(_) => String::new(),
            None => format!("{line}\n"),
        })
        .collect();
    let stack = parse(&examples).unwrap_or_else(|problems| panic!("{:#?}\n{examples}", problems.lines()));
    assert_eq!((stack.sources.len(), stack.offsites.len(), stack.notify.len()), (4, 1, 1));
    let options = [
        ("endpoint".to_owned(), OptionValue::Text("https://dav".to_owned())),
        ("password".to_owned(), OptionValue::Secret(SecretRef::Env("X".to_owned()))),
    ]
    .into();
    let text = starter(&Starter { store: "webdav", options: &options, ..new });
    let stack = Stack::parse(&text, "p.toml", Need::Repository).unwrap();
    assert_eq!(stack.repository.place.secrets().next().unwrap().0, "password");
}

#[test]
fn wrong_settings_of_the_service_are_told() {
    let more = r#"
[schedule]
backup = "0 2 30 2 *"
retries = 11
jitter_seconds = 86400
[anomaly]
shrink_percent = 0
[serve]
listen = "localhost"
textfile = "lifeboat.prom"
remember_days = 1
"#;
    insta::assert_snapshot!(told_with(more), @r#"
    policy `p.toml` has 7 problems
    p.toml:13:10: `backup` is no time of a schedule: there is no such day
    p.toml:14:11: `retries` must be from 0 to 10
    p.toml:15:18: `jitter_seconds` must be from 0 to 21600
    p.toml:17:18: `shrink_percent` must be from 1 to 100
    p.toml:19:10: `localhost` is no address to listen at
    p.toml:20:12: `textfile` must be an absolute path, not `lifeboat.prom`
    p.toml:21:17: `remember_days` must be 31 or more
    hint: Line 13: Five fields: minute, hour, day of month, month, day of week, as "0 2 * * *".
    hint: Line 17: 100 asks only when nothing is left.
    hint: Line 19: An address and a port, as "127.0.0.1:9412".
    "#);
}

#[test]
fn every_policy_that_we_ship_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let stack = Stack::load(&path).unwrap_or_else(|problems| panic!("{:#?}", problems.lines()));
            assert!(!stack.schedule.jobs().collect::<Vec<_>>().is_empty());
            count += 1;
        }
    }
    assert!(count > 0);
}

#[test]
fn the_schema_asks_for_what_is_needed_and_no_more() {
    let schema = schema();
    let required = |of: &serde_json::Value| -> Vec<String> {
        serde_json::from_value(of["required"].clone()).unwrap_or_default()
    };
    assert_eq!(required(&schema), ["stack", "repository", "source"]);
    assert_eq!(required(&schema["$defs"]["RepositoryConfig"]), ["store", "recipients"]);
    assert_eq!(required(&schema["$defs"]["OffsiteConfig"]), ["name", "store"]);
    assert_eq!(required(&schema["$defs"]["RevokedConfig"]), ["signer", "after_seq"]);
    assert_eq!(schema["additionalProperties"], false);
    let kinds = schema["$defs"]["SourceConfig"]["oneOf"].as_array().unwrap();
    let words: Vec<&str> =
        kinds.iter().filter_map(|kind| kind["properties"]["kind"]["const"].as_str()).collect();
    assert_eq!(words, SourceKind::WORDS);
    assert_eq!(required(&kinds[0]), ["kind", "user"]);
}
