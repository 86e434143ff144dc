//! The geometry of the page's pictures. Positions across are in percent, so that a picture is as wide as the paper or
//! the phone while its letters keep their size; positions down are in pixels.
//!
//! Whatever the numbers of a report are (no time at all, not a number), every coordinate is finite and inside.

use serde::Serialize;

use crate::drill::{Outcome, Report, Step, TREND_MAX};

/// Lengths of time that people count in, in seconds.
const STEPS_SECONDS: [f64; 23] = [
    0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0,
    7_200.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0, 604_800.0,
];
/// Steps that an axis has at most.
const STEPS_MAX: f64 = 5.0;
/// Percent that a bar has at least, so that it can be seen.
const BAR_MIN: f64 = 0.4;
/// Columns that the trend has room for at least: a bar of a short history is no wider than this allows.
const COLUMNS_MIN: usize = 8;
/// Where the trend's bars begin and end, in pixels from its top.
const TREND_TOP: f64 = 26.0;
/// See [`TREND_TOP`].
const TREND_BASE: f64 = 164.0;

/// A place on an axis.
#[derive(Debug, Serialize)]
pub(super) struct Tick {
    at: String,
    anchor: &'static str,
    seconds: f64,
}

/// The phases of a drill, each with its bar.
#[derive(Debug, Serialize)]
pub(super) struct Timeline {
    rows: Vec<Row>,
    ticks: Vec<Tick>,
}

#[derive(Debug, Serialize)]
struct Row {
    step: Step,
    source: Option<String>,
    counts: bool,
    x: String,
    width: String,
    seconds: f64,
}

/// The time that the restore took, and may take.
#[derive(Debug, Serialize)]
pub(super) struct Gauge {
    width: String,
    /// What goes beyond the objective.
    beyond: Option<Span>,
    objective: Option<String>,
    percent: Option<String>,
    beyond_seconds: f64,
    ticks: Vec<Tick>,
}

#[derive(Debug, Serialize)]
struct Span {
    x: String,
    width: String,
}

/// This drill and those before it.
#[derive(Debug, Serialize)]
pub(super) struct Trend {
    columns: Vec<Column>,
    width: String,
    objective: Option<String>,
    ticks: Vec<Tick>,
}

#[derive(Debug, Serialize)]
struct Column {
    x: String,
    y: String,
    height: String,
    mark: String,
    outcome: Outcome,
    seconds: Option<f64>,
    ended: String,
    is_this: bool,
}

/// Draws the phases.
pub(super) fn timeline(report: &Report) -> Timeline {
    let drill = span(report.ended.signed_duration_since(report.began).as_seconds_f64());
    let ends = report.phases.iter().map(|phase| span(phase.began_seconds) + span(phase.seconds));
    let total = ends.fold(drill, f64::max);
    let rows = report.phases.iter().map(|phase| {
        let (x, width) = bar(span(phase.began_seconds), span(phase.seconds), total);
        Row {
            step: phase.step,
            source: phase.source.clone(),
            counts: phase.step.counts(),
            x,
            width,
            seconds: phase.seconds,
        }
    });
    Timeline { rows: rows.collect(), ticks: ticks(total) }
}

/// Draws the time that the restore took against what it may take; `None` when it was not measured.
pub(super) fn gauge(report: &Report) -> Option<Gauge> {
    let took = span(report.rto_seconds?);
    let objective = report.objective_seconds.map(|seconds| seconds as f64);
    // The line must not be the picture's border.
    let total = objective.map_or(took, |objective| took.max(objective * 1.1));
    let within = objective.map_or(took, |objective| took.min(objective));
    let beyond = objective.filter(|objective| took > *objective).map(|objective| {
        let (x, width) = bar(objective, took - objective, total);
        Span { x, width }
    });
    Some(Gauge {
        width: bar(0.0, within, total).1,
        beyond,
        objective: objective.map(|seconds| percent(seconds, total)),
        percent: objective
            .filter(|seconds| *seconds > 0.0)
            .map(|seconds| format!("{:.0}", took / seconds * 100.0)),
        beyond_seconds: objective.map_or(0.0, |objective| took - objective),
        ticks: ticks(total),
    })
}

/// Draws this drill beside the last ones.
pub(super) fn trend(report: &Report) -> Trend {
    let skipped = report.trend.len().saturating_sub(TREND_MAX);
    let mut drills = report.trend[skipped..].to_vec();
    drills.push(report.past());
    let objective = report.objective_seconds.map(|seconds| seconds as f64);
    let times = drills.iter().filter_map(|past| past.rto_seconds).map(span);
    let total = times.fold(objective.unwrap_or(0.0), f64::max);
    let y = |seconds: f64| {
        let share = if total > 0.0 { (seconds / total).clamp(0.0, 1.0) } else { 0.0 };
        TREND_BASE - share * (TREND_BASE - TREND_TOP)
    };
    let slots = drills.len().max(COLUMNS_MIN) as f64;
    let last = drills.len() - 1;
    let columns = drills.iter().enumerate().map(|(at, past)| {
        let top = past.rto_seconds.map_or(TREND_BASE, |seconds| y(span(seconds)));
        Column {
            x: percent(at as f64, slots),
            y: pixels(top),
            height: pixels(TREND_BASE - top),
            mark: pixels(top - 13.0),
            outcome: past.outcome,
            seconds: past.rto_seconds,
            ended: past.ended.to_rfc3339(),
            is_this: at == last,
        }
    });
    Trend {
        columns: columns.collect(),
        width: percent(1.0, slots),
        objective: objective.map(|seconds| pixels(y(seconds))),
        ticks: levels(total).map(|seconds| Tick { at: pixels(y(seconds)), anchor: "end", seconds }).collect(),
    }
}

/// Returns `seconds` when it is a length of time, and none when it is not.
fn span(seconds: f64) -> f64 {
    if seconds.is_finite() { seconds.max(0.0) } else { 0.0 }
}

/// Returns where a bar begins and how wide it is. One that could not be seen is made wider, and moved if it must be.
fn bar(begin: f64, length: f64, total: f64) -> (String, String) {
    let share = |part: f64| if total > 0.0 { (part / total * 100.0).clamp(0.0, 100.0) } else { 0.0 };
    let width = share(length).max(BAR_MIN);
    (format!("{:.2}%", share(begin).min(100.0 - width)), format!("{width:.2}%"))
}

fn percent(part: f64, total: f64) -> String {
    let share = if total > 0.0 { part / total * 100.0 } else { 0.0 };
    format!("{:.2}%", share.clamp(0.0, 100.0))
}

fn pixels(at: f64) -> String {
    format!("{at:.1}")
}

/// Returns the round times up to `total`, from zero.
fn levels(total: f64) -> impl Iterator<Item = f64> {
    let mut step = STEPS_SECONDS.into_iter().find(|step| total / step <= STEPS_MAX).unwrap_or(604_800.0);
    while total / step > STEPS_MAX {
        step *= 2.0;
    }
    (0..=5).map(move |at| f64::from(at) * step).filter(move |seconds| *seconds <= total)
}

fn ticks(total: f64) -> Vec<Tick> {
    let tick = |seconds: f64| {
        // Letters at the borders stay inside.
        let anchor = if seconds <= 0.0 {
            "start"
        } else if seconds > total * 0.93 {
            "end"
        } else {
            "middle"
        };
        Tick { at: percent(seconds, total), anchor, seconds }
    };
    levels(total).map(tick).collect()
}
