//! `lifeboat kit`: a sheet of paper for the day on which this host is gone.

mod html;
mod sheet;
mod text;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use serde_json::json;

use self::sheet::{Languages, Sheet};
use super::{json, say, session::Session};
use crate::{
    error::{Context, ExitCode, Failure, Result},
    jobs::{keys, kit::Kit as Facts},
};

/// Make a recovery sheet to print. It holds no secret: keep it where people look when everything is gone.
#[derive(Debug, Args)]
#[group(id = "form", required = true, multiple = true, args = ["out", "text"])]
pub struct Kit {
    /// Write it as a page to print; never overwrites a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print it as text
    #[arg(long)]
    text: bool,
    /// Where an identity is kept, as "safe in room 3"; may be repeated
    #[arg(long, value_name = "TEXT")]
    note: Vec<String>,
    /// In which language
    #[arg(long, value_enum, default_value_t = Language::Both)]
    language: Language,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    /// English
    En,
    /// Chinese
    Zh,
    /// Both, side by side
    Both,
}

pub(super) async fn run(args: Kit, session: &Session) -> Result<ExitCode> {
    check_notes(&args.note)?;
    let stack = session.repository_of_stack()?;
    let facts = Facts::gather(&stack, &keys::config(&stack, &session.monitor()).await?, &session.ground)?;
    let sheet = Sheet::new(&facts, &args.note);
    let languages = match args.language {
        Language::En => Languages { en: true, zh: false },
        Language::Zh => Languages { en: false, zh: true },
        Language::Both => Languages { en: true, zh: true },
    };
    if let Some(out) = &args.out {
        write_new(out, &html::page(&sheet, languages)?)?;
    }
    if session.json {
        json::print(&json::document("kit", json!({ "file": args.out, "facts": facts.facts() })));
    } else if args.text {
        say(text::page(&sheet, languages).trim_end());
    } else if let Some(out) = &args.out {
        session.report(&format!("sheet  {}", out.display()));
        session.report("");
        session.report("Print it, and keep a copy with each identity. It holds no secret.");
    }
    Ok(ExitCode::Ok)
}

/// Fails when a note holds a key: it would be printed.
fn check_notes(notes: &[String]) -> Result<()> {
    if notes.iter().any(|note| note.to_ascii_uppercase().contains("AGE-SECRET-KEY-")) {
        return Err(Failure::new(ExitCode::Usage, "a --note holds a secret key")
            .hint("A note says where an identity is kept; the key itself stays off this sheet."));
    }
    Ok(())
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write()
        .failed(ExitCode::Failed, || format!("recovery sheet `{}` cannot be written", path.display()))
        .map_err(|failure| failure.hint("A file that exists is never overwritten: name another with --out."))
}

#[cfg(test)]
mod tests;
