//! `lifeboat verify`.

use clap::Args;
use serde_json::json;

use super::{
    json, say,
    session::{Origin, Session},
};
use crate::{
    error::{ExitCode, Failure, Result},
    jobs::{open::offsite_of, verify},
    names::ByteCount,
    repo::{Damage, VerifyReport},
};

/// Look for damage and tampering: structure always, every byte if asked.
#[derive(Debug, Args)]
pub struct Verify {
    /// Read and hash the data too, or a share of it: 25%
    #[arg(long, value_name = "P%", num_args = 0..=1, require_equals = true, default_missing_value = "100%")]
    read_data: Option<String>,
    #[command(flatten)]
    origin: Origin,
}

pub(super) async fn run(args: Verify, session: &Session) -> Result<ExitCode> {
    let read_percent = args.read_data.as_deref().map_or(Ok(0.0), percent)?;
    let stack = session.repository_of_stack()?;
    let monitor = session.monitor();
    let offsite = args.origin.from;
    if let Some(name) = &offsite {
        offsite_of(&stack, name)?;
    }
    let wanted = verify::Wanted { offsite, read_percent, identity: session.identity(&stack)? };
    let report = verify::of_stack(session.context(&stack, &monitor), wanted).await?;
    if session.json {
        let damage = |damage: &Damage| {
            json!({
                "pack": damage.object,
                "object": damage.object,
                "what": damage.what,
                "affects": damage.affects,
                "tampering": damage.tampering,
            })
        };
        json::print(&json::document(
            "verify",
            json!({
                "snapshots": report.snapshots,
                "packs": report.packs,
                "proofs": report.proofs,
                "chunks_read": report.chunks_read,
                "bytes_read": report.bytes_read,
                "packs_sealed": report.packs_sealed,
                "entries_looked_at": !report.entries_sealed,
                "damage": report.damage.iter().map(damage).collect::<Vec<_>>(),
            }),
        ));
    } else if !(session.quiet && report.damage.is_empty()) {
        show(&report);
    }
    Ok(verify::exit_of(&report))
}

fn percent(text: &str) -> Result<f64> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok();
    number.filter(|number| *number > 0.0 && *number <= 100.0).ok_or_else(|| {
        Failure::new(ExitCode::Usage, format!("`{text}` is no share of the data"))
            .hint("Write --read-data for all of it, or --read-data=25% for a quarter.")
    })
}

fn show(report: &VerifyReport) {
    for damage in &report.damage {
        say(&format!("DAMAGE {}: {}", damage.object, damage.what));
        for affected in &damage.affects {
            say(&format!("       affects {affected}"));
        }
    }
    let read = if report.bytes_read > 0 {
        format!("; {} chunks in {} read and hashed", report.chunks_read, ByteCount(report.bytes_read))
    } else {
        String::new()
    };
    let read = match report.packs_sealed {
        0 => read,
        sealed => format!(
            "{read}; {sealed} packs checked by their names only: no identity that opens them was given"
        ),
    };
    let verdict = if report.damage.is_empty() {
        "no damage".to_owned()
    } else {
        format!("{} damaged", report.damage.len())
    };
    say(&format!("{} snapshots, {} packs{read}: {verdict}", report.snapshots, report.packs));
    if report.entries_sealed {
        say("entries were not looked at: no key here opens the indexes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_between_nothing_and_all() {
        assert!((percent("25%").unwrap() - 25.0).abs() < 1e-9);
        assert!((percent("0.5").unwrap() - 0.5).abs() < 1e-9);
        for bad in ["0", "101%", "x", "", "-3"] {
            assert_eq!(percent(bad).unwrap_err().exit(), ExitCode::Usage, "{bad}");
        }
    }
}
