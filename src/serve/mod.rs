//! The service: it does on a schedule what a person does at the command line, and tells how the stack stands.
//!
//! *Order.* What a service before it left undone is taken up first; then it listens, says that it is ready, and from
//! then on every few seconds: the scheduler says what begins, each run goes into a thread of its own, what is wrong is
//! compared with what was, and messages go out from a task of their own.
//!
//! *Stop.* SIGTERM asks the runs at work to end and waits for them; a backup finishes the packs in hand. What was not
//! done is done by the next service. *Crash.* Everything that the service knows is in the catalog; see
//! [`scheduler::Scheduler::recover`].
//!
//! *Reload.* SIGHUP reads the policy again. One that cannot be used changes nothing and is told.

mod http;
mod log;
pub mod metrics;
mod once;
mod run;
pub mod scheduler;

use std::{
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

pub use self::{log::Format, once::once};
use self::{
    log::Log,
    run::{Ended, begin, clear_away},
    scheduler::Scheduler,
};
use crate::{
    catalog::Catalog,
    clock::Ground,
    error::{Context, ExitCode, Failure, Result},
    event::{Monitor, SharedMonitor},
    jobs::{
        backup::host_name,
        notify,
        open::{self, RunLock},
        recall::{Recalled, recall},
        standing,
        watch::{self, POLICY_REFUSED},
    },
    names::Task,
    policy::{Need, Stack},
};

/// How long the loop sleeps at most: a clock that is set, or a host that wakes, is noticed this soon.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often what is wrong is worked out though nothing ended.
const WATCH_EVERY: chrono::Duration = chrono::Duration::seconds(30);
/// How often messages that are due are looked for.
const DELIVER_EVERY: Duration = Duration::from_secs(2);
/// How long runs that were asked to end may take to finish what they have in hand.
const STOP_PATIENCE: Duration = Duration::from_mins(1);
/// How long the start waits for what drills left behind to be removed.
const REAP_PATIENCE: Duration = Duration::from_secs(5);
/// How often what is too old is forgotten.
const FORGET_EVERY: chrono::Duration = chrono::Duration::hours(24);
/// Runs that wait to be taken note of.
const ENDED_WAITING: usize = 64;

/// What the service is started with.
pub struct Options {
    /// The policy's file, which SIGHUP reads again.
    pub policy: PathBuf,
    /// The policy.
    pub stack: Stack,
    /// An address instead of the policy's.
    pub listen: Option<String>,
    /// A file instead of the policy's.
    pub textfile: Option<PathBuf>,
    /// How lines are written.
    pub format: Format,
    /// Time and chance.
    pub ground: Ground,
}

/// What the parts of the service share.
struct Shared {
    stack: RwLock<Arc<Stack>>,
    ledger: Arc<Catalog>,
    ground: Ground,
    textfile: Option<PathBuf>,
    /// When the loop last went round, in seconds since 1970; 0 before the first time.
    looked: AtomicI64,
}

impl Shared {
    fn stack(&self) -> Arc<Stack> {
        self.stack.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn textfile(&self) -> Option<PathBuf> {
        self.textfile.clone().or_else(|| self.stack().serve.textfile.clone())
    }
}

/// Runs the service until it is told to stop.
pub async fn serve(options: Options) -> Result<()> {
    let Options { policy, stack, listen, textfile, format, ground } = options;
    let log = Arc::new(Log::new(format, ground.clock.clone()));
    let monitor: SharedMonitor = log.clone();
    let stack = Arc::new(stack);
    let address = listen.unwrap_or_else(|| stack.serve.listen.clone());
    let _only_one = RunLock::of_schedule(&stack)?;
    let ledger = open::ledger(&stack, &monitor)?;
    let looked = AtomicI64::new(0);
    let shared = Arc::new(Shared { stack: RwLock::new(stack.clone()), ledger, ground, textfile, looked });
    let listener = TcpListener::bind(&address).await.failed(ExitCode::Failed, || {
        format!("nothing can listen at `{address}`: another service may be at work there")
    })?;
    let stop = CancellationToken::new();
    let web = tokio::spawn(http::serve(listener, shared.clone(), stop.clone()));
    let post = tokio::spawn(deliver(shared.clone(), log.clone(), stop.clone()));
    let scheduler = Scheduler::new(stack, shared.ledger.clone(), &host_name());
    let (tell, hear) = mpsc::channel(ENDED_WAITING);
    let mut service =
        Service { policy, shared, scheduler, log, tell, hear, watched: None, forgot: None, told: None };
    let ended = service.run(&address).await;
    stop.cancel();
    // What is to be told of the last moments goes out before the process does.
    let _ = tokio::time::timeout(STOP_PATIENCE, post).await;
    web.abort();
    ended
}

/// The loop.
struct Service {
    policy: PathBuf,
    shared: Arc<Shared>,
    scheduler: Scheduler,
    log: Arc<Log>,
    tell: mpsc::Sender<Ended>,
    hear: mpsc::Receiver<Ended>,
    watched: Option<DateTime<Utc>>,
    forgot: Option<DateTime<Utc>>,
    /// The trouble that was told last, as long as it lasts.
    told: Option<String>,
}

impl Service {
    async fn run(&mut self, address: &str) -> Result<()> {
        let listen = |kind| signal(kind).failed(ExitCode::Failed, || "signals cannot be heard".to_owned());
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut hangup: Signal = listen(SignalKind::hangup())?;
        // The policy was read just now, whatever the service before this one thought of it.
        if let Err(failure) = self.shared.ledger.forget_observation(POLICY_REFUSED) {
            self.log.failure(&failure);
        }
        self.take_up();
        self.reap().await;
        self.go_round();
        self.log.step(None, format!("ready: {} of stack {}", self.next_text(), self.shared.stack().name));
        self.log.step(None, format!("metrics and health at http://{address}/"));
        systemd(&[sd_notify::NotifyState::Ready]);
        loop {
            let sleep = self.sleep();
            tokio::select! {
                Some(ended) = self.hear.recv() => self.take_note(ended),
                () = tokio::time::sleep(sleep) => {}
                _ = hangup.recv() => self.reload(),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
            if self.shared.ledger.is_displaced() {
                self.heal();
            }
            self.go_round();
        }
        self.stop().await
    }

    /// Takes up what the service before this one left, and what a catalog that is new does not know. The store may be
    /// slow to tell, or not there: nothing waits for it.
    fn take_up(&mut self) {
        for task in self.scheduler.recover(self.now()) {
            self.log.warn(None, format!("{task} died with the service before this one"), None);
        }
        let (shared, log, runtime) = (self.shared.clone(), self.log.clone(), Handle::current());
        tokio::task::spawn_blocking(move || {
            let monitor: SharedMonitor = log.clone();
            match runtime.block_on(recall(&shared.stack(), &shared.ledger, &monitor)) {
                Ok(Recalled { backups, drills }) => {
                    if backups > 0 {
                        let what =
                            format!("the catalog is new: {backups} backups were recalled from the store");
                        log.step(None, what);
                    }
                    if drills > 0 {
                        log.step(None, format!("{drills} drills were recalled from the store"));
                    }
                }
                // A store that does not answer, or is not there yet, is the next backup's to tell.
                Err(failure) => log.failure(&failure),
            }
        });
    }

    /// Removes what a drill left behind that died with the service before this one, or by hand. A drill that is due now
    /// is to find its lock free, so that is waited for; but an engine may be slow, and the rest of the service is not.
    async fn reap(&self) {
        let (shared, log, runtime) = (self.shared.clone(), self.log.clone(), Handle::current());
        let reaped = tokio::task::spawn_blocking(move || runtime.block_on(clear_away(&shared, &log)));
        let _ = tokio::time::timeout(REAP_PATIENCE, reaped).await;
    }

    /// Makes the catalog again if it broke. A service that cannot write down what it does goes on all the same: a
    /// backup without a note is better than none, and what is wrong shows in metrics that stand still.
    fn heal(&mut self) {
        match self.shared.ledger.heal() {
            Ok(true) => {
                let what = "the catalog was broken or gone and was made again from the repository".to_owned();
                self.log.warn(None, what, None);
                self.take_up();
            }
            Ok(false) => {}
            Err(failure) => self.log.failure(&failure),
        }
    }

    fn now(&self) -> DateTime<Utc> {
        self.shared.ground.clock.now()
    }

    /// Begins what is due and looks what is wrong. Trouble with the catalog is told, and stops neither.
    fn go_round(&mut self) {
        let now = self.now();
        for start in self.scheduler.tick(now) {
            self.log.step(None, format!("{} begins{}", start.task, nth(start.attempt)));
            begin(start, self.shared.clone(), self.log.clone(), self.tell.clone());
        }
        let mut trouble = self.scheduler.take_trouble();
        if self.watched.is_none_or(|last| now < last || now - last >= WATCH_EVERY) {
            trouble = trouble.or(self.watch().err());
        }
        if self.forgot.is_none_or(|last| now < last || now - last >= FORGET_EVERY) {
            self.forgot = Some(now);
            trouble = trouble.or(forget(&self.shared, now).err());
        }
        self.shared.looked.store(now.timestamp(), Ordering::Relaxed);
        systemd(&[sd_notify::NotifyState::Watchdog, sd_notify::NotifyState::Status(&self.next_text())]);
        if let Some(failure) = trouble {
            // Once is enough for a trouble that lasts.
            let text = failure.one_line();
            if self.told.replace(text.clone()) != Some(text) {
                self.log.failure(&failure);
                self.heal();
            }
        } else {
            self.told = None;
        }
    }

    /// Works out what is wrong, notes it and writes the messages.
    fn watch(&mut self) -> Result<()> {
        let (shared, now) = (&self.shared, self.now());
        self.watched = Some(now);
        for change in watch::look(&shared.stack(), &shared.ledger, &shared.ground)? {
            self.log.change(&change);
        }
        write_textfile(shared, &self.log, now)
    }

    fn take_note(&mut self, ended: Ended) {
        let Ended { task, outcome } = ended;
        let outcome = self.scheduler.ended(&task, outcome, self.now());
        self.log.ended(&task, &outcome);
        self.watched = None;
    }

    /// Returns how long nothing needs to be looked at.
    fn sleep(&self) -> Duration {
        let now = self.now();
        let next = self.scheduler.next(now).and_then(|next| (next - now).to_std().ok());
        next.unwrap_or(LOOK_EVERY).clamp(Duration::from_millis(50), LOOK_EVERY)
    }

    /// Reads the policy again. The one that is in use stays when the new one cannot be.
    fn reload(&mut self) {
        let noted = match self.read_policy() {
            Ok(stack) => {
                let stack = Arc::new(stack);
                *self.shared.stack.write().unwrap_or_else(PoisonError::into_inner) = stack.clone();
                self.scheduler.adopt(stack);
                self.log.step(None, format!("the policy was read again: {}", self.next_text()));
                self.shared.ledger.forget_observation(POLICY_REFUSED)
            }
            Err(failure) => {
                let why = failure.one_line();
                let hint = "The policy that was in use still is.";
                self.log.warn(None, format!("the policy cannot be used: {why}"), Some(hint));
                self.shared.ledger.observe(POLICY_REFUSED, &why, self.now())
            }
        };
        self.watched = None;
        if let Err(failure) = noted {
            self.log.failure(&failure);
        }
    }

    fn read_policy(&self) -> Result<Stack> {
        let (new, old) = (Stack::load_for(&self.policy, Need::Sources)?, self.shared.stack());
        let same_place = new.repository.place == old.repository.place
            && new.repository.settings.state_dir == old.repository.settings.state_dir;
        if new.name != old.name || !same_place {
            let what = "it names another stack, repository or state folder than the service was started with";
            return Err(Failure::new(ExitCode::Usage, what).hint("Restart the service for that."));
        }
        Ok(new)
    }

    /// Says what comes next.
    fn next_text(&self) -> String {
        let (stack, now) = (self.shared.stack(), self.now());
        let at_work: Vec<String> = self.scheduler.at_work().iter().map(Task::to_string).collect();
        if !at_work.is_empty() {
            return format!("at work: {}", at_work.join(", "));
        }
        match self.scheduler.next(now) {
            Some(next) => format!("next run at {}", next.with_timezone(&stack.timezone).format("%F %T %z")),
            None => "nothing is on the schedule".to_owned(),
        }
    }

    /// Asks what is at work to end, and waits for it.
    async fn stop(&mut self) -> Result<()> {
        systemd(&[sd_notify::NotifyState::Stopping]);
        let at_work = self.scheduler.stop();
        let names: Vec<String> = at_work.iter().map(Task::to_string).collect();
        self.log.step(None, format!("stopping; at work: [{}]", names.join(", ")));
        let until = tokio::time::Instant::now() + STOP_PATIENCE;
        while !self.scheduler.at_work().is_empty() {
            let Ok(Some(ended)) = tokio::time::timeout_at(until, self.hear.recv()).await else {
                let what = "gave up waiting for what is at work: the next service takes it up".to_owned();
                self.log.warn(None, what, None);
                break;
            };
            let outcome = self.scheduler.ended(&ended.task, ended.outcome, self.now());
            self.log.ended(&ended.task, &outcome);
        }
        self.log.step(None, "stopped".to_owned());
        Ok(())
    }
}

fn nth(attempt: u32) -> String {
    if attempt > 1 { format!(", try {attempt}") } else { String::new() }
}

/// Forgets what nobody asks for any more.
fn forget(shared: &Shared, now: DateTime<Utc>) -> Result<()> {
    let before = now - chrono::Duration::days(i64::from(shared.stack().serve.remember_days));
    shared.ledger.forget_runs(before)?;
    shared.ledger.forget_slots(before)?;
    shared.ledger.forget_drills(before)?;
    shared.ledger.forget_messages(before)
}

/// Writes the metrics into the policy's file, if it names one. That it cannot be written is told and stops nothing.
fn write_textfile(shared: &Shared, log: &Log, now: DateTime<Utc>) -> Result<()> {
    let Some(path) = shared.textfile() else { return Ok(()) };
    let standing = standing::gather(&shared.stack(), &shared.ledger, now)?;
    if let Err(failure) = metrics::write_textfile(&path, &metrics::render(&standing)) {
        log.failure(&failure);
    }
    Ok(())
}

/// Sends messages for as long as the service lives, whatever becomes of the runs that they tell of.
async fn deliver(shared: Arc<Shared>, log: Arc<Log>, stop: CancellationToken) {
    let deliverer = notify::Deliverer::new(&shared.ground);
    loop {
        let stack = shared.stack();
        match deliverer.deliver(&stack, &shared.ledger, &shared.ground).await {
            Ok(delivered) => log.delivered(&delivered),
            Err(failure) => log.failure(&failure),
        }
        if stop.is_cancelled() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(DELIVER_EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Tells systemd, if it is there. That it does not listen must not stop a backup.
fn systemd(states: &[sd_notify::NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}
