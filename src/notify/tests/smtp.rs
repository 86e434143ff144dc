//! A mail server that speaks enough to take a mail, and remembers what was said to it.

use std::sync::{Arc, Mutex};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// The certificate of this server, made for tests and believed by nobody else.
pub const CERTIFICATE: &str = include_str!("localhost.crt");
const KEY: &str = include_str!("localhost.key");

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    Plain,
    StartTls,
    Tls,
}

/// What was said to the server.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// The commands, each with what it was said over: `tls` or `plain`.
    pub commands: Vec<String>,
    /// The user and the password of the last login.
    pub login: Option<(String, String)>,
    /// The mails that were taken.
    pub mails: Vec<String>,
}

/// The server; it goes when it is dropped.
pub struct Smtp {
    pub port: u16,
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

impl Smtp {
    /// Starts a server that answers a command of this kind so, and all others well.
    pub async fn starting(opening: Opening, answer: Option<(&'static str, &'static str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let desk = Desk { heard: heard.clone(), opening, answer, tls: acceptor() };
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(desk.clone().serve(stream));
            }
        });
        Self { port, heard, task }
    }

    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor() -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsAcceptor::from(Arc::new(
        config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap(),
    ))
}

#[derive(Clone)]
struct Desk {
    heard: Arc<Mutex<Heard>>,
    opening: Opening,
    answer: Option<(&'static str, &'static str)>,
    tls: TlsAcceptor,
}

impl Desk {
    async fn serve(self, stream: tokio::net::TcpStream) {
        if self.opening == Opening::Tls {
            if let Ok(stream) = self.tls.accept(stream).await {
                self.talk(stream, true, true).await;
            }
        } else if let Some(stream) = self.talk(stream, false, true).await
            && let Ok(stream) = self.tls.accept(stream).await
        {
            self.talk(stream, true, false).await;
        }
    }

    /// Talks until the other side goes, or wants to go on encrypted.
    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        is_encrypted: bool,
        greets: bool,
    ) -> Option<S> {
        let mut stream = BufReader::new(stream);
        if greets {
            stream.write_all(b"220 mail.test ESMTP\r\n").await.ok()?;
        }
        let mut line = String::new();
        loop {
            line.clear();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let command = line.trim_end().to_owned();
            let over = if is_encrypted { "tls" } else { "plain" };
            self.heard.lock().unwrap().commands.push(format!("{over} {command}"));
            let verb = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            let reply = match self.answer {
                Some((refused, reply)) if refused == verb => format!("{reply}\r\n"),
                _ => self.reply(&verb, &command, is_encrypted),
            };
            stream.write_all(reply.as_bytes()).await.ok()?;
            if reply.starts_with("354") {
                self.take_mail(&mut stream).await?;
                stream.write_all(b"250 2.0.0 taken\r\n").await.ok()?;
            }
            match verb.as_str() {
                "STARTTLS" if reply.starts_with("220") => return Some(stream.into_inner()),
                "QUIT" => return None,
                _ => {}
            }
        }
    }

    fn reply(&self, verb: &str, command: &str, is_encrypted: bool) -> String {
        match verb {
            "EHLO" if self.opening == Opening::StartTls && !is_encrypted => {
                "250-mail.test\r\n250-STARTTLS\r\n250 8BITMIME\r\n".to_owned()
            }
            "EHLO" => "250-mail.test\r\n250-AUTH PLAIN LOGIN\r\n250-SMTPUTF8\r\n250 8BITMIME\r\n".to_owned(),
            "AUTH" => {
                let word = BASE64_STANDARD.decode(command.rsplit(' ').next().unwrap()).unwrap();
                let word = String::from_utf8(word).unwrap();
                let mut parts = word.split('\0').skip(1).map(str::to_owned);
                self.heard.lock().unwrap().login = parts.next().zip(parts.next());
                "235 2.7.0 welcome\r\n".to_owned()
            }
            "STARTTLS" => "220 2.0.0 go on\r\n".to_owned(),
            "DATA" => "354 go on\r\n".to_owned(),
            "QUIT" => "221 bye\r\n".to_owned(),
            _ => "250 2.0.0 ok\r\n".to_owned(),
        }
    }

    async fn take_mail<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut BufReader<S>) -> Option<()> {
        let mut mail = String::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            if line == ".\r\n" {
                self.heard.lock().unwrap().mails.push(mail);
                return Some(());
            }
            mail.push_str(line.strip_prefix('.').unwrap_or(&line));
        }
    }
}
