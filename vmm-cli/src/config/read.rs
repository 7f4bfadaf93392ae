//! Reads the texts into the [`schema`](super::schema) types, and goes on where serde stops.
//!
//! serde stops at the first error. To find all without a second description of the format, the entry of the error is removed
//! from the parsed document, and the document is deserialized again, until it fits. A file without errors is deserialized
//! once.

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer};

use serde::Deserialize;

use super::overrides::Overrides;
use super::problem::{ConfigProblem, ConfigProblems, MAX_PROBLEMS};
use super::schema::Document;
use super::serde_error::SerdeProblem;
use super::source::{Sources, Span};
use super::syntax;

/// Parses the file and applies the overrides, whose texts are added to `sources`.
pub(crate) fn parse<'i>(
    text: &'i str,
    overrides: &'i Overrides,
    sources: &mut Sources,
    problems: &mut ConfigProblems,
) -> Spanned<DeTable<'i>> {
    let (mut document, errors) = DeTable::parse_recoverable(text);
    syntax::report(text, &errors, problems);
    for option in overrides.iter() {
        let start = match (option.is_written, option.is_configuration) {
            (true, true) => sources.add(option.origin, &option.text),
            (true, false) => sources.add_option(option.origin, &option.text),
            (false, _) => sources.add_generated(option.origin, &option.text),
        };
        if let Err(problem) = option.apply(document.get_mut(), start) {
            problems.push(problem);
        }
    }
    document
}

/// Deserializes the parsed document. Entries that do not fit are reported and removed.
pub(crate) fn read(mut document: Spanned<DeTable<'_>>, problems: &mut ConfigProblems) -> Option<Document> {
    while problems.count() < MAX_PROBLEMS {
        let error = match Document::deserialize(Deserializer::from(document.clone())) {
            Ok(raw) => return Some(raw),
            Err(error) => error,
        };
        let complaint = SerdeProblem::new(error.message());
        let span = error.span().unwrap_or(0..0);
        let problem = ConfigProblem::new(&span, complaint.message);
        problems.push(match complaint.help {
            Some(help) => problem.help(help),
            None => problem,
        });
        // Each round removes one entry, so the loop ends. Without an entry to remove, no more errors can be found.
        let entry = offending_entry(document.get_ref(), &span)?;
        if let (Some(meant), Some((_, parents))) = (complaint.meant_key, entry.split_last()) {
            problems.mark_unread(parents.iter().cloned().chain([meant]).collect::<Vec<_>>().join("."));
        }
        problems.mark_unread(entry.join("."));
        remove(document.get_mut(), &entry)?;
    }
    None
}

/// The place of the entry at `path`, such as `paging.map.0.gva`, or of the nearest entry around it; true if it is that of
/// the entry itself.
pub(crate) fn locate(document: &Spanned<DeTable<'_>>, path: &str) -> (Option<Span>, bool) {
    let mut table = Some(document.get_ref());
    let mut items: &[Spanned<DeValue<'_>>] = &[];
    let mut found = None;
    for name in path.split('.') {
        let value = match table {
            // `[memory]` is the first and only `[[memory]]`.
            Some(_) if name == "0" && found.is_some() => continue,
            Some(table) => table.get(name),
            None => name.parse::<usize>().ok().and_then(|index| items.get(index)),
        };
        let Some(value) = value else { return (found, false) };
        found = Some(value.span());
        table = value.get_ref().as_table();
        items = value.get_ref().as_array().map_or(&[], |array| array.as_ref());
    }
    let is_set = found.is_some();
    (found, is_set)
}

/// Returns the path of the entry that an error at `span` is about: the one whose key or value has exactly that span, else
/// the smallest one whose value contains it.
fn offending_entry(document: &DeTable<'_>, span: &Span) -> Option<Vec<String>> {
    let mut entries = Vec::new();
    for (key, value) in document {
        collect(vec![key.get_ref().to_string()], Some(key.span()), value, &mut entries);
    }
    let exact = entries.iter().find(|entry| entry.key.as_ref() == Some(span) || entry.value == *span);
    let around = || {
        let holding = entries.iter().filter(|e| e.value.start <= span.start && span.end <= e.value.end);
        holding.min_by_key(|entry| entry.value.len())
    };
    exact.or_else(around).map(|entry| entry.path.clone())
}

/// Entry of the parsed document.
struct DocumentEntry {
    path: Vec<String>,
    key: Option<Span>,
    value: Span,
}

/// Collects all entries, outer ones before inner ones.
fn collect(
    path: Vec<String>,
    key: Option<Span>,
    value: &Spanned<DeValue<'_>>,
    entries: &mut Vec<DocumentEntry>,
) {
    let inner = |name: String| path.iter().cloned().chain([name]).collect();
    entries.push(DocumentEntry { path: path.clone(), key, value: value.span() });
    if let Some(table) = value.get_ref().as_table() {
        for (key, value) in table {
            collect(inner(key.get_ref().to_string()), Some(key.span()), value, entries);
        }
    }
    for (index, item) in value.get_ref().as_array().into_iter().flat_map(|array| array.iter()).enumerate() {
        collect(inner(index.to_string()), None, item, entries);
    }
}

/// Removes the entry at `path`.
fn remove(table: &mut DeTable<'_>, path: &[String]) -> Option<()> {
    match path {
        [] => None,
        [name] => table.remove(name.as_str()).map(|_| ()),
        [name, rest @ ..] => remove_inside(table.get_mut(name.as_str())?.get_mut(), rest),
    }
}

fn remove_inside(value: &mut DeValue<'_>, path: &[String]) -> Option<()> {
    if let DeValue::Table(table) = value {
        return remove(table, path);
    }
    let DeValue::Array(array) = value else { return None };
    let (name, rest) = path.split_first()?;
    let index: usize = name.parse().ok()?;
    if !rest.is_empty() {
        return remove_inside(array.get_mut(index)?.get_mut(), rest);
    }
    let items = std::mem::replace(array, DeArray::new()).into_iter().enumerate();
    *array = items.filter(|(at, _)| *at != index).map(|(_, item)| item).collect::<DeArray<'_>>();
    Some(())
}
