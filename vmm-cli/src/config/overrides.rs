//! Options of the command line that set a key, such as `--set key=value`, applied to the parsed file before any check.
//!
//! A key is a path of names and array indexes with dots: `paging.map.0.gva`. A value is TOML; a bare word that is not a TOML
//! value is a string, so that `--set memory.size=4MiB` needs no inner quotes. Each option becomes a text of its own in
//! `source.rs`.

use std::borrow::Cow;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::note::NotePolicy;
use super::problem::ConfigProblem;
use super::source::Span;

/// Maximum number of names in a key. Keys of the format have at most four, such as `expect.memory.0.address`.
const MAX_KEY_DEPTH: usize = 8;

/// Origin of options, for errors.
const COMMAND_LINE: &str = "command line";

/// Name that appends an element to an array, in place of an index.
const APPEND: &str = "+";

/// Values that replace those of the file, in the order in which they are applied, and the treatment of a file with a
/// configuration inside.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    list: Vec<Override>,
    notes: NotePolicy,
}

/// Value of one option.
#[derive(Debug, Clone)]
pub(crate) struct Override {
    /// Origin, for errors.
    pub(crate) origin: &'static str,
    /// Text of the option, as typed.
    pub(crate) text: String,
    /// True if a user typed it. Errors do not show a generated text.
    pub(crate) is_written: bool,
    /// True if the value is from the configuration itself, its `[matrix]`, and not from the command line.
    pub(crate) is_configuration: bool,
    /// Key, such as `memory.size`.
    path: String,
    /// Span of the key in the text. For `--mode`, that of the option itself.
    path_span: Span,
    /// Value.
    given: Given,
}

/// Value of an override, as given.
#[derive(Debug, Clone)]
enum Given {
    /// TOML or a bare word: the text from this offset on.
    Toml(usize),
    /// String that is used unchanged.
    Text(String),
    /// Module: its file, and its command line if it has one.
    Module(String, Option<String>),
}

impl Overrides {
    /// Returns an empty list of overrides.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the option `--set key=value`, given the part after `--set`.
    pub fn set(&mut self, assignment: &str) {
        let option = "--set ";
        let text = format!("{option}{assignment}");
        let (path, value_start) = match assignment.split_once('=') {
            Some((path, _)) => (path, option.len().saturating_add(path.len()).saturating_add(1)),
            None => (assignment, text.len()),
        };
        let path_span = option.len()..option.len().saturating_add(path.len());
        let (path, given) = (path.trim().to_owned(), Given::Toml(value_start));
        self.push(Override {
            origin: COMMAND_LINE,
            path,
            path_span,
            given,
            text,
            is_written: true,
            is_configuration: false,
        });
    }

    /// Adds a value of the key `path` in `[matrix]`, as TOML.
    pub(crate) fn matrix(&mut self, path: &str, value: &str) {
        let text = format!("{path} = {value}");
        let given = Given::Toml(path.len().saturating_add(" = ".len()));
        self.push(Override {
            origin: "[matrix]",
            path: path.to_owned(),
            path_span: 0..path.len(),
            given,
            text,
            is_written: true,
            is_configuration: true,
        });
    }

    /// Adds a generated string for the key `path`, which follows from the file that contains the configuration.
    pub(crate) fn implied(&mut self, path: &str, text: &str) {
        self.text("", path, text, Given::Text(text.to_owned()));
        if let Some(last) = self.list.last_mut() {
            last.is_written = false;
        }
    }

    /// Returns these overrides, followed by `others`, which have precedence.
    pub(crate) fn and(mut self, others: &Self) -> Self {
        self.list.extend(others.list.iter().cloned());
        self.notes = others.notes;
        self
    }

    /// Adds the option `--mode NAME`.
    pub fn mode(&mut self, name: &str) {
        self.shorthand("--mode", "mode", name);
    }

    /// Adds the option `--timeout DURATION`.
    pub fn timeout(&mut self, duration: &str) {
        self.shorthand("--timeout", "limits.time", duration);
    }

    /// Adds the option `--boot PROTOCOL`.
    pub fn boot(&mut self, name: &str) {
        self.shorthand("--boot", "boot", name);
    }

    /// Adds the option `--memory SIZE`.
    pub fn memory(&mut self, size: &str) {
        self.shorthand("--memory", "memory.size", size);
    }

    /// Adds the option `--cpus NUMBER`.
    pub fn cpus(&mut self, number: &str) {
        self.shorthand("--cpus", "vcpus", number);
    }

    /// Adds the option `--cmdline TEXT`. The text is used unchanged, even `1` and `"x"`.
    pub fn command_line(&mut self, text: &str) {
        self.text("--cmdline", "guest.cmdline", text, Given::Text(text.to_owned()));
    }

    /// Adds the option `--initrd FILE`, relative to the working directory and not to the configuration.
    pub fn initrd(&mut self, file: &str) {
        self.text("--initrd", "guest.initrd", file, Given::Text(absolute(file)));
    }

    /// Adds the option `--module FILE[=CMDLINE]`: a module after those of the file.
    pub fn module(&mut self, module: &str) {
        let (file, command_line) = match module.split_once('=') {
            Some((file, command_line)) => (file, Some(command_line.to_owned())),
            None => (module, None),
        };
        self.text(
            "--module",
            &format!("guest.module.{APPEND}"),
            module,
            Given::Module(absolute(file), command_line),
        );
    }

    /// Sets the treatment of a configuration inside an ELF file. Default: it is refused.
    #[must_use]
    pub fn with_notes(self, notes: NotePolicy) -> Self {
        Self { notes, ..self }
    }

    pub(crate) fn notes(&self) -> NotePolicy {
        self.notes
    }

    fn push(&mut self, value: Override) {
        self.list.push(value);
    }

    fn text(&mut self, option: &str, path: &str, shown: &str, given: Given) {
        let (text, path) = (format!("{option} {shown}"), path.to_owned());
        let path_span = 0..option.len();
        self.push(Override {
            origin: COMMAND_LINE,
            text,
            path,
            path_span,
            given,
            is_written: true,
            is_configuration: false,
        });
    }

    fn shorthand(&mut self, option: &str, path: &str, value: &str) {
        self.push(Override {
            origin: COMMAND_LINE,
            text: format!("{option} {value}"),
            path: path.to_owned(),
            path_span: 0..option.len(),
            given: Given::Toml(option.len().saturating_add(1)),
            is_written: true,
            is_configuration: false,
        });
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Override> {
        self.list.iter()
    }
}

impl Override {
    /// Sets the value in `document`. `start` is the offset of this option's text.
    pub(crate) fn apply<'i>(&'i self, document: &mut DeTable<'i>, start: usize) -> Result<(), ConfigProblem> {
        let key_span = shift(&self.path_span, start);
        let names: Vec<&str> = self.path.split('.').collect();
        if names.iter().any(|name| name.is_empty()) {
            return Err(ConfigProblem::new(&key_span, "no key is named here")
                .help("write the key with its table, such as `--set memory.size=4MiB`"));
        }
        if names.len() > MAX_KEY_DEPTH {
            return Err(ConfigProblem::new(&key_span, format!("no key has {} names", names.len())));
        }
        let value = self.value(start)?;
        let mut root = Spanned::new(0..0, DeValue::Table(std::mem::take(document)));
        let result = put(&mut root, &names, value, &key_span, "");
        if let DeValue::Table(table) = root.into_inner() {
            *document = table;
        }
        result
    }

    fn value(&self, start: usize) -> Result<Spanned<DeValue<'_>>, ConfigProblem> {
        let whole = shift(&(0..self.text.len()), start);
        let spanned = |value| Spanned::new(whole.clone(), value);
        let value_start = match &self.given {
            Given::Toml(value_start) => *value_start,
            Given::Text(text) => return Ok(spanned(DeValue::String(Cow::Borrowed(text)))),
            Given::Module(file, command_line) => {
                let mut table = DeTable::new();
                for (key, text) in [("file", Some(file)), ("cmdline", command_line.as_ref())] {
                    if let Some(text) = text {
                        let key = Spanned::new(whole.clone(), Cow::Borrowed(key));
                        table.insert(key, spanned(DeValue::String(Cow::Borrowed(text))));
                    }
                }
                return Ok(spanned(DeValue::Table(table)));
            }
        };
        let raw = self.text.get(value_start..).unwrap_or_default();
        let text = raw.trim();
        let at = start.saturating_add(value_start).saturating_add(raw.len() - raw.trim_start().len());
        if text.is_empty() {
            return Err(ConfigProblem::new(&whole, "no value is given")
                .help("write `--set key=value`; \"\" is an empty text"));
        }
        match DeValue::parse(text) {
            Ok(value) => Ok(shift_value(value, at)),
            Err(error) if text.starts_with(['"', '\'', '[', '{']) => {
                let span = shift(&error.span().unwrap_or(0..text.len()), at);
                Err(ConfigProblem::new(&span, error.message()))
            }
            Err(_) => Ok(Spanned::new(shift(&(0..text.len()), at), DeValue::String(Cow::Borrowed(text)))),
        }
    }
}

/// Sets the value at the path `names` below `target`, whose own path is `path_prefix`, to `leaf`.
fn put<'i>(
    target: &mut Spanned<DeValue<'i>>,
    names: &[&'i str],
    leaf: Spanned<DeValue<'i>>,
    key_span: &Span,
    path_prefix: &str,
) -> Result<(), ConfigProblem> {
    let Some((name, rest)) = names.split_first() else {
        *target = leaf;
        return Ok(());
    };
    let path = if path_prefix.is_empty() { (*name).to_owned() } else { format!("{path_prefix}.{name}") };
    let fresh = || Spanned::new(key_span.clone(), DeValue::Boolean(false));
    match target.get_mut() {
        DeValue::Table(table) => {
            if *name == "0" && !table.contains_key("0") {
                // `[memory]` is the first and only `[[memory]]`.
                return put(target, rest, leaf, key_span, &path);
            }
            if *name == APPEND {
                // So it becomes the first of two.
                let first = Spanned::new(key_span.clone(), DeValue::Table(std::mem::take(table)));
                *target = Spanned::new(key_span.clone(), DeValue::Array([first].into_iter().collect()));
                return put(target, names, leaf, key_span, path_prefix);
            }
            let key = Spanned::new(key_span.clone(), Cow::Borrowed(*name));
            let child = table.entry(key).or_insert_with(|| container(fresh(), rest));
            put(child, rest, leaf, key_span, &path)
        }
        DeValue::Array(array) => {
            let index = if *name == APPEND { Ok(array.len()) } else { name.parse::<usize>() };
            let Ok(index) = index else {
                return Err(ConfigProblem::new(
                    key_span,
                    format!("`{path_prefix}` is an array, which has no key `{name}`"),
                )
                .help(format!("name an element of it: `{path_prefix}.0.{}`", names.join("."))));
            };
            if index == array.len() {
                array.push(container(fresh(), rest));
            }
            let count = array.len();
            match array.get_mut(index) {
                Some(child) => put(child, rest, leaf, key_span, &path),
                None => Err(ConfigProblem::new(key_span, format!("`{path_prefix}` has no element {index}"))
                    .help(format!("it has {count}, counted from 0; {count} itself adds one"))),
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => Err(ConfigProblem::new(
            key_span,
            format!("`{path_prefix}` is neither a table nor an array, so it has no `{name}`"),
        )),
    }
}

/// Returns the value of a missing key above `rest`: an array if an index follows, a table if a name follows.
fn container<'i>(fresh: Spanned<DeValue<'i>>, rest: &[&str]) -> Spanned<DeValue<'i>> {
    let empty = match rest.first() {
        None => return fresh,
        Some(name) if *name == APPEND || name.parse::<usize>().is_ok() => DeValue::Array(DeArray::new()),
        Some(_) => DeValue::Table(DeTable::new()),
    };
    Spanned::new(fresh.span(), empty)
}

/// Returns an absolute path for one of the command line, which is relative to the working directory.
fn absolute(file: &str) -> String {
    let path = std::path::absolute(Path::new(file));
    path.ok().and_then(|path| Some(path.to_str()?.to_owned())).unwrap_or_else(|| file.to_owned())
}

fn shift(span: &Span, by: usize) -> Span {
    span.start.saturating_add(by)..span.end.saturating_add(by)
}

/// Returns the value with all its spans moved.
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
