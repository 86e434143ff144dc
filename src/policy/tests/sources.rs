//! What the tables of sources may say.

use super::*;

#[test]
fn certificates_of_a_database_are_absolute_whole_and_wanted() {
    let more = "ca_file = \"ca.pem\"\nclient_cert = \"/c.pem\"";
    insta::assert_snapshot!(told_with(more), @"
    policy `p.toml` has 4 problems
    p.toml:11:11: `ca_file` must be an absolute path, not `ca.pem`
    p.toml:11:11: `ca_file` needs an encrypted connection
    p.toml:12:15: `client_cert` needs an encrypted connection
    p.toml:12:15: `client_cert` needs `client_key`
    hint: Line 11: Write tls = \"verified\", or leave `ca_file` out.
    hint: Line 12: Write tls = \"verified\", or leave `client_cert` out.
    hint: Line 12: Name both files, or neither.
    ");
    let more = "tls = \"unverified\"\nca_file = \"/ca.pem\"\nclient_key = \"/k.pem\"";
    insta::assert_snapshot!(told_with(more), @"
    policy `p.toml` has 2 problems
    p.toml:12:11: `ca_file` is not looked at: any certificate is accepted
    p.toml:13:14: `client_key` needs `client_cert`
    hint: Line 12: Write tls = \"verified\", or leave `ca_file` out.
    hint: Line 13: Name both files, or neither.
    ");
}

#[test]
fn certificates_of_a_redis_are_absolute_whole_and_wanted() {
    let redis = "[[source]]\nname = \"r\"\nkind = \"redis\"\nurl = \"redis://h\"\ncert_file = \"c.pem\"\nsave_wait_seconds = 0\n";
    insta::assert_snapshot!(told_with(redis), @"
    policy `p.toml` has 4 problems
    p.toml:15:13: `cert_file` must be an absolute path, not `c.pem`
    p.toml:15:13: `cert_file` needs an encrypted connection
    p.toml:15:13: `cert_file` needs `key_file`
    p.toml:16:21: `save_wait_seconds` must be from 1 to 86400
    hint: Line 15: Write rediss:// in `url`, or leave `cert_file` out.
    hint: Line 15: Name both files, or neither.
    ");
    let good = redis.replace("redis://", "rediss://").replace("c.pem", "/c.pem");
    let good = good.replace("= 0\n", "= 60\nkey_file = \"/k.pem\"\n");
    parse(&format!("{SMALL}{good}")).unwrap();
}

#[test]
fn addresses_globs_and_paths_are_checked() {
    let more = r#"
databases = ["im", "[x"]
[[source]]
name = "r"
kind = "redis"
url = "http://h"
ca_file = "ca.pem"
[[source]]
name = "s"
kind = "s3"
endpoint = "http://h:99999"
buckets = []
access_key = { env = "A" }
secret_key = { env = "B" }
[[source]]
name = "f"
kind = "files"
paths = ["/a", "b", "/a/../c", "/a"]
max_age_days = 0
"#;
    insta::assert_snapshot!(told_with(more), @"
    policy `p.toml` has 10 problems
    p.toml:12:20: `[x` is no glob: unclosed character class; missing ']'
    p.toml:16:7: `url` must begin with redis:// or rediss://, not `http://h`
    p.toml:17:11: `ca_file` must be an absolute path, not `ca.pem`
    p.toml:17:11: `ca_file` needs an encrypted connection
    p.toml:21:12: `endpoint` is no address: `http://h:99999`
    p.toml:22:11: `buckets` is empty, so nothing would be taken
    p.toml:28:16: path `b` is not absolute
    p.toml:28:21: path `/a/../c` climbs
    p.toml:28:32: path `/a` is named twice
    p.toml:29:16: `max_age_days` is 0, which takes nothing
    hint: Line 17: Write rediss:// in `url`, or leave `ca_file` out.
    hint: Line 22: Leave `buckets` out to take everything.
    hint: Line 29: Leave it out to take files of any age.
    ");
}

#[test]
fn an_object_store_gives_what_each_key_shows_or_all_versions() {
    let with = |line: &str| {
        format!(
            "{SMALL}[[source]]\nname = \"s\"\nkind = \"s3\"\nendpoint = \"http://h\"\n{line}\n\
             access_key = {{ env = \"A\" }}\nsecret_key = {{ env = \"B\" }}\n"
        )
    };
    let versions = |line: &str| {
        let policy = parse(&with(line)).unwrap();
        let configs = policy.sources.iter().find_map(|source| match &source.kind {
            SourceKind::S3(config) => Some(config.versions),
            _ => None,
        });
        configs.unwrap()
    };
    assert_eq!(versions(""), Versions::Current);
    assert_eq!(versions("versions = \"all\""), Versions::All);
    assert!(parse(&with("versions = \"some\"")).is_err());
}
