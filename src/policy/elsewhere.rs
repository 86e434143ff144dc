//! Where a source is, as people name it, and how a restore is pointed at another server.

use super::{S3Config, SourceKind};
use crate::error::{ExitCode, Failure, Result};

/// The environment variable with the password of the server that `--into` names, where it is not the source's;
/// set and empty when that server has none.
pub const INTO_PASSWORD: &str = "LIFEBOAT_INTO_PASSWORD";

impl SourceKind {
    /// Returns where the source is, without secrets.
    pub fn place(&self) -> String {
        match self {
            Self::Mysql(mysql) => match &mysql.socket {
                Some(socket) => format!("mysql at {}", socket.display()),
                None => format!("mysql://{}@{}:{}", mysql.user, mysql.host, mysql.port),
            },
            Self::Redis(redis) => match &redis.primary_name {
                Some(name) => format!("`{name}` of Sentinel {}", redis.sentinels.join(", ")),
                None => redis.url.clone(),
            },
            Self::S3(s3) => s3.endpoint.clone(),
            Self::Files(_) => "where they were".to_owned(),
        }
    }

    /// Points the source at the server that `url` names. The account stays the source's unless the URL or
    /// [`INTO_PASSWORD`] says otherwise; a password in the URL is refused, for the command line shows it. A MySQL URL
    /// without a host means the source's own server. What it names on the server is for [`database_of`] and
    /// [`bucket_of`].
    pub fn redirect(&mut self, url: &str) -> Result<()> {
        let wrong =
            |why: &str| Failure::new(ExitCode::Usage, format!("`--into` has a URL that does not fit: {why}"));
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let (account, host) = match rest.rsplit_once('@') {
            Some((account, host)) => (Some(account), host),
            None => (None, rest),
        };
        let is_own = host.is_empty() || host.starts_with('/');
        if account.is_some_and(|account| account.contains(':')) {
            return Err(wrong("it holds a password").hint(format!(
                "Leave the password out; put it into ${INTO_PASSWORD} if it is not the source's own."
            )));
        }
        let account = account.filter(|account| !account.is_empty()).map(str::to_owned);
        // Set and empty means: that server has no password.
        let other = std::env::var_os(INTO_PASSWORD);
        let none = other.as_ref().is_some_and(|password| password.is_empty());
        let password = other.map(|_| super::SecretRef::Env(INTO_PASSWORD.to_owned()));
        match self {
            Self::Mysql(mysql) if scheme == "mysql" => {
                database(host).map_err(&wrong)?;
                if !is_own {
                    let (host, port) =
                        host_and_port(host, 3306).ok_or_else(|| wrong("its port is no number"))?;
                    (mysql.host, mysql.port, mysql.socket) = (host, port, None);
                }
                mysql.user = account.unwrap_or_else(|| mysql.user.clone());
                mysql.password = password.or_else(|| mysql.password.take()).filter(|_| !none);
            }
            Self::Redis(redis) if ["redis", "rediss", "unix"].contains(&scheme) => {
                let (host, _) = numbered(scheme, host).map_err(&wrong)?;
                redis.point_at(format!("{scheme}://{host}"));
                redis.user = account.or_else(|| redis.user.take());
                redis.password = password.or_else(|| redis.password.take()).filter(|_| !none);
            }
            Self::S3(s3) if ["http", "https"].contains(&scheme) && account.is_none() => {
                let S3Config { endpoint, secret_key, admin, .. } = s3;
                // Another server has other administrators.
                *admin = None;
                bucket(host).map_err(&wrong)?;
                *endpoint = format!("{scheme}://{}", host.split('/').next().unwrap_or(host));
                if let Some(password) = password {
                    *secret_key = password;
                }
            }
            _ => return Err(wrong(&format!("`{scheme}` is not how a {} source is reached", self.word()))),
        }
        Ok(())
    }
}

/// Returns the database that a MySQL URL names, if it names one.
pub fn database_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let name = database(rest.rsplit_once('@').map_or(rest, |(_, host)| host)).ok()??;
    (scheme == "mysql").then(|| name.to_owned())
}

/// Returns the bucket that the URL of an S3 server names, if it names one.
pub fn bucket_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    bucket(rest).ok()?.map(str::to_owned)
}

/// Returns what stands behind the host: nothing, or the name of a bucket.
fn bucket(host: &str) -> Result<Option<&str>, &'static str> {
    let Some((_, name)) = host.split_once('/') else { return Ok(None) };
    let name = name.strip_suffix('/').unwrap_or(name);
    if name.contains(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c)) {
        return Err("what stands behind the host is no name of a bucket");
    }
    Ok(Some(name).filter(|name| !name.is_empty()))
}

/// Returns the database that a Redis URL names, if it names one.
pub fn redis_database_of(url: &str) -> Option<u32> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.starts_with("redis") { numbered(scheme, host).ok()?.1 } else { None }
}

/// Divides what stands behind the host from it: nothing, or the number of a database. A socket's path stays whole.
fn numbered<'a>(scheme: &str, host: &'a str) -> Result<(&'a str, Option<u32>), &'static str> {
    let Some((host, db)) = host.split_once('/').filter(|_| scheme != "unix") else { return Ok((host, None)) };
    match db {
        "" => Ok((host, None)),
        _ if db.bytes().all(|byte| byte.is_ascii_digit()) => {
            db.parse().map(|db| (host, Some(db))).map_err(|_| "its database is no number of one")
        }
        _ => Err("what stands behind the host is no number of a database"),
    }
}

/// Returns what stands behind the host: nothing, or a plain name.
fn database(host: &str) -> Result<Option<&str>, &'static str> {
    let Some((_, name)) = host.split_once('/') else { return Ok(None) };
    if name.contains(|c: char| c.is_whitespace() || c.is_control() || "/%?#`".contains(c)) {
        return Err("what stands behind the host is no plain name of a database");
    }
    Ok(Some(name).filter(|name| !name.is_empty()))
}

/// Splits `host`, `host:port` or `[v6]:port`, with or without a path behind it.
fn host_and_port(text: &str, default: u16) -> Option<(String, u16)> {
    let text = text.split('/').next().unwrap_or_default();
    if let Some(v6) = text.strip_prefix('[') {
        let (host, rest) = v6.split_once(']')?;
        let port = rest.strip_prefix(':').map_or(Some(default), |port| port.parse().ok())?;
        return Some((host.to_owned(), port));
    }
    match text.rsplit_once(':') {
        Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
        None => Some((text.to_owned(), default)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{FilesConfig, MysqlConfig, RedisConfig};

    fn mysql() -> SourceKind {
        let text = "user = \"lifeboat\"\npassword = { env = \"PW\" }";
        SourceKind::Mysql(toml::from_str::<MysqlConfig>(text).unwrap())
    }

    #[test]
    fn another_server_keeps_the_account_unless_told() {
        let mut kind = mysql();
        kind.redirect("mysql://10.0.0.9:3307/").unwrap();
        assert_eq!(kind.place(), "mysql://lifeboat@10.0.0.9:3307");
        kind.redirect("mysql://root@[::1]").unwrap();
        assert_eq!(kind.place(), "mysql://root@::1:3306");
    }

    #[test]
    fn a_url_may_name_a_database_and_leave_the_server() {
        assert_eq!(database_of("mysql://root@db:3307/im_old").as_deref(), Some("im_old"));
        assert_eq!(database_of("mysql:///im_old").as_deref(), Some("im_old"));
        for none in ["mysql://db", "mysql://db/", "redis://db/0", "im_old"] {
            assert_eq!(database_of(none), None, "{none}");
        }
        let mut kind = mysql();
        kind.redirect("mysql://10.0.0.9:3307/").unwrap();
        kind.redirect("mysql:///im_old").unwrap();
        assert_eq!(kind.place(), "mysql://lifeboat@10.0.0.9:3307");
        kind.redirect("mysql://root@/im_old").unwrap();
        assert_eq!(kind.place(), "mysql://root@10.0.0.9:3307");
        for odd in ["mysql://db/a/b", "mysql://db/a%20b", "mysql://db/a?x=1"] {
            assert!(kind.redirect(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_url_of_an_s3_server_may_name_a_bucket_and_nothing_else() {
        let config = "endpoint = \"http://minio:9000\"\nbuckets = [\"*\"]\n\
                      access_key = { env = \"A\" }\nsecret_key = { env = \"S\" }";
        let mut kind = SourceKind::S3(toml::from_str::<S3Config>(config).unwrap());
        for (url, endpoint, bucket) in [
            ("http://h:9000", "http://h:9000", None),
            ("http://h:9000/", "http://h:9000", None),
            ("https://h/old.im-files/", "https://h", Some("old.im-files")),
        ] {
            kind.redirect(url).unwrap();
            assert_eq!((kind.place().as_str(), bucket_of(url).as_deref()), (endpoint, bucket));
        }
        for odd in ["http://h/b/prefix", "http://h/b?x", "http://h/b%20c", "http://h//b"] {
            assert!(kind.redirect(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_url_of_redis_may_name_one_database() {
        assert_eq!(redis_database_of("redis://cache:6380/3"), Some(3));
        assert_eq!(redis_database_of("rediss://user@[::1]:1/0"), Some(0));
        for none in ["redis://cache", "redis://cache/", "unix:///run/3", "mysql://db/3", "redis://cache/x"] {
            assert_eq!(redis_database_of(none), None, "{none}");
        }
        let redirected = |url: &str| {
            let mut kind = SourceKind::Redis(RedisConfig::default());
            kind.redirect(url).map(|()| kind.place())
        };
        assert_eq!(redirected("redis://user@cache:6380/3").unwrap(), "redis://cache:6380");
        assert_eq!(redirected("unix:///run/redis.sock").unwrap(), "unix:///run/redis.sock");
        for wrong in ["redis://cache/x", "redis://cache/3/4", "redis://cache/99999999999", "redis://c/-1"] {
            assert_eq!(redirected(wrong).unwrap_err().exit(), ExitCode::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_password_on_the_command_line_is_refused_and_not_repeated() {
        let failure = mysql().redirect("mysql://root:hunter2@db/").unwrap_err();
        assert!(!failure.chain().join("").contains("hunter2"));
        assert!(mysql().redirect("redis://db").is_err());
        assert!(mysql().redirect("mysql://db:port").is_err());
        assert!(SourceKind::Files(FilesConfig::default()).redirect("http://x").is_err());
    }
}
