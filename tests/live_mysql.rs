//! The MySQL and MariaDB engine on real servers.
#![allow(clippy::unwrap_used, reason = "clippy takes only the outermost function of a test for one")]

#[path = "live_support/mysql.rs"]
#[allow(dead_code, reason = "each test file uses its own part of it")]
mod support;

#[path = "live/mysql_accounts.rs"]
mod accounts;
#[path = "live/mysql_accounts_anew.rs"]
mod accounts_anew;
#[path = "live/mysql_at_once.rs"]
mod at_once;
#[path = "live/mysql_choices.rs"]
mod choices;
#[path = "live/mysql_copy.rs"]
mod copy;
#[path = "live/mysql_cross.rs"]
mod cross;
#[path = "live/mysql_engines.rs"]
mod engines;
#[path = "live/mysql_export.rs"]
mod export;
#[path = "live/mysql_failures.rs"]
mod failures;
#[path = "live/mysql_failures_killed.rs"]
mod failures_killed;
#[path = "live/mysql_failures_target.rs"]
mod failures_target;
#[path = "live/mysql_little_room.rs"]
mod little_room;
#[path = "live/mysql_locks.rs"]
mod locks;
#[path = "live/mysql_long_rows.rs"]
mod long_rows;
#[path = "live/mysql_many_tables.rs"]
mod many_tables;
#[path = "live/mysql_objects.rs"]
mod objects;
#[path = "live/mysql_orphans.rs"]
mod orphans;
#[path = "live/mysql_owed.rs"]
mod owed;
#[path = "live/mysql_position.rs"]
mod position;
#[path = "live/mysql_preflight.rs"]
mod preflight;
#[path = "live/mysql_ranges.rs"]
mod ranges;
#[path = "live/mysql_ranges_restore.rs"]
mod ranges_restore;
#[path = "live/mysql_reach.rs"]
mod reach;
#[path = "live/mysql_replace.rs"]
mod replace;
#[path = "live/mysql_resume.rs"]
mod resume;
#[path = "live/mysql_retry.rs"]
mod retry;
#[path = "live/mysql_rows.rs"]
mod rows;
#[path = "live/mysql_snapshot.rs"]
mod snapshot;
#[path = "live/mysql_swap.rs"]
mod swap;
#[path = "live/mysql_swap_dies.rs"]
mod swap_dies;
#[path = "live/mysql_swap_notes.rs"]
mod swap_notes;
#[path = "live/mysql_trial.rs"]
mod trial;
#[path = "live/mysql_values.rs"]
mod values;
#[path = "live/mysql_waits.rs"]
mod waits;

/// Makes a test for each product of an async function that takes one.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod mysql {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
                async fn $test() {
                    super::$test(crate::support::Product::Mysql).await;
                }
            )*
        }
        mod mariadb {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = "needs the servers of fixtures/stack: run fixtures/test"]
                async fn $test() {
                    super::$test(crate::support::Product::Mariadb).await;
                }
            )*
        }
    };
}
pub(crate) use on_both;
