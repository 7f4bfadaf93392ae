//! Rules for items of a crate: first words of doc comments, names of constants, unique type names.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "syntax trees have many kinds of items, and each rule is for a few of them"
)]

use std::collections::BTreeMap;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::{DOCS_CHECKED, NAMES_CHECKED, SourceFile, Violation};
use crate::failure::Result;

/// First words of a doc comment that refer to another item. rustdoc shows each comment alone.
const REFERRING_STARTS: &[&str] = &[
    "All of",
    "As above",
    "As before",
    "As the",
    "As well",
    "Both of",
    "Ditto",
    "Each of them",
    "Its",
    "It",
    "Likewise",
    "None of them",
    "One of them",
    "Same",
    "Such a",
    "That",
    "The former",
    "The latter",
    "The other",
    "The others",
    "The rest",
    "The same",
    "Their",
    "Them",
    "These",
    "They",
    "This",
    "Those",
];

/// First words of a doc comment that begin a clause instead of naming the item.
const CLAUSE_STARTS: &[&str] =
    &["How", "If", "What", "Whatever", "When", "Where", "Whether", "Which", "Who", "Whoever", "Whose", "Why"];

/// Second words of a doc comment that refer to another item, as in "Writes them."
const PRONOUNS: &[&str] = &["it", "so", "that", "them", "these", "this", "those"];

/// Words in names of constants that hide their meaning, each with the word to use.
const CONSTANT_WORDS: &[(&str, &str)] = &[
    ("EARLIEST", "MIN_"),
    ("FEWEST", "MIN_"),
    ("LARGEST", "MAX_"),
    ("LATEST", "MAX_"),
    ("LEAST", "MIN_"),
    ("LONGEST", "MAX_"),
    ("MOST", "MAX_"),
    ("PATIENCE", "_TIMEOUT"),
    ("REMEMBERED", "MAX_"),
    ("SHORTEST", "MIN_"),
    ("SMALLEST", "MIN_"),
    ("WATCHDOG", "_TIMEOUT"),
];

/// Returns the violations in all files of the checked crates.
pub(super) fn violations(files: &[SourceFile]) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| file.is_in(DOCS_CHECKED)) {
        let mut docs = DocVisitor { file, is_public: true, violations: &mut violations };
        let syntax = file.parse()?;
        docs.check(&syntax.attrs, 1);
        docs.visit_file(&syntax);
    }
    for name in NAMES_CHECKED {
        let mut types = BTreeMap::new();
        for file in files.iter().filter(|file| file.is_in(&[name])) {
            let mut names = NameVisitor { file, types: &mut types, violations: &mut violations };
            names.visit_file(&file.parse()?);
        }
    }
    Ok(violations)
}

/// Checks doc comments of items that are visible outside of their module.
struct DocVisitor<'a> {
    file: &'a SourceFile,
    /// True inside of a public enum, struct or trait: its variants and methods have no visibility of their own.
    is_public: bool,
    violations: &'a mut Vec<Violation>,
}

impl DocVisitor<'_> {
    fn check(&mut self, attributes: &[syn::Attribute], line: usize) {
        let mut lines = attributes.iter().filter_map(doc_line);
        let Some((doc_line, text)) = lines.find(|(_, text)| !text.trim().is_empty()) else { return };
        let rest: Vec<_> = lines.map(|(_, text)| text).take_while(|text| !text.trim().is_empty()).collect();
        let paragraph = std::iter::once(text).chain(rest).collect::<Vec<_>>().join(" ");
        if let Some(message) = bad_start(&paragraph) {
            self.violations.push(self.file.violation(doc_line.max(line), message));
        }
    }

    /// Visits an item whose visibility is `is_public`.
    fn visit_in(&mut self, is_public: bool, visit: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.is_public, is_public);
        visit(self);
        self.is_public = outer;
    }
}

impl<'ast> Visit<'ast> for DocVisitor<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if is_for_tests(item_attributes(item)) {
            return;
        }
        let is_public = visibility(item).is_some_and(is_visible);
        if is_public {
            self.check(item_attributes(item), 0);
        }
        // Methods in an impl block of a type have a visibility of their own.
        let is_public = is_public || matches!(item, syn::Item::Impl(_));
        self.visit_in(is_public, |inner| visit::visit_item(inner, item));
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let (visibility, attributes) = match item {
            syn::ImplItem::Const(item) => (&item.vis, &item.attrs),
            syn::ImplItem::Fn(item) => (&item.vis, &item.attrs),
            syn::ImplItem::Type(item) => (&item.vis, &item.attrs),
            _ => return,
        };
        if is_visible(visibility) {
            self.check(attributes, 0);
        }
    }

    fn visit_trait_item(&mut self, item: &'ast syn::TraitItem) {
        let attributes = match item {
            syn::TraitItem::Const(item) => &item.attrs,
            syn::TraitItem::Fn(item) => &item.attrs,
            syn::TraitItem::Type(item) => &item.attrs,
            _ => return,
        };
        if self.is_public {
            self.check(attributes, 0);
        }
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        if self.is_public {
            self.check(&variant.attrs, 0);
            variant.fields.iter().for_each(|field| self.check(&field.attrs, 0));
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if self.is_public && is_visible(&field.vis) {
            self.check(&field.attrs, 0);
        }
    }

    // Items inside of a function are not visible outside of it.
    fn visit_block(&mut self, _block: &'ast syn::Block) {}
}

/// Checks names of constants, and collects the names of visible types.
struct NameVisitor<'a> {
    file: &'a SourceFile,
    /// Visible types of the crate: name, and the file and line of the first declaration.
    types: &'a mut BTreeMap<String, String>,
    violations: &'a mut Vec<Violation>,
}

impl NameVisitor<'_> {
    fn check_constant(&mut self, name: &syn::Ident) {
        let text = name.to_string();
        let word = text.split('_').find_map(|part| CONSTANT_WORDS.iter().find(|(word, _)| *word == part));
        let message = match word {
            Some((word, better)) => format!("{text}: a limit is named {better}, not {word}"),
            None if text.ends_with("_FROM") => {
                format!("{text}: a threshold is named MIN_ or _THRESHOLD, not _FROM")
            }
            None => return,
        };
        self.violations.push(self.file.violation(name.span().start().line, message));
    }

    fn check_type(&mut self, visibility: &syn::Visibility, name: &syn::Ident) {
        if !is_visible(visibility) {
            return;
        }
        let line = name.span().start().line;
        let here = format!("{}:{line}", self.file.path.display());
        if let Some(first) = self.types.get(&name.to_string()) {
            let message =
                format!("{name} is also the name of a type in {first}; one name has one meaning in a crate");
            self.violations.push(self.file.violation(line, message));
        } else {
            self.types.insert(name.to_string(), here);
        }
    }
}

impl<'ast> Visit<'ast> for NameVisitor<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if is_for_tests(item_attributes(item)) {
            return;
        }
        match item {
            syn::Item::Const(item) => self.check_constant(&item.ident),
            syn::Item::Static(item) => self.check_constant(&item.ident),
            syn::Item::Struct(item) => self.check_type(&item.vis, &item.ident),
            syn::Item::Enum(item) => self.check_type(&item.vis, &item.ident),
            syn::Item::Union(item) => self.check_type(&item.vis, &item.ident),
            syn::Item::Trait(item) => self.check_type(&item.vis, &item.ident),
            syn::Item::Type(item) => self.check_type(&item.vis, &item.ident),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.check_constant(&item.ident);
    }

    fn visit_trait_item_const(&mut self, item: &'ast syn::TraitItemConst) {
        self.check_constant(&item.ident);
    }
}

/// Returns why a doc comment must not begin so, or `None` if it may.
fn bad_start(text: &str) -> Option<String> {
    let starts_with = |start: &&&str| {
        text.strip_prefix(**start)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    if let Some(start) = REFERRING_STARTS.iter().find(starts_with) {
        return Some(format!("a doc comment stands alone: \"{start}\" refers to another item"));
    }
    if let Some(start) = CLAUSE_STARTS.iter().find(starts_with) {
        return Some(format!("a doc comment begins with a verb or a noun, not with \"{start}\""));
    }
    let mut words = text.split_whitespace();
    let (first, second) = (words.next()?, words.next()?);
    let word = second.trim_end_matches(['.', ',', ';', ':']);
    let is_object = word.len() < second.len() || words.next().is_none();
    (is_object && PRONOUNS.contains(&word))
        .then(|| format!("a doc comment stands alone: \"{first} {word}\" refers to another item"))
}

/// Returns line number and text of a `///` or `//!` line.
fn doc_line(attribute: &syn::Attribute) -> Option<(usize, String)> {
    let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else { return None };
    let is_doc = pair.path.is_ident("doc");
    is_doc.then(|| (attribute.span().start().line, text.value().trim().to_owned()))
}

/// Returns true if the visibility is not private.
fn is_visible(visibility: &syn::Visibility) -> bool {
    !matches!(visibility, syn::Visibility::Inherited)
}

/// Returns true for `#[cfg(test)]` and `#[test]`.
pub(super) fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::NameValue(_) => false,
    })
}

/// Returns the attributes of an item.
pub(super) fn item_attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Union(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns the visibility of an item that has one and may have a doc comment.
fn visibility(item: &syn::Item) -> Option<&syn::Visibility> {
    match item {
        syn::Item::Const(item) => Some(&item.vis),
        syn::Item::Enum(item) => Some(&item.vis),
        syn::Item::Fn(item) => Some(&item.vis),
        syn::Item::Mod(item) => Some(&item.vis),
        syn::Item::Static(item) => Some(&item.vis),
        syn::Item::Struct(item) => Some(&item.vis),
        syn::Item::Trait(item) => Some(&item.vis),
        syn::Item::Type(item) => Some(&item.vis),
        syn::Item::Union(item) => Some(&item.vis),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[&str]) -> Vec<String> {
        let file = |(number, text): (usize, &&str)| SourceFile {
            path: format!("xtask/src/{number}.rs").into(),
            text: (*text).to_owned(),
        };
        let files: Vec<_> = texts.iter().enumerate().map(file).collect();
        let violations = violations(&files).unwrap();
        violations.iter().map(|found| format!("{}: {}", found.line, found.message)).collect()
    }

    /// Asserts that there is exactly one violation, with this text.
    fn violation(texts: &[&str], expected: &str) {
        let found = found(texts);
        assert!(matches!(found.as_slice(), [one] if one.contains(expected)), "{texts:?}: {found:?}");
    }

    #[test]
    fn starts_of_doc_comments() {
        for good in [
            "Returns the state.",
            "Items, sorted.",
            "Issue of a run",
            "Sets that register.",
            "Whence it comes",
            "`It` is a type.",
            "Returns true if it is set.",
        ] {
            assert_eq!(bad_start(good), None, "{good}");
        }
        for (bad, reason) in [
            ("The same, with observers.", "\"The same\" refers"),
            ("It is set.", "\"It\" refers"),
            ("All of them.", "\"All of\" refers"),
            ("Writes them.", "\"Writes them\" refers"),
            ("Ends that. Twice.", "\"Ends that\" refers"),
            ("Builds it, and says so.", "\"Builds it\" refers"),
            ("Sets it", "\"Sets it\" refers"),
            ("Whether it is set.", "not with \"Whether\""),
            ("What a guest did.", "not with \"What\""),
        ] {
            assert!(bad_start(bad).is_some_and(|message| message.contains(reason)), "{bad}");
        }
    }

    #[test]
    fn docs_of_visible_items_are_checked() {
        violation(&["//! What this is.\n"], "1: a doc comment begins");
        violation(&["//! A.\n\n/// Whether it is.\npub fn f() {}\n"], "3: a doc comment begins");
        violation(
            &["//! A.\n/// An enum.\npub(crate) enum E {\n    /// It is set.\n    A,\n}\n"],
            "4: a doc comment",
        );
        violation(
            &["//! A.\n/// A struct.\npub struct S {\n    /// Where it is.\n    pub a: u8,\n}\n"],
            "4: a doc",
        );
        violation(&["//! A.\n/// A trait.\npub trait T {\n    /// Sets it.\n    fn set();\n}\n"], "4: a doc");
        violation(&["//! A.\nimpl S {\n    /// How many.\n    pub(super) fn count() {}\n}\n"], "3: a doc");
    }

    #[test]
    fn docs_of_private_items_and_tests_are_not_checked() {
        let text = "//! A.\n/// What it is.\nfn f() {}\n/// A struct.\npub struct S {\n    /// It.\n    a: u8,\n}\n\
                    impl S {\n    /// What.\n    fn g() {}\n}\n#[cfg(test)]\nmod tests {\n    /// What.\n    pub fn f() {}\n}\n";
        assert_eq!(found(&[text]), Vec::<String>::new());
    }

    #[test]
    fn names_of_constants_are_checked() {
        violation(&["//! A.\nconst LONGEST_NAME: u8 = 1;\n"], "2: LONGEST_NAME: a limit is named MAX_");
        violation(
            &["//! A.\nfn f() {\n    const PATIENCE: u8 = 1;\n}\n"],
            "3: PATIENCE: a limit is named _TIMEOUT",
        );
        violation(&["//! A.\nimpl S {\n    const MAP_FROM: u8 = 1;\n}\n"], "3: MAP_FROM: a threshold");
        assert!(found(&["//! A.\nconst MAX_ALMOST: u8 = 1;\n"]).is_empty());
    }

    #[test]
    fn a_type_name_is_unique_in_its_crate() {
        let (a, b) = ("//! A.\npub struct Row;\n", "//! B.\n\npub(crate) type Row = u8;\n");
        violation(&[a, b], "3: Row is also the name of a type in xtask/src/0.rs:2");
        assert!(found(&[a, "//! B.\nstruct Row;\n"]).is_empty());
    }
}
