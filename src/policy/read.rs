//! Reading TOML so that every mistake is found in one go and each has its place in the file.
//!
//! serde stops at the first error and, for a table that is tagged or flattened, forgets where it stood. So
//! the file is parsed into values that know their place, the tables are taken apart here, and each is handed
//! to serde alone: keys that nobody knows are told and left out, a value that does not fit is told and left
//! out, and the table is tried again until nothing new comes up.

use std::{collections::BTreeSet, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IntoDeserializer, Visitor, value::Error as FieldsError},
    forward_to_deserialize_any,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Problem, SecretRef};

/// A place in the text, in bytes.
pub(super) type Span = Range<usize>;

/// Problems after which a broken file is not looked at any further.
const SYNTAX_PROBLEMS_MAX: usize = 5;
/// How alike two keys are when one is taken for a slip of the other.
const ALIKE: f64 = 0.6;

/// Collects what is wrong with one text.
pub(super) struct Reader<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

/// One table of the file.
#[derive(Clone)]
pub(super) struct Section<'a> {
    /// What a person calls it: `[[source]] mysql`.
    pub(super) label: String,
    /// Its path through the file: `source.mysql`.
    pub(super) path: String,
    span: Span,
    table: DeTable<'a>,
    /// Keys that were read by [`Reader::take`] and the like.
    taken: BTreeSet<String>,
}

impl<'a> Section<'a> {
    fn entry(&self, key: &str) -> Option<(&Spanned<std::borrow::Cow<'a, str>>, &Spanned<DeValue<'a>>)> {
        self.table.iter().find(|(name, _)| name.get_ref() == key)
    }

    /// Returns whether the file has this key here.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Returns where the value of `key` stands; the table itself when the file does not have the key.
    pub(super) fn at(&self, key: &str) -> Span {
        self.entry(key).map_or(self.span.clone(), |(_, value)| value.span())
    }

    /// Returns where the `index`-th item of the list `key` stands.
    pub(super) fn at_item(&self, key: &str, index: usize) -> Span {
        let item = self.entry(key).and_then(|(_, value)| value.get_ref().as_array()?.get(index));
        item.map_or(self.at(key), Spanned::span)
    }

    /// Returns where `name` stands inside the table `key`.
    pub(super) fn at_inside(&self, key: &str, name: &str) -> Span {
        let inside = self.entry(key).and_then(|(_, value)| value.get_ref().as_table());
        let found = inside.and_then(|table| table.iter().find(|(key, _)| key.get_ref() == name));
        found.map_or(self.at(key), |(key, _)| key.span())
    }

    /// Gives the table the name that its `name` key has.
    pub(super) fn call(&mut self, name: &str) {
        let kind = self.label.rsplit_once(' ').map_or(self.label.as_str(), |(kind, _)| kind);
        self.label = format!("{kind} {name}");
        let path = self.path.split_once('[').map_or(self.path.as_str(), |(path, _)| path);
        self.path = format!("{path}.{name}");
    }

    /// Returns the list that the table is an item of, as a file writes it: `notify` for each `[[notify]]`.
    fn list(&self) -> Option<&str> {
        self.label.strip_prefix("[[")?.split_once("]]").map(|(list, _)| list)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl<'a> Reader<'a> {
    /// Parses `text`; a file that is no TOML gives no table.
    pub(super) fn new(text: &'a str) -> (Self, Option<Section<'a>>) {
        let mut reader = Self { text, problems: Vec::new() };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors.iter().take(SYNTAX_PROBLEMS_MAX) {
            let message = format!("this is no TOML: {}", error.message().replace('\n', ", "));
            reader.tell(&error.span().unwrap_or(0..0), String::new(), message, None);
        }
        let section = Section {
            label: "the policy".to_owned(),
            path: String::new(),
            // What is missing at the top is told at the beginning of the file.
            span: 0..0,
            table: table.into_inner(),
            taken: BTreeSet::new(),
        };
        let section = errors.is_empty().then_some(section);
        (reader, section)
    }

    /// Returns all problems in the order of the file.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        self.problems.dedup();
        self.problems
    }

    /// Adds a problem.
    pub(super) fn tell(&mut self, at: &Span, key: String, message: String, hint: Option<String>) {
        let before = &self.text[..self.text.floor_char_boundary(at.start)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        self.problems.push(Problem { line, column, key, message, hint });
    }

    /// Adds a problem with one key of a table.
    pub(super) fn wrong(&mut self, section: &Section<'_>, key: &str, message: String, hint: &str) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.tell(&section.at(key), section.path_of(key), message, hint);
    }

    /// Takes the table `key` out of `section`.
    pub(super) fn table(&mut self, section: &mut Section<'a>, key: &str) -> Option<Section<'a>> {
        section.taken.insert(key.to_owned());
        let (_, value) = section.entry(key)?;
        let (path, span) = (section.path_of(key), value.span());
        let label = format!("[{path}]");
        if let DeValue::Table(table) = value.get_ref() {
            return Some(Section { label, path, span, table: table.clone(), taken: BTreeSet::new() });
        }
        let hint = match section.list() {
            Some(list) => format!("Write {key} = {{ … }}, or [{list}.{key}] right below its [[{list}]]."),
            None => format!("Write {label}."),
        };
        self.tell(&span, path, format!("`{key}` is no table"), Some(hint));
        None
    }

    /// Takes the list of tables `key` out of `section`.
    pub(super) fn tables(&mut self, section: &mut Section<'a>, key: &str) -> Vec<Section<'a>> {
        section.taken.insert(key.to_owned());
        let Some((_, value)) = section.entry(key) else { return Vec::new() };
        let (path, span) = (section.path_of(key), value.span());
        let items = value.get_ref().as_array();
        let mut sections = Vec::new();
        for (index, item) in items.into_iter().flat_map(|items| items.iter()).enumerate() {
            if let DeValue::Table(table) = item.get_ref() {
                sections.push(Section {
                    label: format!("[[{path}]] {}", index + 1),
                    path: format!("{path}[{}]", index + 1),
                    span: item.span(),
                    table: table.clone(),
                    taken: BTreeSet::new(),
                });
            }
        }
        let is_list = items.is_some_and(|items| items.len() == sections.len());
        if !is_list {
            let hint = format!("Write [[{path}]], with two brackets, once for each.");
            self.tell(&span, path, format!("`{key}` is no list of tables"), Some(hint));
        }
        sections
    }

    /// Reads those keys of `section` that `T` has, and leaves the others for later.
    pub(super) fn take<T: DeserializeOwned>(&mut self, section: &mut Section<'a>) -> Option<T> {
        let fields = fields_of::<T>();
        section.taken.extend(fields.iter().map(|field| (*field).to_owned()));
        let table = section.table.iter().filter(|(key, _)| fields.contains(&key.get_ref().as_ref()));
        self.fit(section, table.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Reads the rest of `section` as `T`; a key that neither `T` has nor was taken is a problem.
    pub(super) fn rest<T: DeserializeOwned>(&mut self, section: &Section<'a>) -> Option<T> {
        let fields = fields_of::<T>();
        let left = section.table.iter().filter(|(key, _)| !section.taken.contains(key.get_ref().as_ref()));
        let (known, unknown): (Vec<_>, Vec<_>) =
            left.partition(|(key, _)| fields.contains(&key.get_ref().as_ref()));
        let candidates: Vec<&str> =
            fields.iter().copied().chain(section.taken.iter().map(String::as_str)).collect();
        for (key, _) in unknown {
            let message = format!("unknown key `{}` in {}", key.get_ref(), section.label);
            self.tell(
                &key.span(),
                section.path_of(key.get_ref()),
                message,
                nearest(key.get_ref(), &candidates),
            );
        }
        self.fit(section, known.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Hands a table to serde, telling and leaving out what does not fit until the rest does.
    fn fit<T: DeserializeOwned>(&mut self, section: &Section<'a>, mut entries: Entries<'a>) -> Option<T> {
        let mut left_out: Vec<String> = Vec::new();
        loop {
            let mut table = DeTable::new();
            for (key, value) in &entries {
                table.insert(key.clone(), value.clone());
            }
            let value = Spanned::new(section.span.clone(), DeValue::Table(table));
            let error = match T::deserialize(value.into_deserializer()) {
                Ok(fitting) if left_out.is_empty() => return Some(fitting),
                Ok(_) => return None,
                Err(error) => error,
            };
            let span = error.span().unwrap_or(section.span.clone());
            let culprit = entries.iter().position(|(_, value)| value.span().contains(&span.start));
            let Some(culprit) = culprit.filter(|_| span != section.span) else {
                self.tell_missing(section, error.message(), &left_out);
                return None;
            };
            let (key, _) = entries.remove(culprit);
            let (message, hint) = word(key.get_ref(), error.message());
            self.tell(&span, section.path_of(key.get_ref()), message, hint);
            left_out.push(key.into_inner().into_owned());
        }
    }

    /// Tells of a key that a table needs, unless it is there and was told of already.
    fn tell_missing(&mut self, section: &Section<'_>, message: &str, left_out: &[String]) {
        match message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            Some(key) if left_out.iter().any(|out| out == key) => {}
            Some(key) => {
                let message = format!("`{key}` is missing in {}", section.label);
                self.tell(&section.span, section.path_of(key), message, None);
            }
            None => self.tell(&section.span, section.path.clone(), message.replace('\n', ", "), None),
        }
    }
}

type Entries<'a> = Vec<(Spanned<std::borrow::Cow<'a, str>>, Spanned<DeValue<'a>>)>;

/// Words what serde says about the value of `key`, without the value: it may be a secret.
fn word(key: &str, message: &str) -> (String, Option<String>) {
    if message == SecretRef::RULE {
        return (format!("`{key}`: {message}"), Some(SecretRef::REMEDY.to_owned()));
    }
    if let Some(rest) = message.strip_prefix("invalid type: ") {
        let found = rest.split([' ', ',']).next().unwrap_or_default();
        let wanted = rest.rsplit_once("expected ").map_or("", |(_, wanted)| wanted);
        return (format!("`{key}` is {}, but must be {}", kind_of(found), kind_of(wanted)), None);
    }
    if let Some(rest) = message.strip_prefix("invalid value: ") {
        let found = rest.split(',').next().unwrap_or_default().replace('`', "");
        let found = found.split_once(' ').map_or(found.as_str(), |(_, value)| value);
        return (format!("`{key}` cannot be {found}"), None);
    }
    if let Some((found, known)) =
        message.strip_prefix("unknown variant ").and_then(|rest| rest.split_once(", expected "))
    {
        let known = known.trim_start_matches("one of ").trim_start_matches("either ");
        return (format!("`{key}` cannot be {}", found.replace('`', "\"")), Some(format!("Use {known}.")));
    }
    (message.replace('\n', ", "), None)
}

/// Words serde's name of a type.
fn kind_of(word: &str) -> &str {
    match word {
        "string" | "a string" | "path" => "a text in quotes",
        "integer" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" => "a whole number",
        "floating" => "a number with a point",
        "boolean" | "a boolean" => "true or false",
        "sequence" | "a sequence" => "a list in [ ]",
        "map" | "a map" => "a table in { }",
        "path string" => "a path in quotes",
        other => other,
    }
}

/// Returns the sentence that names the key that was probably meant.
pub(super) fn nearest(given: &str, known: &[&str]) -> Option<String> {
    let alike = |known: &&str| strsim::normalized_damerau_levenshtein(given, known);
    let best = known.iter().copied().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(&best) >= ALIKE).then(|| format!("Did you mean `{best}`?"))
}

/// Returns the names of the fields of a struct, as a file writes them.
fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // The error is how the question ends: the fields are known by then.
    let _ = T::deserialize(AskFields(&mut fields));
    fields
}

/// Pretends to be a file, only to be told which fields are looked for.
struct AskFields<'f>(&'f mut &'static [&'static str]);

impl<'de> Deserializer<'de> for AskFields<'_> {
    type Error = FieldsError;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, FieldsError> {
        Err(serde::de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, FieldsError> {
        *self.0 = fields;
        Err(serde::de::Error::custom("asked"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The keys at the top of a policy that are no tables.
#[derive(Deserialize)]
pub(super) struct Head {
    pub(super) stack: String,
    #[serde(default)]
    pub(super) timezone: Option<String>,
    #[serde(default)]
    pub(super) language: super::Language,
}

/// The keys that tell apart the items of a list of tables.
#[derive(Deserialize)]
pub(super) struct Tag {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) kind: Option<String>,
}

/// The key that tells apart the items of a list of tables of one kind.
#[derive(Deserialize)]
pub(super) struct Named {
    #[serde(default)]
    pub(super) name: Option<String>,
}

/// What all ways of telling people share.
#[derive(Deserialize)]
pub(super) struct Hearing {
    #[serde(default)]
    pub(super) on: Option<Vec<super::Occasion>>,
    #[serde(default)]
    pub(super) fallback: bool,
}

/// Hours, as a person writes them.
#[derive(Deserialize)]
pub(super) struct Hours {
    pub(super) from: String,
    pub(super) to: String,
}
