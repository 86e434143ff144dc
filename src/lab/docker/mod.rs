//! A lab of containers, in docker or podman.
//!
//! *Network.* Each lab has one of its own, closed: nothing in it reaches the world or another container, and nothing
//! but this host reaches into it. This host is reached from inside, at what listens on all its addresses: a Redis that
//! is restored fetches its dump from here. There are three ways in, and no port is published where one of the first
//! two is open:
//!
//! 1. The network's bridge is an interface of this host: servers are reached at their addresses.
//! 2. This process runs in a container of the same engine: that container is attached to the network until the lab is
//!    removed. Folders that a program is to see must then be mounted from the host.
//! 3. The network is apart from this host, as with an engine without root or one in a machine of its own: servers are
//!    published at 127.0.0.1 on ports that the engine chooses. Docker publishes nothing of a closed network, so there
//!    it is an open one whose addresses are not translated: what leaves it finds no way back.
//!
//! An engine on another machine is refused, unless this process runs there too.
//!
//! *Order.* What was left behind is reaped; images are looked for, or pulled, before anything starts; then the network,
//! then all containers at once. A server is ready when it says its first byte: a published port accepts connections
//! long before that. A removal waits for what the engine is making, also when nobody else does any more. *Crash.*
//! Everything carries the labels of its lab from its first moment; data lies in volumes without a name, or in memory,
//! and goes with its container.
//!
//! *Limits.* Memory without swap, processors, processes; no new privileges, few capabilities; logs of 2 MiB.

mod container;
mod engine;
#[cfg(test)]
mod fake;
mod images;
mod place;
mod reap;
mod watch;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    body_full,
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptions, KillContainerOptions, StartContainerOptions, UploadToContainerOptionsBuilder,
        WaitContainerOptionsBuilder,
    },
};
use chrono::{DateTime, Utc};
use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all, try_join_all},
};
use rustix::process::{getegid, geteuid};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{OnceCell, RwLock},
    time::{sleep, timeout},
};

use self::{
    container::{Frame, files},
    engine::Engine,
    images::Image,
    place::Place,
    reap::Which,
};
pub use self::{
    engine::{address, answers},
    reap::reap,
};
use super::{Ended, Lab, Limits, Marks, OUTPUT_BYTES_MAX, Product, Program, Running, Server, not_run};
use crate::error::{Context, ExitCode, Failure, Result};

/// How long an image may take to be pulled.
const PULL_LIMIT: Duration = Duration::from_mins(20);
/// How long one attempt to reach a server may take, and the pause until the next.
const ATTEMPT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// A lab of containers.
pub struct DockerLab {
    engine: Engine,
    marks: Marks,
    limits: Limits,
    labels: HashMap<String, String>,
    pull_limit: Duration,
    must_publish: bool,
    /// Held by whatever is being made in the engine: a removal waits for it.
    making: Arc<RwLock<()>>,
    place: OnceCell<Place>,
    started: Mutex<Vec<Started>>,
}

/// A server that was started.
#[derive(Clone)]
struct Started {
    name: String,
    container: String,
    image: Image,
}

impl DockerLab {
    /// Opens a lab in the container engine at `socket` ([`address`]), after removing what was left behind by earlier
    /// ones of the same task, and what expired until `now`. The caller holds the task's lock.
    pub async fn open(
        socket: Option<&str>,
        marks: Marks,
        limits: Limits,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let engine = Engine::open(socket).await?;
        let left = Which::Left { stack: &marks.stack, host: &marks.host, task: &marks.task, now };
        reap::remove(&engine.docker, &left).await?;
        let lifetime = chrono::Duration::from_std(limits.lifetime).unwrap_or(chrono::Duration::MAX);
        let expires = now.checked_add_signed(lifetime).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let labels = reap::labels(&marks, expires);
        Ok(Self::new(engine, marks, limits, labels))
    }

    fn new(engine: Engine, marks: Marks, limits: Limits, labels: HashMap<String, String>) -> Self {
        Self {
            engine,
            marks,
            limits,
            labels,
            pull_limit: PULL_LIMIT,
            must_publish: false,
            making: Arc::default(),
            place: OnceCell::new(),
            started: Mutex::default(),
        }
    }

    /// Sets how long an image may take to be pulled.
    #[must_use]
    pub fn pulling_within(mut self, limit: Duration) -> Self {
        self.pull_limit = limit;
        self
    }

    /// Publishes servers at 127.0.0.1 even where they could be reached at their addresses.
    #[must_use]
    pub fn publishing(mut self) -> Self {
        self.must_publish = true;
        self
    }

    /// Lets the engine make something, and waits for it. Who stops waiting does not stop the engine, so that goes on
    /// until it is known what was made.
    async fn make<T: Send + 'static>(&self, work: BoxFuture<'static, Result<T>>) -> Result<T> {
        let making = self.making.clone().read_owned().await;
        let made = tokio::spawn(async move {
            let made = work.await;
            drop(making);
            made
        });
        made.await.failed(ExitCode::DrillNotRun, || "a part of the lab was not made".to_owned())?
    }

    /// Returns the lab's network, which is made when it is first needed.
    async fn place(&self) -> Result<&Place> {
        let make = || {
            let (engine, labels, must_publish) =
                (self.engine.clone(), self.labels.clone(), self.must_publish);
            let name = network_name(&self.marks);
            self.make(Box::pin(async move { Place::make(&engine, &name, &labels, must_publish).await }))
        };
        self.place.get_or_try_init(make).await
    }

    async fn image(&self, name: &str) -> Result<Image> {
        images::present(&self.engine.docker, name, self.pull_limit).await
    }

    async fn frame(&self) -> Result<Frame<'_>> {
        let owner = format!("{}:{}", geteuid().as_raw(), getegid().as_raw());
        Ok(Frame {
            limits: &self.limits,
            labels: &self.labels,
            place: self.place().await?,
            is_podman: self.engine.is_podman,
            // An engine without root maps root of its containers to this user.
            owner: Some(owner).filter(|_| !self.engine.is_apart),
        })
    }

    async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String> {
        let (docker, what) = (self.engine.docker.clone(), format!("failed to make a container for `{name}`"));
        self.make(Box::pin(async move {
            let created = docker.create_container(None::<CreateContainerOptions>, body).await;
            Ok(created.failed(ExitCode::DrillNotRun, || what)?.id)
        }))
        .await
    }

    async fn begin(&self, name: &str, container: &str) -> Result<()> {
        let begun = self.engine.docker.start_container(container, None::<StartContainerOptions>).await;
        begun.failed(ExitCode::DrillNotRun, || format!("failed to start `{name}` in the lab"))
    }

    /// Starts a server, which may not be ready for a while.
    async fn start_one(&self, server: &Server, image: Image) -> Result<Started> {
        let container = self.create(&server.name, self.frame().await?.server(server, &image)).await?;
        if let Some((folder, archive)) = files(server)? {
            let options = UploadToContainerOptionsBuilder::default().path(folder).build();
            let docker = &self.engine.docker;
            let sent = docker.upload_to_container(&container, Some(options), body_full(archive.into())).await;
            sent.failed(ExitCode::DrillNotRun, || format!("failed to give `{}` its settings", server.name))?;
        }
        let started = Started { name: server.name.clone(), container, image };
        // It is known before it runs, so that one that ends at once is told by `check` as well.
        self.started.lock().unwrap_or_else(PoisonError::into_inner).push(started.clone());
        self.begin(&server.name, &started.container).await?;
        Ok(started)
    }

    /// Waits until a server answers.
    async fn ready(&self, server: &Server, started: &Started) -> Result<Running> {
        let docker = &self.engine.docker;
        let (place, port) = (self.place().await?, server.product.port());
        let answers = async {
            loop {
                let found = watch::runs(docker, &started.container, &server.name).await?;
                let address = found.network_settings.and_then(|settings| place.reach(&settings, port));
                if let Some(address) = address
                    && timeout(ATTEMPT, says_something(server.product, address)).await.unwrap_or_default()
                {
                    return Ok::<_, Failure>(address);
                }
                sleep(PAUSE).await;
            }
        };
        let Ok(found) = timeout(self.limits.start, answers).await else {
            let seconds = self.limits.start.as_secs();
            let failure =
                not_run(format!("the server `{}` of the lab did not answer in {seconds} s", server.name));
            return Err(watch::with_log(docker, &started.container, failure).await);
        };
        Ok(Running {
            name: server.name.clone(),
            address: found?,
            inside: format!("{}:{port}", server.name),
            image: started.image.shown.clone(),
        })
    }

    fn started(&self) -> Vec<Started> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns where a program finds the servers that run, `name:address` each: not every engine answers for names in
    /// a closed network.
    async fn hosts(&self) -> Result<Vec<String>> {
        let place = self.place().await?;
        let mut hosts = Vec::new();
        for Started { name, container, .. } in self.started() {
            let found = watch::look_at(&self.engine.docker, &container).await;
            let found = found.failed(ExitCode::DrillNotRun, || {
                format!("failed to look at the server `{name}` of the lab")
            })?;
            let address = found.network_settings.and_then(|settings| place.address(&settings));
            hosts.extend(address.map(|address| format!("{name}:{address}")));
        }
        Ok(hosts)
    }

    async fn image_of(&self, program: &Program) -> Result<Image> {
        let beside =
            |name: &str| self.started().into_iter().find(|one| one.name == name).map(|one| one.image);
        match (&program.image, &program.beside) {
            (Some(image), _) => self.image(image).await,
            (None, Some(server)) => beside(server).ok_or_else(|| {
                not_run(format!("`{}` is to run beside `{server}`, which the lab has not", program.name))
            }),
            (None, None) => Err(not_run(format!("`{}` has no image to run in", program.name))
                .hint("Set its image, or drill a source that has a server.")),
        }
    }

    /// Waits for a program's end, or ends it.
    async fn end_of(&self, program: &Program, container: &str) -> Result<Ended> {
        // The engine answers when the program has ended, so the time for a request is that for the program.
        let patient = self.engine.docker.clone().with_timeout(program.timeout + ATTEMPT);
        let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
        let mut ends = Box::pin(patient.wait_container(container, Some(options)));
        let docker = &self.engine.docker;
        let in_time = timeout(program.timeout, ends.next()).await.is_ok();
        if !in_time {
            // It may have ended by itself in this moment.
            let _ = docker.kill_container(container, None::<KillContainerOptions>).await;
        }
        let found = watch::look_at(docker, container).await;
        let found =
            found.failed(ExitCode::DrillNotRun, || format!("failed to see how `{}` ended", program.name))?;
        let state = found.state.unwrap_or_default();
        if in_time && state.running.unwrap_or_default() {
            return Err(not_run(format!("the container engine lost sight of `{}`", program.name)));
        }
        let mut output = watch::output(docker, container, OUTPUT_BYTES_MAX).await;
        if state.oom_killed.unwrap_or_default() {
            output.push_str("\n(it was out of memory)");
        }
        Ok(Ended { code: state.exit_code.filter(|_| in_time), output })
    }
}

/// Returns whether a server at `address` says at least a byte: MySQL greets, the others answer.
async fn says_something(product: Product, address: SocketAddr) -> bool {
    let hello: &[u8] = match product {
        Product::Mysql | Product::Mariadb => b"",
        Product::Redis => b"PING\r\n",
        Product::S3 => b"GET / HTTP/1.0\r\n\r\n",
    };
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    stream.write_all(hello).await.is_ok() && stream.read_u8().await.is_ok()
}

/// Returns a name that people recognise among the engine's networks.
fn network_name(marks: &Marks) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    format!("lifeboat-lab-{}-{}-{}", marks.stack, marks.task, marks.drill).chars().map(fits).collect()
}

#[async_trait]
impl Lab for DockerLab {
    fn describe(&self) -> String {
        self.engine.name.clone()
    }

    async fn start(&self, servers: &[Server]) -> Result<Vec<Running>> {
        let images = try_join_all(servers.iter().map(|server| self.image(&server.image))).await?;
        self.place().await?;
        // All are waited for, also after one has failed: nothing is being made any more when this returns.
        let starts = servers.iter().zip(images).map(|(server, image)| self.start_one(server, image));
        let started: Vec<Started> = join_all(starts).await.into_iter().collect::<Result<_>>()?;
        try_join_all(servers.iter().zip(&started).map(|(server, started)| self.ready(server, started))).await
    }

    async fn check(&self) -> Result<()> {
        for started in self.started() {
            watch::runs(&self.engine.docker, &started.container, &started.name).await?;
        }
        Ok(())
    }

    async fn run(&self, program: &Program) -> Result<Ended> {
        let image = self.image_of(program).await?;
        let body = self.frame().await?.program(program, &image, self.hosts().await?)?;
        let container = self.create(&program.name, body).await?;
        let ended = async {
            self.begin(&program.name, &container).await?;
            self.end_of(program, &container).await
        };
        let ended = ended.await;
        // If it stays, the lab's own removal finds it.
        let _ = reap::remove_container(&self.engine.docker, &container).await;
        ended
    }

    async fn remove(&self) -> Result<()> {
        let _nothing_is_made = self.making.write().await;
        self.started.lock().unwrap_or_else(PoisonError::into_inner).clear();
        reap::remove(&self.engine.docker, &Which::This(&self.marks)).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::{fake::Fake, *};

    #[tokio::test]
    async fn who_stops_waiting_for_a_container_leaves_none_behind() {
        let text = str::to_owned;
        let marks = Marks { stack: text("im"), host: text("a"), task: text("drill"), drill: text("1") };
        let labels = reap::labels(&marks, DateTime::UNIX_EPOCH);
        let fake = Fake::start(labels.clone(), &[], &[]);
        let engine = Engine {
            docker: fake.client(),
            address: String::new(),
            name: String::new(),
            is_podman: false,
            is_apart: false,
        };
        let limits = Limits {
            memory_bytes: 1 << 30,
            cpu_percent: None,
            data_in_memory: false,
            start: Duration::from_mins(1),
            lifetime: Duration::from_mins(1),
        };
        let lab = DockerLab::new(engine, marks, limits, labels);
        tokio::select! {
            _ = lab.create("cache", ContainerCreateBody::default()) => panic!("the engine takes its time"),
            () = fake.is_asked() => {}
        }
        let mut removal = std::pin::pin!(lab.remove());
        // While the engine is at it a removal finds nothing, and has to wait.
        let early = timeout(Duration::from_millis(300), &mut removal).await;
        fake.make();
        assert!(early.is_err(), "it was not waited for");
        removal.await.unwrap();
        assert_eq!(fake.containers().len(), 0);
    }

    #[test]
    fn a_network_has_a_name_that_every_engine_takes() {
        let text = str::to_owned;
        let marks =
            Marks { stack: text("im suite"), host: text("a"), task: text("drill"), drill: text("2026T-1") };
        assert_eq!(network_name(&marks), "lifeboat-lab-im-suite-drill-2026T-1");
    }

    #[tokio::test]
    async fn without_an_engine_nothing_is_drilled() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("none.sock");
        let failure = reap(socket.to_str(), "im", "a", "drill", DateTime::UNIX_EPOCH).await.unwrap_err();
        assert_eq!(failure.exit(), ExitCode::DrillNotRun);
        assert!(failure.to_string().starts_with("no container engine answers at `unix:///"));
        assert!(failure.hints()[0].contains("lifeboat doctor"));
        let scheme = reap(Some("ssh://host"), "im", "a", "drill", DateTime::UNIX_EPOCH).await.unwrap_err();
        assert!(scheme.chain()[1].contains("not supported"), "{:?}", scheme.chain());
    }
}
