//! What drills leave behind that were killed or given up, removed: their labs, and the folders that they worked in.
//!
//! *Order.* Of each way to drill that nobody is at: the lab first, for what runs there may still write into the folder;
//! then the folder. Whatever goes wrong, the rest is removed all the same, and all of it is told. *Crash.* What is left
//! is found the next time.

use super::{labs, marks_of, watch::Workplace};
use crate::{
    clock::Ground,
    drill::Way,
    error::{ExitCode, Failure},
    jobs::{drilled::task_of, open::RunLock},
    lab::{self, Marks},
    names::Task,
    policy::{LabKind, Stack},
};

/// What came of it.
#[derive(Debug, Default)]
pub struct Reaped {
    /// How many labs were removed.
    pub labs: u64,
    /// What could not be, each once.
    pub troubles: Vec<Failure>,
}

impl Reaped {
    fn tell(&mut self, trouble: Failure) {
        if self.troubles.iter().all(|told| told.one_line() != trouble.one_line()) {
            self.troubles.push(trouble);
        }
    }
}

/// Removes what drills of this stack left behind. A drill that is at work is left alone: it has its lock.
pub async fn reap(stack: &Stack, ground: &Ground) -> Reaped {
    let mut reaped = Reaped::default();
    for way in Way::ALL {
        let task = task_of(way);
        let _lock = match RunLock::take(stack, &task) {
            Ok(lock) => lock,
            Err(failure) if failure.exit() == ExitCode::Busy => continue,
            Err(failure) => {
                reaped.tell(failure);
                continue;
            }
        };
        let (count, troubles) = of_way(stack, way, &task, ground).await;
        reaped.labs += count;
        for failure in troubles {
            reaped.tell(failure);
        }
        if let Err(failure) = Workplace::clear(stack, way) {
            reaped.tell(failure);
        }
    }
    reaped
}

/// Looks at both kinds of labs: the policy may have named the other one then.
async fn of_way(stack: &Stack, way: Way, task: &Task, ground: &Ground) -> (u64, Vec<Failure>) {
    let Marks { stack: name, host, task, .. } = marks_of(stack, task, "");
    let (mut count, mut troubles) = lab::reap_processes(&labs(stack), &name, &host, &task).await;
    let socket = stack.drill.socket.as_deref();
    // A host that never drills needs no engine, and nobody wants to hear of it.
    let is_wanted = stack.drill.lab == LabKind::Docker
        && (stack.schedule.drill.is_some() || stack.drill.after_backup || Workplace::is_there(stack, way));
    if is_wanted || lab::docker::answers(socket).await {
        match lab::docker::reap(socket, &name, &host, &task, ground.clock.now()).await {
            Ok(reaped) => count += reaped,
            Err(failure) => troubles.push(failure),
        }
    }
    (count, troubles)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{fs::PermissionsExt, process::CommandExt},
        process::Command,
        time::Duration,
    };

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        lab::{Limits, ProcessLab},
        policy::Need,
    };

    fn stack(dir: &tempfile::TempDir, more: &str) -> Stack {
        let at = dir.path().display();
        let text = format!(
            "stack = \"shop\"\n[repository]\nstore = \"fs\"\noptions = {{ root = \"{at}/repo\" }}\n\
             recipients = [\"age1abc\"]\nstate_dir = \"{at}/state\"\n[drill]\n{more}\n"
        );
        Stack::parse(&text, "p.toml", Need::Repository).unwrap()
    }

    /// Leaves a lab behind in which this script runs, and returns the script's process.
    async fn left(stack: &Stack, script: &str) -> std::process::Child {
        let limits = Limits {
            memory_bytes: 0,
            cpu_percent: None,
            data_in_memory: false,
            start: Duration::ZERO,
            lifetime: Duration::from_hours(1),
        };
        let marks = marks_of(stack, &task_of(Way::Restore), "20261101T030000Z-7f3a");
        let file = labs(stack).join(format!("shop-drill-{}", marks.drill)).join("lab.json");
        // This process goes on living, as a service that gave a drill up does.
        drop(ProcessLab::open(&labs(stack), marks, limits).await.unwrap());
        let ready = file.with_extension("ready");
        let mut command = Command::new("bash");
        // It waits for what nobody writes, and has no other process to wait with.
        let wait = format!(
            "mkfifo '{0}'; exec 3<>'{0}'; touch '{1}'",
            ready.with_extension("pipe").display(),
            ready.display()
        );
        command.args(["-c", &format!("{script}; {wait}; read -t 1000 -u 3")]);
        let child = command.process_group(0).spawn().unwrap();
        while !ready.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let facts = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let started = facts.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap();
        let started: u64 = started.parse().unwrap();
        let mut trace: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        trace["processes"] = json!([{"pid": child.id(), "started": started, "program": "bash"}]);
        fs::write(file, trace.to_string()).unwrap();
        child
    }

    #[tokio::test]
    async fn a_lab_is_ended_before_its_folder_is_removed_and_what_goes_wrong_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let stack = stack(&dir, "lab = \"process\"");
        let work = Workplace::of(&stack, Way::Restore);
        fs::create_dir_all(&work).unwrap();
        // It writes once more when it is asked to end.
        let late = work.join("config/late");
        let script = format!(
            "trap \"mkdir -p '{}'; echo plain > '{}'; exit 0\" TERM",
            late.parent().unwrap().display(),
            late.display()
        );
        let mut child = left(&stack, &script).await;
        let unreadable = labs(&stack).join("a-lab-of-nobody");
        fs::create_dir(&unreadable).unwrap();
        fs::write(unreadable.join("lab.json"), "{}").unwrap();
        // No folder, and yet in the way.
        fs::write(Workplace::of(&stack, Way::ByHand), "").unwrap();

        let reaped = reap(&stack, &Ground::system()).await;
        assert!(child.wait().unwrap().success(), "it was asked to end");
        assert!(!work.exists(), "the folder was removed before who writes to it");
        let told: Vec<String> = reaped.troubles.iter().map(Failure::one_line).collect();
        assert_eq!((reaped.labs, told.len()), (1, 2), "{told:?}");
        assert!(told[0].contains("a-lab-of-nobody/lab.json"), "{told:?}");
        assert!(told[1].contains("-by-hand.work"), "{told:?}");
        assert!(unreadable.exists());
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_told_to_those_who_drill() {
        let dir = tempfile::tempdir().unwrap();
        let missing = format!("socket = \"{}/none.sock\"", dir.path().display());
        let never = reap(&stack(&dir, &missing), &Ground::system()).await;
        assert!(never.troubles.is_empty(), "{:?}", never.troubles);
        let drills = stack(&dir, &format!("{missing}\nafter_backup = true"));
        let told = reap(&drills, &Ground::system()).await.troubles;
        assert_eq!(told.len(), 1, "{told:?}");
        // One was made by hand, and died.
        let work = Workplace::of(&drills, Way::Restore);
        fs::create_dir_all(&work).unwrap();
        fs::set_permissions(&work, fs::Permissions::from_mode(0o700)).unwrap();
        let told = reap(&stack(&dir, &missing), &Ground::system()).await.troubles;
        assert!(told.len() == 1 && !work.exists(), "{told:?}");
    }
}
