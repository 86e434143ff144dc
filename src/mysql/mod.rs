//! MySQL and MariaDB: read whole and at one instant, and restored exactly.
//!
//! | module | duty |
//! |---|---|
//! | [`source`], [`snapshot`], [`rows`], [`range`], [`programs`], [`engines`], [`lossy`] | reading |
//! | [`preflight`] | what a restore needs and what does not fit, before anything is touched |
//! | [`target`], [`loaders`], [`load`], [`insert`], [`apply`], [`ledger`], [`orphans`] | writing |
//! | [`choices`], [`rename`], [`gtid`] | what a person chose about it: other names, GTIDs |
//! | [`swap`], [`ties`], [`kept`], [`trial`], [`patience`] | restored tables in the place of live ones |
//! | [`part`] | ranges of keys of a table |
//! | [`cross`] | what another product or version calls otherwise |
//! | [`script`] | the same as one SQL script |
//! | [`accounts`], [`former`], [`grants`] | users, roles and grants, both ways; what is replaced and given again |
//! | [`layout`], [`codec`], [`tsv`], [`ddl`], [`sql`] | what the entries look like |
//! | [`conn`], [`sessions`] | sessions and errors |
//! | [`wire`] | the connections of our own that rows come over |
//! | [`hostile`] | what tests with hostile bytes may call |
//! | [`examine`] | whether a server can be backed up |
//! | [`ask`](mod@ask) | one question of a drill |
//! | [`compare`] | whether two readings hold the same, and which rows and programs differ |
//!
//! Entries of a source: `<db>/schema.sql`, `<db>/<table>/table.sql` and `table.json`, `<db>/<view>/…`,
//! `<db>/<table>/data.00001.tsv` …, then `<db>/<table>/triggers.sql`, `<db>/routines.sql`,
//! `<db>/events.sql`, and `accounts.sql`.

mod accounts;
mod apply;
mod ask;
mod choices;
mod codec;
pub mod compare;
mod conn;
mod cross;
mod ddl;
mod engines;
pub mod examine;
mod former;
mod grants;
mod gtid;
pub mod hostile;
mod insert;
mod kept;
mod layout;
mod ledger;
mod load;
mod loaders;
mod lossy;
mod orphans;
mod part;
mod patience;
mod preflight;
mod processes;
mod programs;
mod range;
mod rename;
mod rows;
mod script;
mod sessions;
mod snapshot;
mod source;
mod sql;
mod swap;
mod target;
mod ties;
mod trial;
mod tsv;
mod wire;

pub use self::{
    ask::{Answer, ask},
    choices::{AccountsRule, Choices, GtidRule, Naming},
    kept::OLD_MARK,
    rename::renamed_items,
    script::SqlScript,
    source::MysqlSource,
    swap::Exchange,
    target::MysqlTarget,
};
