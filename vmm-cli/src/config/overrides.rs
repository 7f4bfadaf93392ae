//! `--set key=value`, `--mode` and `--timeout`: put into the parsed file before anything is checked.
//!
//! A key is a path of names with dots, an array's element its index: `paging.map.0.gva`. A value is TOML; a bare word
//! that is no TOML value stands for itself, so that `--set memory.size=4MiB` needs no quotes within quotes.
//! Each option becomes a text of its own among the [`Sources`](super::source::Sources).

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::fault::Fault;
use super::source::Span;

/// No key of the format has more names, such as the four of `expect.memory.0.address`; a limit keeps the walk along
/// them short.
const DEEPEST: usize = 8;

/// Values from the command line that replace those of the file, in the order in which they were given.
#[derive(Debug, Clone, Default)]
pub struct Overrides(Vec<Override>);

/// One option.
#[derive(Debug, Clone)]
pub(crate) struct Override {
    /// The option as it would be typed.
    pub(crate) text: String,
    /// The key, such as `memory.size`.
    path: String,
    /// Where the key stands in the text. For `--mode` that is the option itself.
    path_span: Span,
    /// Where the value starts in the text.
    value_start: usize,
}

impl Overrides {
    /// No overrides.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `--set key=value`, given the part behind `--set`.
    pub fn set(&mut self, assignment: &str) {
        let option = "--set ";
        let text = format!("{option}{assignment}");
        let (path, value_start) = match assignment.split_once('=') {
            Some((path, _)) => (path, option.len().saturating_add(path.len()).saturating_add(1)),
            None => (assignment, text.len()),
        };
        let path_span = option.len()..option.len().saturating_add(path.len());
        self.0.push(Override { path: path.trim().to_owned(), path_span, value_start, text });
    }

    /// `--mode NAME`.
    pub fn mode(&mut self, name: &str) {
        self.shorthand("--mode", "mode", name);
    }

    /// `--timeout DURATION`.
    pub fn timeout(&mut self, duration: &str) {
        self.shorthand("--timeout", "limits.time", duration);
    }

    fn shorthand(&mut self, option: &str, path: &str, value: &str) {
        self.0.push(Override {
            text: format!("{option} {value}"),
            path: path.to_owned(),
            path_span: 0..option.len(),
            value_start: option.len().saturating_add(1),
        });
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Override> {
        self.0.iter()
    }
}

impl Override {
    /// Puts the value into `document`. `start` is the offset of this option's text.
    pub(crate) fn apply<'i>(&'i self, document: &mut DeTable<'i>, start: usize) -> Result<(), Fault> {
        let key_span = shift(&self.path_span, start);
        let names: Vec<&str> = self.path.split('.').collect();
        if names.iter().any(|name| name.is_empty()) {
            return Err(Fault::new(&key_span, "no key is named here")
                .help("write the key with its table, such as `--set memory.size=4MiB`"));
        }
        if names.len() > DEEPEST {
            return Err(Fault::new(&key_span, format!("no key has {} names", names.len())));
        }
        let value = self.value(start)?;
        let mut root = Spanned::new(0..0, DeValue::Table(std::mem::take(document)));
        let result = put(&mut root, &names, value, &key_span, "");
        if let DeValue::Table(table) = root.into_inner() {
            *document = table;
        }
        result
    }

    fn value(&self, start: usize) -> Result<Spanned<DeValue<'_>>, Fault> {
        let raw = self.text.get(self.value_start..).unwrap_or_default();
        let text = raw.trim();
        let at = start.saturating_add(self.value_start).saturating_add(raw.len() - raw.trim_start().len());
        if text.is_empty() {
            let whole = shift(&(0..self.text.len()), start);
            return Err(Fault::new(&whole, "no value is given")
                .help("write `--set key=value`; \"\" is an empty text"));
        }
        match DeValue::parse(text) {
            Ok(value) => Ok(shift_value(value, at)),
            Err(error) if text.starts_with(['"', '\'', '[', '{']) => {
                let span = shift(&error.span().unwrap_or(0..text.len()), at);
                Err(Fault::new(&span, error.message()))
            }
            Err(_) => Ok(Spanned::new(shift(&(0..text.len()), at), DeValue::String(Cow::Borrowed(text)))),
        }
    }
}

/// Puts `leaf` where `names` leads from `target`, whose own path is `so_far`.
fn put<'i>(
    target: &mut Spanned<DeValue<'i>>,
    names: &[&'i str],
    leaf: Spanned<DeValue<'i>>,
    key_span: &Span,
    so_far: &str,
) -> Result<(), Fault> {
    let Some((name, rest)) = names.split_first() else {
        *target = leaf;
        return Ok(());
    };
    let path = if so_far.is_empty() { (*name).to_owned() } else { format!("{so_far}.{name}") };
    let fresh = || Spanned::new(key_span.clone(), DeValue::Boolean(false));
    match target.get_mut() {
        DeValue::Table(table) => {
            if *name == "0" && !table.contains_key("0") {
                // `[memory]` is the first and only `[[memory]]`.
                return put(target, rest, leaf, key_span, &path);
            }
            let key = Spanned::new(key_span.clone(), Cow::Borrowed(*name));
            let child = table.entry(key).or_insert_with(|| container(fresh(), rest));
            put(child, rest, leaf, key_span, &path)
        }
        DeValue::Array(array) => {
            let Ok(index) = name.parse::<usize>() else {
                return Err(Fault::new(
                    key_span,
                    format!("`{so_far}` is an array, which has no key `{name}`"),
                )
                .help(format!("name an element of it: `{so_far}.0.{}`", names.join("."))));
            };
            if index == array.len() {
                array.push(container(fresh(), rest));
            }
            let count = array.len();
            match array.get_mut(index) {
                Some(child) => put(child, rest, leaf, key_span, &path),
                None => Err(Fault::new(key_span, format!("`{so_far}` has no element {index}"))
                    .help(format!("it has {count}, counted from 0; {count} itself adds one"))),
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => Err(Fault::new(
            key_span,
            format!("`{so_far}` is neither a table nor an array, so it has no `{name}`"),
        )),
    }
}

/// What a missing key becomes on the way to `rest`: an array if an index follows, a table if a name does.
fn container<'i>(fresh: Spanned<DeValue<'i>>, rest: &[&str]) -> Spanned<DeValue<'i>> {
    let empty = match rest.first() {
        None => return fresh,
        Some(name) if name.parse::<usize>().is_ok() => DeValue::Array(DeArray::new()),
        Some(_) => DeValue::Table(DeTable::new()),
    };
    Spanned::new(fresh.span(), empty)
}

fn shift(span: &Span, by: usize) -> Span {
    span.start.saturating_add(by)..span.end.saturating_add(by)
}

/// The value with all its spans moved.
fn shift_value(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = shift(&value.span(), by);
    let moved = match value.into_inner() {
        DeValue::Array(items) => {
            DeValue::Array(items.into_iter().map(|item| shift_value(item, by)).collect())
        }
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, value)| {
                    let span = shift(&key.span(), by);
                    (Spanned::new(span, key.into_inner()), shift_value(value, by))
                })
                .collect(),
        ),
        leaf @ (DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)) => leaf,
    };
    Spanned::new(span, moved)
}
