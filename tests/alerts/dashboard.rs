//! The dashboard, as far as it can be said without Grafana; `live.rs` runs its queries in Prometheus.

use std::collections::BTreeSet;

use lifeboat::serve::metrics::METRICS;
use serde_json::Value;

use super::{metrics_in, read};

/// Kinds of panels that every Grafana has.
const BUILT_IN: [&str; 4] = ["row", "stat", "table", "timeseries"];

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/grafana/lifeboat.json")).expect("JSON")
}

fn panels() -> Vec<Value> {
    dashboard()["panels"].as_array().expect("panels").clone()
}

/// Returns the queries of all panels, with the panel's title.
pub fn queries() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in panels() {
        let title = panel["title"].as_str().expect("a title").to_owned();
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((title.clone(), target["expr"].as_str().expect("an expression").to_owned()));
        }
    }
    found
}

#[test]
fn every_metric_that_a_panel_names_is_one_that_is_told_and_most_are_shown() {
    let told: BTreeSet<String> = METRICS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let named: BTreeSet<String> = queries().iter().flat_map(|(_, expr)| metrics_in(expr)).collect();
    assert_eq!(named.difference(&told).collect::<Vec<_>>(), Vec::<&String>::new());
    let left: BTreeSet<&str> = told.difference(&named).map(String::as_str).collect();
    let elsewhere = [
        "lifeboat_build_info",
        "lifeboat_last_run_timestamp_seconds",
        "lifeboat_rpo_seconds",
        "lifeboat_running_since_timestamp_seconds",
        "lifeboat_task_state",
    ];
    assert_eq!(left, BTreeSet::from(elsewhere), "the dashboard should show them, or the list here is old");
}

#[test]
fn panels_have_their_own_ids_and_places() {
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels() {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{panel}");
        let side = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        assert!(side("x") + side("w") <= 24 && side("w") > 0 && side("h") > 0, "{panel}");
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(taken.insert((x, y)), "{} lies on another panel", panel["title"]);
            }
        }
    }
}

#[test]
fn every_panel_asks_the_chosen_prometheus_about_the_chosen_stack() {
    for panel in panels() {
        let (kind, title) = (panel["type"].as_str().expect("a type"), &panel["title"]);
        assert!(BUILT_IN.contains(&kind), "{title} is a {kind}, which needs a plugin");
        if kind == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(panel["description"].as_str().is_some_and(|words| words.len() > 10), "{title}");
        let targets = panel["targets"].as_array().expect("targets");
        let refs: BTreeSet<&str> = targets.iter().filter_map(|target| target["refId"].as_str()).collect();
        assert!(!targets.is_empty() && refs.len() == targets.len(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let expr = target["expr"].as_str().expect("an expression");
            let metrics = expr.matches("lifeboat_").count();
            assert_eq!(expr.matches(r#"{stack=~"$stack""#).count(), metrics, "{title}: {expr}");
        }
    }
}

#[test]
fn it_can_be_imported_anywhere() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "lifeboat");
    assert!(dashboard.get("__inputs").is_none(), "the data source is a variable");
    assert!(dashboard.get("id").is_none(), "an id belongs to one Grafana");
    assert!(dashboard["schemaVersion"].as_u64() >= Some(39));
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["datasource", "stack"]);
    assert_eq!(variables[0]["type"], "datasource");
}
