//! The service as systemd, Prometheus and a person at the command line meet it: the built program, with real jobs.

#[path = "service/daemon.rs"]
mod daemon;
#[path = "service/host.rs"]
mod host;
#[path = "service/once.rs"]
mod once;
#[path = "cli/stage.rs"]
#[macro_use]
mod stage;
#[path = "service/week.rs"]
mod week;
