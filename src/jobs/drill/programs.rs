//! The operator's own programs, run inside the lab.
//!
//! A program learns where the lab's servers are and the throwaway credentials made for them. Nothing of the stack's own
//! credentials is among it.
//!
//! One that could not be executed, or that a signal ended, has not said that anything is wrong: it could not run.

use std::{collections::BTreeMap, time::Duration};

use secrecy::ExposeSecret;

use super::{questions::Asking, rows::shown, scene::Cast};
use crate::{
    drill::{Assertion, FINDINGS_MAX, Question},
    error::{ExitCode, Failure, Result},
    lab::{Ended, Product, Program},
    policy::{CommandConfig, SecretRef, SourceKind},
};

#[cfg(test)]
mod tests;

/// The exit code of a program that was ended by the last of the signals.
const SIGNALLED_MAX: i64 = 128 + 64;

/// Runs a command of the policy. Fails when it cannot be started.
pub(super) async fn run(asking: &Asking<'_>, config: &CommandConfig) -> Result<Assertion> {
    let program = program(asking, config)?;
    let ended = asking.lab.run(&program).await?;
    Ok(judge(config, &ended))
}

fn program(asking: &Asking<'_>, config: &CommandConfig) -> Result<Program> {
    let mut environment =
        BTreeMap::from([("LIFEBOAT_SNAPSHOT".to_owned(), asking.snapshot.as_str().to_owned())]);
    let mut read_only = Vec::new();
    for copy in asking.cast {
        for (what, value) in facts(copy)? {
            let name = copy.config.name.as_str().to_ascii_uppercase().replace('-', "_");
            let name = format!("LIFEBOAT_{name}_{what}");
            if environment.contains_key(&name) {
                let what = format!("two sources have the environment variable `{name}`");
                return Err(Failure::new(ExitCode::Usage, what));
            }
            environment.insert(name, value);
        }
        if let SourceKind::Files(files) = &copy.config.kind {
            read_only.extend(files.paths.iter().map(|path| (path.clone(), path.clone())));
        }
    }
    let beside = asking.cast.iter().find(|copy| copy.running.is_some());
    Ok(Program {
        name: config.name.clone(),
        image: config.image.clone(),
        beside: beside.map(|copy| copy.config.name.as_str().to_owned()),
        command: config.command.clone(),
        environment,
        read_only,
        writable: Vec::new(),
        is_alone: false,
        timeout: Duration::from_secs(u64::from(config.timeout_minutes) * 60),
    })
}

/// Returns what a program is told of a source: what and value.
fn facts(copy: &Cast) -> Result<Vec<(&'static str, String)>> {
    let mut facts = Vec::new();
    if let Some(running) = &copy.running {
        let (host, port) = running.inside.rsplit_once(':').unwrap_or((&running.inside, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        facts.extend([("HOST", host.to_owned()), ("PORT", port.to_owned())]);
    }
    let value = |secret: &SecretRef| Ok::<_, Failure>(secret.resolve()?.expose_secret().to_owned());
    let (user, password) = match &copy.config.kind {
        SourceKind::Mysql(mysql) => (Some(mysql.user.clone()), mysql.password.as_ref()),
        SourceKind::Redis(redis) => {
            let user = redis.user.clone().unwrap_or_else(|| Product::Redis.user().to_owned());
            (Some(user), redis.password.as_ref())
        }
        SourceKind::S3(s3) => (Some(value(&s3.access_key)?), Some(&s3.secret_key)),
        SourceKind::Files(files) => {
            let paths: Vec<String> = files.paths.iter().map(|path| path.display().to_string()).collect();
            facts.push(("PATHS", paths.join(":")));
            (None, None)
        }
    };
    facts.extend(user.map(|user| ("USER", user)));
    if let Some(password) = password {
        facts.push(("PASSWORD", value(password)?));
    }
    Ok(facts)
}

fn judge(config: &CommandConfig, ended: &Ended) -> Assertion {
    let (kind, name) = (Question::Command, &config.name);
    let assertion = match ended.code {
        Some(0) => return Assertion::held(kind, name, "it ended with exit code 0").with_value(0),
        Some(code) => match unsaid(code) {
            None => Assertion::failed(kind, name, format!("it ended with exit code {code}")),
            Some(why) => Assertion::could_not_run(kind, name, why),
        }
        .with_value(code),
        None => {
            let minutes = if config.timeout_minutes == 1 { "minute" } else { "minutes" };
            Assertion::failed(kind, name, format!("did not end within {} {minutes}", config.timeout_minutes))
        }
    };
    let lines: Vec<&str> = ended.output.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(FINDINGS_MAX)..];
    let last = last.iter().map(|line| shown(line.as_bytes())).collect();
    assertion.with_findings(last, lines.len() as u64)
}

/// Returns why a program has not come to say anything, if so. Exit codes are as a shell counts them.
fn unsaid(code: i64) -> Option<String> {
    Some(match code {
        126 => "it could not be executed (exit code 126)".to_owned(),
        127 => "it, or a program that it needs, was not found (exit code 127)".to_owned(),
        137 => "it was ended by signal 9 (SIGKILL), as one is that takes too much memory (exit code 137)"
            .to_owned(),
        129..=SIGNALLED_MAX => format!("it was ended by signal {} (exit code {code})", code - 128),
        ..0 => "it ended without an exit code".to_owned(),
        _ => return None,
    })
}
