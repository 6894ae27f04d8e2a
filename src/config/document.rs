//! The file as a tree that remembers where each key and value stands.
//!
//! serde stops at the first mistake of a table. A person wants all of them at once: so the offending key is taken out of
//! a copy of the table, and the rest is read again, until it reads or nothing is left to take out.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::problem::Problem;
use crate::modes::config::KeyProblem;

/// One table of the file.
#[derive(Debug, Clone)]
pub(super) struct Table<'i> {
    /// Where its header stands, for mistakes that have no key of their own.
    span: Range<usize>,
    value: Spanned<DeValue<'i>>,
}

/// The top level of a parsed file: each key with its place and its value.
pub(super) type Entry<'i> = (Spanned<String>, Spanned<DeValue<'i>>);

/// Parses the text.
///
/// # Errors
/// The first mistake of syntax: what follows it cannot be trusted.
pub(super) fn parse(text: &str) -> Result<Vec<Entry<'_>>, Problem> {
    let table: DeTable<'_> = DeTable::parse(text)
        .map_err(|error| Problem { span: error.span().unwrap_or(0..0), message: error.message().to_owned() })?
        .into_inner();
    Ok(table.into_iter().map(|(key, value)| (Spanned::new(key.span(), key.get_ref().to_string()), value)).collect())
}

impl<'i> Table<'i> {
    /// A value that should be a table; `key` is where its name stands.
    pub(super) fn new(key: Range<usize>, value: Spanned<DeValue<'i>>) -> Result<Table<'i>, Problem> {
        match value.get_ref() {
            DeValue::Table(_) => Ok(Table { span: key, value }),
            _ => Err(Problem { span: value.span(), message: "this must be a table".to_owned() }),
        }
    }

    /// Reads it, collecting every mistake; `None` when something required is missing or wrong.
    pub(super) fn read<T: DeserializeOwned>(&self, problems: &mut Vec<Problem>) -> Option<T> {
        let mut value = self.value.clone();
        let mut removed: Vec<String> = Vec::new();
        loop {
            let error = match T::deserialize(ValueDeserializer::from(value.clone())) {
                Ok(read) => return Some(read),
                Err(error) => error,
            };
            let message = in_our_words(error.message());
            let span = error.span();
            if removed.iter().any(|key| message == format!("missing key `{key}`")) {
                return None; // Said already, better.
            }
            let culprit = span.clone().and_then(|span| remove(&mut value, &span));
            // Without a culprit the mistake is the table's own: a required key is missing.
            let span = span.filter(|_| culprit.is_some()).unwrap_or(self.span.clone());
            problems.push(Problem { span, message });
            removed.push(culprit?);
        }
    }

    /// The place of the value at `keys`, or of what is nearest to it.
    pub(super) fn place(&self, keys: &[&str]) -> Range<usize> {
        let mut place = self.span.clone();
        let mut value = &self.value;
        for key in keys {
            let DeValue::Table(table) = value.get_ref() else { break };
            let Some((_, next)) = table.iter().find(|(name, _)| name.get_ref() == key) else { break };
            place = next.span();
            value = next;
        }
        place
    }

    /// A mistake in meaning, with its place.
    pub(super) fn problem(&self, problem: &KeyProblem) -> Problem {
        let key = problem.keys.last().map_or_else(String::new, |key| format!("`{key}`: "));
        Problem { span: self.place(&problem.keys), message: format!("{key}{}", problem.message) }
    }
}

/// Takes the innermost key whose name or value holds `span` out of the tree; its name.
fn remove(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<String> {
    let DeValue::Table(table) = value.get_mut() else { return None };
    let holds = |place: Range<usize>| place.start <= span.start && span.end <= place.end;
    let mut culprit = None;
    for (key, inner) in table.iter_mut() {
        // A table's own span may be its header alone, so its inside is searched whatever its span says.
        if let Some(name) = remove(inner, span) {
            return Some(name);
        }
        if holds(key.span()) || holds(inner.span()) {
            culprit = Some(key.clone());
        }
    }
    let culprit = culprit?;
    table.remove(culprit.get_ref().as_ref());
    Some(culprit.get_ref().to_string())
}

/// serde speaks of fields; a configuration file has keys.
fn in_our_words(message: &str) -> String {
    message.replace("unknown field", "unknown key").replace("missing field", "missing key")
}
