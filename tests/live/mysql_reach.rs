//! The ways to a server: its socket, encrypted or not, and how an account proves who it is.

use std::{path::PathBuf, process::Command};

use lifeboat::{
    error::ExitCode,
    flow::{FlowError, WriteOptions, conformance::read_all, pipe},
    policy::{MysqlConfig, Tls},
};

use crate::{
    on_both,
    support::{self, Product, Server},
};

on_both!(
    a_server_is_read_and_written_through_its_unix_socket,
    a_server_with_a_certificate_is_believed_only_for_its_own_name_and_authority,
);

async fn a_server_is_read_and_written_through_its_unix_socket(product: Product) {
    let server = Server::empty(product).await;
    server
        .run(["CREATE DATABASE im", "CREATE TABLE im.t (a int PRIMARY KEY)", "INSERT INTO im.t VALUES (7)"])
        .await;
    let mut config = server.only(&["im"]);
    config.socket = Some(server.socket());
    // Nobody answers there: only the socket is left.
    (config.host, config.port) = ("127.0.0.1".to_owned(), 9);
    let options = WriteOptions { replace: true, ..WriteOptions::default() };
    pipe(support::source(&config), support::target(&config), options).await.expect("the rows go round");
    assert_eq!(server.ask("SELECT a FROM im.t").await, "7");
}

/// Two authorities, and what the first one signed: a server `localhost` and a client.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn make() -> Self {
        let own = Self { folder: tempfile::tempdir().unwrap() };
        for ca in ["ca", "other-ca"] {
            let subject = format!("/CN=lbt-{ca}");
            let more = ["-x509", "-days", "90", "-out", &format!("{ca}.pem")].map(str::to_owned);
            own.openssl(&[&Self::key(ca, &subject), &more[..]].concat());
        }
        for (name, extension) in
            [("server", "subjectAltName=DNS:localhost"), ("client", "extendedKeyUsage=clientAuth")]
        {
            std::fs::write(
                own.at(&format!("{name}.ext")),
                format!("basicConstraints=CA:FALSE\n{extension}\n"),
            )
            .unwrap();
            let request = ["-out".to_owned(), format!("{name}.csr")];
            own.openssl(&[&Self::key(name, &format!("/CN=lbt-{name}")), &request[..]].concat());
            let line = format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 90 -extfile {name}.ext \
                 -out {name}.pem"
            );
            own.openssl(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        }
        own
    }

    fn key(name: &str, subject: &str) -> Vec<String> {
        let line = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout";
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        words.extend([format!("{name}.key"), "-subj".to_owned(), subject.to_owned()]);
        words
    }

    fn openssl(&self, words: &[String]) {
        let made = Command::new("openssl").args(words).current_dir(self.folder.path()).output().unwrap();
        assert!(made.status.success(), "{words:?}: {}", String::from_utf8_lossy(&made.stderr));
    }

    fn at(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }
}

/// Reads everything; what went wrong as text.
async fn reads(config: &MysqlConfig) -> Result<(), (ExitCode, String)> {
    match read_all(support::source(config)).await {
        Ok(reading) => {
            assert!(reading.inventory.contains(&"im.t".to_owned()));
            Ok(())
        }
        Err(FlowError::Failed(failure)) => {
            Err((failure.exit(), format!("{} {}", failure.chain().join(": "), failure.hints().join(" "))))
        }
        Err(error) => panic!("{error:?}"),
    }
}

async fn a_server_with_a_certificate_is_believed_only_for_its_own_name_and_authority(product: Product) {
    let certificates = Certificates::make();
    let files = ["ca.pem", "server.pem", "server.key"].map(|file| certificates.at(file));
    let arguments = ["--ssl-ca=/lbt/ca.pem", "--ssl-cert=/lbt/server.pem", "--ssl-key=/lbt/server.key"];
    let files: Vec<_> = files.iter().map(PathBuf::as_path).collect();
    let server = Server::empty_with_files(product, &arguments, &files).await;
    server.run(["CREATE DATABASE im", "CREATE TABLE im.t (a int PRIMARY KEY)"]).await;
    server.run(accounts(product)).await;
    let reached = |user: &str, tls: Tls| {
        let mut config = server.as_user(server.only(&["im"]), user, "it's");
        (config.host, config.tls) = ("localhost".to_owned(), tls);
        if tls == Tls::Verified {
            config.ca_file = Some(certificates.at("ca.pem"));
        }
        config
    };
    let fails = async |config: &MysqlConfig, words: &str| {
        let (exit, told) = reads(config).await.unwrap_err();
        assert_eq!(exit, ExitCode::SourceDown, "{told}");
        assert!(told.contains(words), "{words}: {told}");
    };

    reads(&reached("over_tls", Tls::Verified)).await.expect("its own name and authority");
    reads(&reached("over_tls", Tls::Unverified)).await.expect("any certificate");
    fails(&reached("over_tls", Tls::Off), "refuses user").await;
    let mut wrong = reached("over_tls", Tls::Verified);
    "127.0.0.1".clone_into(&mut wrong.host);
    fails(&wrong, "a name that the certificate holds").await;
    let mut wrong = reached("over_tls", Tls::Verified);
    wrong.ca_file = Some(certificates.at("other-ca.pem"));
    fails(&wrong, "UnknownIssuer").await;
    wrong.ca_file = None;
    fails(&wrong, "ca_file = ").await;
    wrong.ca_file = Some(certificates.at("nowhere.pem"));
    let (exit, told) = reads(&wrong).await.unwrap_err();
    assert!(exit == ExitCode::Usage && told.contains("nowhere.pem` cannot be read"), "{told}");

    fails(&reached("with_certificate", Tls::Verified), "client_cert and client_key").await;
    let mut own = reached("with_certificate", Tls::Verified);
    (own.client_cert, own.client_key) =
        (Some(certificates.at("client.pem")), Some(certificates.at("client.key")));
    reads(&own).await.expect("the account shows its certificate");

    // Both before the server remembers the password, one with TLS and one without.
    for (tls, user) in [(Tls::Off, "plain"), (Tls::Verified, "hidden")] {
        reads(&reached(user, tls)).await.unwrap_or_else(|told| panic!("{user}: {told:?}"));
    }
}

fn accounts(product: Product) -> Vec<String> {
    let proof = match product {
        Product::Mysql => "WITH caching_sha2_password BY 'it''s'",
        Product::Mariadb => "VIA mysql_native_password USING PASSWORD('it''s')",
    };
    let users = [
        ("over_tls", "REQUIRE SSL"),
        ("with_certificate", "REQUIRE X509"),
        ("plain", ""),
        ("hidden", "REQUIRE SSL"),
    ];
    let both = users.map(|(user, more)| {
        [
            format!("CREATE USER {user}@'%' IDENTIFIED {proof} {more}"),
            format!("GRANT ALL ON *.* TO {user}@'%'"),
        ]
    });
    both.into_iter().flatten().collect()
}

/// MariaDB's own way to log in by a key that a password makes. No part of it asks for TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
async fn an_account_of_mariadb_logs_in_by_ed25519() {
    let server = Server::empty_with(Product::Mariadb, &["--plugin-load-add=auth_ed25519"]).await;
    server
        .run([
            "CREATE DATABASE im",
            "CREATE TABLE im.t (a int PRIMARY KEY)",
            "INSERT INTO im.t VALUES (7)",
            "CREATE USER keyed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('密 it''s')",
            "GRANT ALL ON *.* TO keyed@'%' WITH GRANT OPTION",
        ])
        .await;
    let config = server.as_user(server.only(&["im"]), "keyed", "密 it's");
    let options = WriteOptions { replace: true, ..WriteOptions::default() };
    pipe(support::source(&config), support::target(&config), options).await.expect("the rows go round");
    assert_eq!(server.ask("SELECT a FROM im.t").await, "7");
    let wrong = server.as_user(server.only(&["im"]), "keyed", "guessed");
    let (exit, told) = reads(&wrong).await.expect_err("the password is another one");
    assert_eq!(exit, ExitCode::SourceDown, "{told}");
    assert!(told.contains("`keyed`") && !told.contains("guessed"), "{told}");
}
