//! The sources: each engine looks at its own, all at once, and none for longer than [`LIMIT`].

use std::time::Duration;

use futures_util::future::join_all;

use super::{Looked, Looking, registry, schedule};
use crate::{
    finding::{Finding, Status, laws},
    jobs::open,
};

laws! {
    page "doctor";
    TIME = "source.time",
        "a source can be looked at within a minute",
        "Something that is asked does not answer: look into the server's own log and at the network.";
}

/// How long one source may take.
const LIMIT: Duration = Duration::from_mins(1);

/// Looks at the sources, in the order in which a snapshot reads them.
pub(super) async fn look(looking: Looking<'_>) -> Looked {
    let Looking { stack, ground, .. } = looking;
    let every = schedule::backups_every(stack, ground.clock.now());
    let home = &open::home(stack);
    let sources = stack.sources_in_order().into_iter().filter(|one| looking.takes(one.name.as_str()));
    let all = join_all(sources.map(async |source| {
        let thing = format!("source.{}", source.name);
        let examined = registry::examine(source, every, home, ground);
        let findings = match tokio::time::timeout(LIMIT, examined).await {
            Ok(findings) => findings,
            Err(_) => {
                vec![TIME.found(Status::Unknown, format!("nothing was heard for {} s", LIMIT.as_secs()))]
            }
        };
        findings.into_iter().map(|finding| finding.of(&thing)).collect::<Vec<Finding>>()
    }));
    let findings: Vec<Finding> = all.await.into_iter().flatten().collect();
    let is_down = |one: &Finding| one.status == Status::Broken && one.name() == "answers";
    Looked { source_is_down: findings.iter().any(is_down), findings, ..Looked::default() }
}
