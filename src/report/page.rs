//! The report as a page for people: one file without script that loads nothing, for a phone, a screen and paper.
//!
//! `page/page.html` says what stands where, `page/words.<language>` says it in words, `chart` draws. What was found
//! (names of checks, details, findings, notes) is English in every language: evidence is searched for as it stands.
//! Everything that is inserted passes the one formatter here, which makes it harmless.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, context, syntax::SyntaxConfig, value::Serde,
};
use serde::Serialize;

use super::{chart, visible};
use crate::{
    drill::{self, Answer, Assertion, Report, SourceReport},
    error::{Context, ExitCode, Result},
    names::ByteCount,
    plain::{escaped, grouped},
    policy::{Language, local},
};

/// What the page is made of, in every language.
const PARTS: [(&str, &str); 3] = [
    ("page", include_str!("page/page.html")),
    ("style", include_str!("page/style.css")),
    ("marks", include_str!("page/marks.html")),
];

/// Writes the page in a language.
pub fn html(report: &Report, language: Language) -> Result<String> {
    render(report, language)
        .failed(ExitCode::Failed, || "failed to write the drill's report as a page".to_owned())
}

/// Returns the words of a language.
pub(super) fn words(language: Language) -> &'static str {
    match language {
        Language::En => include_str!("page/words.en"),
        Language::Zh => include_str!("page/words.zh"),
    }
}

fn render(report: &Report, language: Language) -> Result<String, Error> {
    let mut environment = environment(report, language)?;
    for (name, text) in PARTS.into_iter().chain([("words", words(language))]) {
        environment.add_template(name, text)?;
    }
    let [held, failed, unasked] = report.counts();
    environment.get_template("page")?.render(context! {
        r => Serde(report),
        held, failed, unasked,
        total => held + failed + unasked,
        entries => report.sources.iter().fold(0_u64, |sum, source| sum.saturating_add(source.entries)),
        size_bytes => report.size_bytes(),
        age_seconds => (report.began - report.snapshot_began).num_seconds(),
        drill_seconds => (report.ended - report.began).as_seconds_f64(),
        timeline => Serde(chart::timeline(report)),
        gauge => Serde(chart::gauge(report)),
        trend => Serde(chart::trend(report)),
        sources => Serde(report.sources.iter().map(source).collect::<Vec<_>>()),
        assertions => Serde(ordered(report).into_iter().map(assertion).collect::<Vec<_>>()),
    })
}

/// A source, and what is worked out of its facts.
#[derive(Serialize)]
struct Source<'a> {
    #[serde(flatten)]
    facts: &'a SourceReport,
    /// Bytes in a second.
    rate: Option<u64>,
    /// Whether the lab's server is of another release.
    differs: bool,
}

fn source(facts: &SourceReport) -> Source<'_> {
    let rate = facts.size_bytes as f64 / facts.seconds;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast takes the nearest there is"
    )]
    let rate = (facts.seconds > 0.0 && rate.is_finite()).then_some(rate as u64);
    let differs = match (&facts.version, &facts.lab_version) {
        (Some(version), Some(lab)) => drill::release(version) != drill::release(lab),
        _ => false,
    };
    Source { facts, rate, differs }
}

/// An assertion, and how many of its findings are not named.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    facts: &'a Assertion,
    unnamed: u64,
}

fn assertion(facts: &Assertion) -> Shown<'_> {
    Shown { facts, unnamed: facts.findings_total.saturating_sub(facts.findings.len() as u64) }
}

/// Returns the assertions, first what a person must look at.
fn ordered(report: &Report) -> Vec<&Assertion> {
    let mut assertions: Vec<&Assertion> = report.assertions.iter().collect();
    assertions.sort_by_key(|assertion| match assertion.answer {
        Answer::Failed => 0,
        Answer::CouldNotRun => 1,
        Answer::Held => 2,
    });
    assertions
}

/// Returns an environment that makes harmless what it inserts, and knows how this report writes numbers.
fn environment(report: &Report, language: Language) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_formatter(|out, _, value| {
        if value.is_undefined() {
            return Err(Error::from(ErrorKind::UndefinedError));
        }
        let text = value.to_string();
        Ok(if value.is_safe() { out.write_str(&text) } else { out.write_str(&escaped(&visible(&text))) }?)
    });
    let zone: Arc<Tz> = Arc::new(report.timezone.parse().unwrap_or(Tz::UTC));
    let in_zone = Arc::clone(&zone);
    environment.add_filter("when", move |time: &str| {
        Ok::<_, Error>(local(instant(time)?, *in_zone, "%Y-%m-%d %H:%M:%S"))
    });
    for (filter, form) in [("day", "%m-%d"), ("year", "%Y")] {
        let in_zone = Arc::clone(&zone);
        environment.add_filter(filter, move |time: &str| {
            Ok::<_, Error>(instant(time)?.with_timezone(&*in_zone).format(form).to_string())
        });
    }
    environment.add_filter("span", move |seconds: i64| bound(&language.span(seconds)));
    environment.add_filter("took", move |seconds: f64| bound(&language.took(seconds)));
    environment.add_filter("count", grouped);
    environment.add_filter("size", |bytes: u64| bound(&ByteCount(bytes).to_string()));
    Ok(environment)
}

/// Keeps a number and its unit on one line.
fn bound(text: &str) -> String {
    text.replace(' ', "\u{a0}")
}

fn instant(text: &str) -> Result<DateTime<Utc>, Error> {
    let wrong = |_| Error::new(ErrorKind::InvalidOperation, format!("`{text}` is no instant"));
    DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).map_err(wrong)
}
