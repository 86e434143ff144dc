//! A message in words: a template for each topic and language, and the forms that channels take.
//!
//! A template gives lines: the first is the title, `## ` begins a part, `- ` an item, everything else is a paragraph.
//! All forms are made of these lines, so the words are written once. What a template inserts is put on one line and
//! cannot look like any of that.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use minijinja::{Environment, Error, ErrorKind, context, value::Serde};

use super::{Message, Topic, hidden::one_line};
use crate::{
    names::ByteCount,
    plain::{escaped, grouped},
    policy::{Language, local},
};

/// Characters of one thing that is inserted; what failed may be told at length by a server.
const INSERT_CHARS_MAX: usize = 600;

/// The templates of a language: what they import, and one for each topic.
type Texts = [(&'static str, &'static str); 8];

macro_rules! texts {
    ($language:literal) => {
        [
            ("words", include_str!(concat!("texts/", $language, "/words.txt"))),
            ("opened", include_str!(concat!("texts/", $language, "/opened.txt"))),
            ("resolved", include_str!(concat!("texts/", $language, "/resolved.txt"))),
            ("done", include_str!(concat!("texts/", $language, "/done.txt"))),
            ("drill", include_str!(concat!("texts/", $language, "/drill.txt"))),
            ("digest", include_str!(concat!("texts/", $language, "/digest.txt"))),
            ("ping", include_str!(concat!("texts/", $language, "/ping.txt"))),
            ("test", include_str!(concat!("texts/", $language, "/test.txt"))),
        ]
    };
}

const EN: Texts = texts!("en");
const ZH: Texts = texts!("zh");

/// A message in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// What it is, in a line.
    pub title: String,
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Part(String),
    Item(String),
    Paragraph(String),
}

/// A dialect of Markdown. What it takes for a mention or a tag is made harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Headings with `#`; a `<` has no escape there and becomes a wide one.
    Chat,
    /// No headings, bold with two stars, entities.
    Card,
    /// Bold with one star, entities.
    Slack,
}

impl Message {
    /// Puts the message into words.
    pub fn words(&self) -> Words {
        // The templates are ours and all of them are tried by tests. Should one fail all the same, people must still
        // hear that there is something.
        let text =
            self.render().unwrap_or_else(|error| format!("{}: {:?} ({error})", self.stack, self.topic));
        Words::of(&text)
    }

    fn render(&self) -> Result<String, Error> {
        let texts = match self.language {
            Language::En => &EN,
            Language::Zh => &ZH,
        };
        let (name, facts) = match &self.topic {
            Topic::Opened(incident) => ("opened", context! { i => Serde(incident) }),
            Topic::Reminder(incident) => ("opened", context! { i => Serde(incident), again => true }),
            Topic::Resolved(incident) => ("resolved", context! { i => Serde(incident) }),
            Topic::Done(run) => ("done", context! { run => Serde(run) }),
            Topic::Drill(drill) => ("drill", context! { drill => Serde(drill) }),
            Topic::Digest(standing) => {
                ("digest", context! { s => Serde(standing), recoverable => Serde(recoverable(standing)) })
            }
            Topic::Ping { task, phase, exit, text } => (
                "ping",
                context! { task => Serde(task), phase => Serde(phase), exit => Serde(exit), text => text.clone() },
            ),
            Topic::Test => ("test", context! {}),
        };
        let frame = context! {
            stack => self.stack.as_str(), host => self.host.as_str(), at => Serde(self.at),
            unreached => self.unreached.clone(), trial => self.is_trial,
        };
        let mut environment = self.environment();
        environment.set_formatter(|out, _, value| {
            let is_missing = value.is_none() || value.is_undefined();
            let text =
                if is_missing { String::new() } else { one_line(&value.to_string(), INSERT_CHARS_MAX) };
            Ok(out.write_str(&text)?)
        });
        for (name, text) in texts {
            environment.add_template(name, text)?;
        }
        environment.get_template(name)?.render(context! { ..facts, ..frame })
    }

    /// Returns an environment that knows how this message writes times, spans and sizes.
    fn environment(&self) -> Environment<'static> {
        let zone: Tz = self.timezone.parse().unwrap_or(Tz::UTC);
        let (language, at) = (self.language, self.at);
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        let zone = Arc::new(zone);
        let of = Arc::clone(&zone);
        environment.add_filter("when", move |time: &str| {
            Ok::<_, Error>(local(instant(time)?, *of, "%Y-%m-%d %H:%M"))
        });
        let of = Arc::clone(&zone);
        environment.add_filter("clock", move |time: &str| Ok::<_, Error>(clock(instant(time)?, at, *of)));
        environment.add_filter("ago", move |time: &str| {
            Ok::<_, Error>(language.span((at - instant(time)?).num_seconds()))
        });
        environment.add_filter("since", move |end: &str, begin: &str| {
            Ok::<_, Error>(language.span((instant(end)? - instant(begin)?).num_seconds()))
        });
        environment.add_filter("span", move |seconds: i64| language.span(seconds));
        environment.add_filter("count", grouped);
        environment.add_filter("size", |bytes: u64| ByteCount(bytes).to_string());
        environment
    }
}

/// Returns the instant that the whole stack can be taken back to: that of the source that is furthest behind. `None`
/// when there is a source that no snapshot has.
fn recoverable(standing: &crate::status::Standing) -> Option<DateTime<Utc>> {
    let points: Option<Vec<_>> = standing.sources.iter().map(|source| source.point).collect();
    points?.into_iter().min()
}

fn instant(text: &str) -> Result<DateTime<Utc>, Error> {
    let wrong = |_| Error::new(ErrorKind::InvalidOperation, format!("`{text}` is no instant"));
    DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).map_err(wrong)
}

/// Writes `02:00`, with the day when it is another one than that of the message.
fn clock(time: DateTime<Utc>, at: DateTime<Utc>, zone: Tz) -> String {
    let (time, at) = (time.with_timezone(&zone), at.with_timezone(&zone));
    let form = if time.date_naive() == at.date_naive() { "%H:%M" } else { "%m-%d %H:%M" };
    time.format(form).to_string()
}

impl Words {
    fn of(text: &str) -> Self {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let title = lines.next().unwrap_or_default().to_owned();
        let lines = lines.map(|line| {
            if let Some(part) = line.strip_prefix("## ") {
                Line::Part(part.to_owned())
            } else if let Some(item) = line.strip_prefix("- ") {
                Line::Item(item.to_owned())
            } else {
                Line::Paragraph(line.to_owned())
            }
        });
        Self { title, lines: lines.collect() }
    }

    /// Returns it as plain text.
    pub fn plain(&self) -> String {
        let mut text = format!("{}\n", self.title);
        let mut before: Option<&Line> = None;
        for line in &self.lines {
            let shown = match line {
                Line::Part(part) => format!("\n{part}\n"),
                Line::Item(item) => format!("- {item}\n"),
                Line::Paragraph(words) if matches!(before, Some(Line::Paragraph(_))) => format!("{words}\n"),
                Line::Paragraph(words) => format!("\n{words}\n"),
            };
            text.push_str(&shown);
            before = Some(line);
        }
        text
    }

    /// Returns it as Markdown, the title as its first line.
    pub(super) fn markdown(&self, dialect: Dialect) -> String {
        let title = dialect.harmless(&self.title);
        let head = match dialect {
            Dialect::Chat => format!("### {title}"),
            Dialect::Card => format!("**{title}**"),
            Dialect::Slack => format!("*{title}*"),
        };
        format!("{head}\n\n{}", self.markdown_body(dialect))
    }

    /// Returns what follows the title as Markdown.
    pub(super) fn markdown_body(&self, dialect: Dialect) -> String {
        let mut text = String::new();
        let star = if dialect == Dialect::Slack { "*" } else { "**" };
        let mut was_item = false;
        for line in &self.lines {
            let is_item = matches!(line, Line::Item(_));
            // All but items have an empty line between them: single line ends are lost in some of the chats.
            if !text.is_empty() {
                text.push_str(if is_item && was_item { "\n" } else { "\n\n" });
            }
            let shown = match line {
                Line::Part(part) => format!("{star}{}{star}", dialect.harmless(part)),
                Line::Item(item) => format!("- {}", dialect.harmless(item)),
                Line::Paragraph(paragraph) => dialect.harmless(paragraph),
            };
            text.push_str(&shown);
            was_item = is_item;
        }
        text
    }

    /// Returns it as a page of HTML for mail, without anything that must be loaded.
    pub(super) fn html(&self) -> String {
        let mut body = String::new();
        let mut is_in_list = false;
        for line in &self.lines {
            let is_item = matches!(line, Line::Item(_));
            if is_item != is_in_list {
                body.push_str(if is_item { "<ul>\n" } else { "</ul>\n" });
                is_in_list = is_item;
            }
            let (tag, text) = match line {
                Line::Part(text) => ("h3", text),
                Line::Item(text) => ("li", text),
                Line::Paragraph(text) => ("p", text),
            };
            body.push_str(&["<", tag, ">", &escaped(text), "</", tag, ">\n"].concat());
        }
        if is_in_list {
            body.push_str("</ul>\n");
        }
        format!(
            "<!doctype html>\n<html><head><meta charset=\"utf-8\"></head>\n\
             <body style=\"font-family: sans-serif; line-height: 1.5\">\n<h2>{}</h2>\n{body}</body></html>\n",
            escaped(&self.title)
        )
    }
}

impl Dialect {
    fn harmless(self, text: &str) -> String {
        match self {
            Self::Chat => text.replace('<', "＜"),
            Self::Card => text.replace('<', "&#60;"),
            Self::Slack => text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"),
        }
    }
}

/// Renders a template of the policy.
pub(super) fn of_template(template: &str, message: &Message) -> Result<String, Error> {
    let words = message.words();
    let mut facts = context! {
        title => words.title.clone(), text => words.plain(), markdown => words.markdown(Dialect::Card),
        message => Serde(message), stack => message.stack.as_str(), host => message.host.as_str(),
        urgent => message.is_urgent(),
    };
    if let Some(incident) = message.incident() {
        facts = context! { incident => Serde(incident), ..facts };
    }
    message.environment().render_str(template, facts)
}
