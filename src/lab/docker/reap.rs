//! What labs leave behind: found by its labels, and removed.
//!
//! *Order.* Containers with their volumes first, then networks, which nothing may be attached to. Each is tried
//! whatever became of the others; then is looked again, until nothing is left. *Crash.* What is left is found the next
//! time by the same labels.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use bollard::{
    Docker,
    errors::Error,
    models::NetworkDisconnectRequest,
    query_parameters::{
        InspectContainerOptions, InspectNetworkOptions, ListContainersOptionsBuilder,
        ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use chrono::{DateTime, SecondsFormat, Utc};
use tokio::time::sleep;

use super::{
    super::{Marks, not_run},
    engine::{Engine, is_busy, is_missing, with_label},
};
use crate::error::{Context, ExitCode, Failure, Result};

const STACK: &str = "lifeboat.lab.stack";
const HOST: &str = "lifeboat.lab.host";
const TASK: &str = "lifeboat.lab.task";
const DRILL: &str = "lifeboat.lab.drill";
const EXPIRES: &str = "lifeboat.lab.expires";

/// How often is looked again for what a lab still has.
const ROUNDS_MAX: u32 = 10;
/// How often something that is going away is looked for again, and how long it is left alone between.
const LOOKS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

type Labels = HashMap<String, String>;

/// Removes the labs that a task of a stack and host left behind, and those of the stack, whoever's, whose time is up.
/// Returns how many there were. The caller holds the task's lock: no lab of it is at work.
pub async fn reap(
    socket: Option<&str>,
    stack: &str,
    host: &str,
    task: &str,
    now: DateTime<Utc>,
) -> Result<u64> {
    let engine = Engine::open(socket).await?;
    remove(&engine.docker, &Which::Left { stack, host, task, now }).await
}

/// Returns the labels of everything in a lab.
pub(super) fn labels(marks: &Marks, expires: DateTime<Utc>) -> Labels {
    let expires = expires.to_rfc3339_opts(SecondsFormat::Secs, true);
    let all = [
        (STACK, &marks.stack),
        (HOST, &marks.host),
        (TASK, &marks.task),
        (DRILL, &marks.drill),
        (EXPIRES, &expires),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect()
}

/// Which labs are meant.
pub(super) enum Which<'a> {
    /// One.
    This(&'a Marks),
    /// Those that were left behind.
    Left { stack: &'a str, host: &'a str, task: &'a str, now: DateTime<Utc> },
}

impl Which<'_> {
    fn stack(&self) -> &str {
        match self {
            Self::This(marks) => &marks.stack,
            Self::Left { stack, .. } => stack,
        }
    }

    /// Returns whether a thing with these labels is meant.
    fn means(&self, labels: &Labels) -> bool {
        let is = |name: &str, value: &str| labels.get(name).is_some_and(|found| found == value);
        let fits = match self {
            Self::This(marks) => is(HOST, &marks.host) && is(TASK, &marks.task) && is(DRILL, &marks.drill),
            Self::Left { host, task, now, .. } => {
                let is_over = labels.get(EXPIRES).is_some_and(|end| is_over(end, *now));
                is_over || is(HOST, host) && is(TASK, task)
            }
        };
        fits && is(STACK, self.stack())
    }
}

fn is_over(end: &str, now: DateTime<Utc>) -> bool {
    // A time that cannot be read is not ours: it is left alone.
    DateTime::parse_from_rfc3339(end).is_ok_and(|end| end <= now)
}

/// Removes everything that is meant, and returns how many labs it was of. Looks again until nothing is there: the
/// engine may still have been making something that nobody waited for.
pub(super) async fn remove(docker: &Docker, which: &Which<'_>) -> Result<u64> {
    let mut labs = BTreeSet::new();
    for _ in 0..ROUNDS_MAX {
        let found =
            async { Ok::<_, Error>((containers(docker, which).await?, networks(docker, which).await?)) };
        let (containers, networks) = found
            .await
            .failed(ExitCode::DrillNotRun, || "failed to list what drills left behind".to_owned())?;
        if containers.is_empty() && networks.is_empty() {
            return Ok(labs.len() as u64);
        }
        let mut troubles = Vec::new();
        for (id, _) in &containers {
            troubles.extend(remove_container(docker, id).await.err());
        }
        for (id, _) in &networks {
            troubles.extend(remove_network(docker, id).await.err());
        }
        if !troubles.is_empty() {
            let told: Vec<String> = troubles.iter().map(ToString::to_string).collect();
            return Err(stays(which, troubles.len()).because(told.join("; ")));
        }
        labs.extend(containers.into_iter().chain(networks).map(|(_, lab)| lab));
    }
    Err(stays(which, labs.len()).because("something is added to them all the time"))
}

fn stays(which: &Which<'_>, count: usize) -> Failure {
    not_run(format!("{count} things of a lab were not removed")).hint(format!(
        "The next drill tries again. By hand: `docker ps -aq --filter label={STACK}={} | xargs docker rm -fv`.",
        which.stack()
    ))
}

/// A thing's id, and the lab that it is of.
type Thing = (String, [String; 3]);

fn thing(id: Option<String>, labels: Option<Labels>, which: &Which<'_>) -> Option<Thing> {
    let labels = labels.filter(|labels| which.means(labels))?;
    let lab = [HOST, TASK, DRILL].map(|name| labels.get(name).cloned().unwrap_or_default());
    Some((id?, lab))
}

async fn containers(docker: &Docker, which: &Which<'_>) -> Result<Vec<Thing>, Error> {
    let filter = with_label(STACK, which.stack());
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
    let found = docker.list_containers(Some(options)).await?;
    Ok(found.into_iter().filter_map(|one| thing(one.id, one.labels, which)).collect())
}

async fn networks(docker: &Docker, which: &Which<'_>) -> Result<Vec<Thing>, Error> {
    let filter = with_label(STACK, which.stack());
    let options = ListNetworksOptionsBuilder::default().filters(&filter).build();
    let found = docker.list_networks(Some(options)).await?;
    Ok(found.into_iter().filter_map(|one| thing(one.id, one.labels, which)).collect())
}

/// Ends a container and removes it with its volumes; waits if somebody else is at it.
pub(super) async fn remove_container(docker: &Docker, id: &str) -> Result<(), Error> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match docker.remove_container(id, Some(options)).await {
        Err(error) if is_missing(&error) => Ok(()),
        Err(error) if is_busy(&error) => {
            for _ in 0..LOOKS {
                match docker.inspect_container(id, None::<InspectContainerOptions>).await {
                    Err(error) if is_missing(&error) => return Ok(()),
                    _ => sleep(PAUSE).await,
                }
            }
            Err(error)
        }
        other => other,
    }
}

/// Removes a network. What is not of a lab, as this very process's own container, is detached only.
async fn remove_network(docker: &Docker, id: &str) -> Result<(), Error> {
    let mut last = Ok(());
    for _ in 0..LOOKS {
        let attached = match docker.inspect_network(id, None::<InspectNetworkOptions>).await {
            Err(error) if is_missing(&error) => return Ok(()),
            found => found?.containers.unwrap_or_default(),
        };
        for container in attached.into_keys() {
            let request = NetworkDisconnectRequest { container, force: Some(true) };
            // It may have gone in between; the removal tells.
            let _ = docker.disconnect_network(id, request).await;
        }
        last = docker.remove_network(id).await;
        match &last {
            Err(error) if is_missing(error) => return Ok(()),
            Err(error) if is_busy(error) => sleep(PAUSE).await,
            _ => break,
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::{super::fake::Fake, *};

    fn marks(stack: &str, host: &str, task: &str, drill: &str) -> Marks {
        let text = str::to_owned;
        Marks { stack: text(stack), host: text(host), task: text(task), drill: text(drill) }
    }

    #[test]
    fn a_lab_is_left_behind_when_its_task_begins_anew_or_its_time_is_up() {
        let now = DateTime::UNIX_EPOCH + chrono::Duration::hours(10);
        let (later, earlier) = (now + chrono::Duration::seconds(1), now);
        let left = Which::Left { stack: "im", host: "a", task: "drill", now };
        for (stack, host, task, expires, means) in [
            ("im", "a", "drill", later, true),
            ("im", "a", "by-hand", later, false),
            ("im", "b", "drill", later, false),
            ("other", "a", "drill", later, false),
            ("im", "b", "by-hand", earlier, true),
            ("other", "a", "drill", earlier, false),
        ] {
            let found = labels(&marks(stack, host, task, "1"), expires);
            assert_eq!(left.means(&found), means, "{stack} {host} {task} {expires}");
        }
        let mut unreadable = labels(&marks("im", "b", "drill", "1"), earlier);
        unreadable.insert(EXPIRES.to_owned(), "soon".to_owned());
        assert!(!left.means(&unreadable));
    }

    #[test]
    fn a_lab_removes_itself_and_no_other() {
        let mine = marks("im", "a", "drill", "2");
        let now = DateTime::UNIX_EPOCH;
        let this = Which::This(&mine);
        assert!(this.means(&labels(&mine, now)));
        assert!(!this.means(&labels(&marks("im", "a", "drill", "1"), now)));
        assert!(!this.means(&Labels::new()));
    }

    #[tokio::test]
    async fn what_appears_while_a_lab_is_removed_is_removed_too() {
        let mine = marks("im", "a", "drill", "2");
        let engine = Fake::start(labels(&mine, DateTime::UNIX_EPOCH), &["one"], &["three", "two"]);
        let removed = remove(&engine.client(), &Which::This(&mine)).await.unwrap();
        assert_eq!((removed, engine.containers()), (1, Vec::new()));
    }

    #[tokio::test]
    async fn a_lab_to_which_somebody_goes_on_adding_is_given_up() {
        let mine = marks("im", "a", "drill", "2");
        let engine = Fake::start(labels(&mine, DateTime::UNIX_EPOCH), &["one"], &["more"; 100]);
        let failure = remove(&engine.client(), &Which::This(&mine)).await.unwrap_err();
        assert_eq!(failure.exit(), ExitCode::DrillNotRun);
        assert!(failure.hints()[0].contains("docker rm -fv"), "{:?}", failure.hints());
    }
}
