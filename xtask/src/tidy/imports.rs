//! Imports between the modules of a crate, from `use` declarations and paths in its source files.
//!
//! A path is followed through `pub use` to the module that declares the item. A `pub use` of a module's own submodules is no
//! import: it only shortens paths.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::{self, Visit};

use super::SourceFile;
use super::item_rules::{is_for_tests, item_attributes};
use crate::failure::Result;

/// Maximum number of `pub use` declarations that a path is followed through.
const MAX_REEXPORTS: usize = 16;

/// Path of a module in its crate; empty for the root.
type ModulePath = Vec<String>;

/// Import of one source file by another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Import {
    /// Index of the importing file.
    pub(super) from: usize,
    /// Index of the imported file.
    pub(super) to: usize,
    /// Line of the first such import in the importing file.
    pub(super) line: usize,
}

/// Source files of a crate and their imports.
pub(super) struct ImportGraph<'a> {
    pub(super) files: Vec<&'a SourceFile>,
    /// Imports between different files, at most one for each pair. Those from and to the crate root are left out.
    pub(super) imports: Vec<Import>,
}

impl<'a> ImportGraph<'a> {
    /// Parses the files of a crate, without its tests.
    pub(super) fn new(name: &str, files: &'a [SourceFile]) -> Result<Self> {
        let source = Path::new(name).join("src");
        let files: Vec<_> = files.iter().filter(|file| file.is_in(&[name])).collect();
        let mut paths =
            PathVisitor { modules: BTreeMap::new(), current: Vec::new(), file: 0, paths: Vec::new() };
        for (index, file) in files.iter().enumerate() {
            paths.modules.insert(module_path(&source, &file.path), index);
        }
        for (index, file) in files.iter().enumerate() {
            paths.current = module_path(&source, &file.path);
            paths.file = index;
            paths.visit_file(&file.parse()?);
        }
        let resolver = Resolver::new(&name.replace('-', "_"), paths.modules, &paths.paths);
        let mut imports = BTreeMap::new();
        for path in &paths.paths {
            let Some(to) = resolver.file(path) else { continue };
            if to != path.file {
                let line = imports.entry((path.file, to)).or_insert(path.line);
                *line = path.line.min(*line);
            }
        }
        let imports = imports.into_iter().map(|((from, to), line)| Import { from, to, line }).collect();
        Ok(Self { files, imports })
    }

    /// Returns the folder of a file: its first path component below `src`, without `.rs`.
    pub(super) fn folder(&self, file: usize) -> String {
        let path = self.files.get(file).map(|file| file.path.as_path()).unwrap_or(Path::new(""));
        let component = path.components().nth(2).map(|component| component.as_os_str().to_string_lossy());
        component.unwrap_or_default().trim_end_matches(".rs").to_owned()
    }
}

/// Returns the sets of at least two nodes that reach each other along the edges.
pub(super) fn circles<T: Ord + Clone>(edges: &BTreeSet<(T, T)>) -> Vec<BTreeSet<T>> {
    let reachable = |start: &T| {
        let mut reached = BTreeSet::new();
        let mut pending = vec![start];
        while let Some(node) = pending.pop() {
            for (_, to) in edges.iter().filter(|(from, _)| from == node) {
                if reached.insert(to.clone()) {
                    pending.push(to);
                }
            }
        }
        reached
    };
    let nodes: BTreeMap<_, _> = edges.iter().map(|(from, _)| (from.clone(), reachable(from))).collect();
    let mut circles: Vec<BTreeSet<T>> = Vec::new();
    for (node, reached) in &nodes {
        let circle: BTreeSet<_> = reached
            .iter()
            .filter(|other| nodes.get(other).is_some_and(|back| back.contains(node)))
            .cloned()
            .collect();
        if circle.len() > 1 && !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}

/// Returns the module path of a source file: empty for `lib.rs` and `main.rs`, `[a, b]` for `a/b.rs` and `a/b/mod.rs`.
fn module_path(source: &Path, file: &Path) -> ModulePath {
    let relative = file.strip_prefix(source).unwrap_or(file).with_extension("");
    let mut path: ModulePath =
        relative.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    let is_root = path.len() == 1 && path.first().is_some_and(|name| name == "lib" || name == "main");
    if is_root || path.last().is_some_and(|name| name == "mod") {
        path.pop();
    }
    path
}

/// A path in a source file that may lead to another file.
struct FoundPath {
    file: usize,
    line: usize,
    /// Module that the path is in.
    module: ModulePath,
    segments: Vec<String>,
    /// Name that a `pub use` declares.
    reexported_as: Option<String>,
}

/// Collects paths from source files.
struct PathVisitor {
    modules: BTreeMap<ModulePath, usize>,
    /// Module being visited.
    current: ModulePath,
    /// File being visited.
    file: usize,
    paths: Vec<FoundPath>,
}

impl PathVisitor {
    fn add(&mut self, line: usize, segments: Vec<String>, reexported_as: Option<String>) {
        self.paths.push(FoundPath {
            file: self.file,
            line,
            module: self.current.clone(),
            segments,
            reexported_as,
        });
    }

    /// Adds each path of a `use` tree, with the segments before it.
    fn add_use(&mut self, tree: &syn::UseTree, before: &[String], is_reexport: bool) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_use(&path.tree, &with(&path.ident), is_reexport),
            syn::UseTree::Name(name) => {
                let declared = is_reexport.then(|| name.ident.to_string());
                self.add(name.ident.span().start().line, with(&name.ident), declared);
            }
            syn::UseTree::Rename(name) => {
                let declared = is_reexport.then(|| name.rename.to_string());
                self.add(name.ident.span().start().line, with(&name.ident), declared);
            }
            syn::UseTree::Glob(glob) => {
                self.add(glob.star_token.spans[0].start().line, before.to_vec(), None);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_use(tree, before, is_reexport));
            }
        }
    }
}

impl<'ast> Visit<'ast> for PathVisitor {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_for_tests(item_attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&item.tree, &[], !matches!(item.vis, syn::Visibility::Inherited));
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.current.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.current.pop();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let Some(first) = path.segments.first()
            && path.segments.len() > 1
        {
            let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.add(first.ident.span().start().line, segments, None);
        }
        visit::visit_path(self, path);
    }
}

/// Finds the file that a path leads to.
struct Resolver {
    /// Name of the crate in paths, which a binary uses for its library.
    name: String,
    modules: BTreeMap<ModulePath, usize>,
    /// Name declared by `pub use` in a module, and the path that it stands for.
    reexports: BTreeMap<(ModulePath, String), (ModulePath, Vec<String>)>,
}

impl Resolver {
    fn new(name: &str, modules: BTreeMap<ModulePath, usize>, paths: &[FoundPath]) -> Self {
        let mut reexports = BTreeMap::new();
        for path in paths {
            if let Some(declared) = &path.reexported_as {
                let key = (path.module.clone(), declared.clone());
                reexports.insert(key, (path.module.clone(), path.segments.clone()));
            }
        }
        Self { name: name.to_owned(), modules, reexports }
    }

    /// Returns the index of the imported file, or `None` for other crates, the root, and `pub use` of submodules.
    fn file(&self, path: &FoundPath) -> Option<usize> {
        let module = self.resolve(&path.module, &path.segments, MAX_REEXPORTS)?;
        let is_submodule = module.starts_with(&path.module);
        if module.is_empty() || path.module.is_empty() || (path.reexported_as.is_some() && is_submodule) {
            return None;
        }
        self.modules.get(&module).copied()
    }

    /// Returns the module that declares the item at `segments`, a path in `module`.
    fn resolve(&self, module: &[String], segments: &[String], reexports: usize) -> Option<ModulePath> {
        let (first, rest) = segments.split_first()?;
        let mut base = module.to_vec();
        match first.as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                base.pop()?;
            }
            name if *name == self.name => base.clear(),
            _ if self.leads_somewhere(module, first) => return self.follow(base, segments, reexports),
            _ => return None,
        }
        let supers = rest.iter().take_while(|segment| *segment == "super").count();
        for _ in 0..supers {
            base.pop()?;
        }
        self.follow(base, rest.get(supers..)?, reexports)
    }

    /// Returns true if `name` is a submodule of `module`, or declared there by `pub use`.
    fn leads_somewhere(&self, module: &[String], name: &str) -> bool {
        self.modules.contains_key(&[module, &[name.to_owned()]].concat())
            || self.reexports.contains_key(&(module.to_vec(), name.to_owned()))
    }

    /// Follows a path down from `module`.
    fn follow(&self, mut module: ModulePath, segments: &[String], reexports: usize) -> Option<ModulePath> {
        for (index, segment) in segments.iter().enumerate() {
            let inner = [module.as_slice(), std::slice::from_ref(segment)].concat();
            if self.modules.contains_key(&inner) {
                module = inner;
            } else if let Some((origin, path)) = self.reexports.get(&(module.clone(), segment.clone())) {
                let path = [path.as_slice(), segments.get(index + 1..).unwrap_or_default()].concat();
                let followed = self.resolve(origin, &path, reexports.checked_sub(1)?);
                return followed.or(Some(module));
            } else {
                break;
            }
        }
        // An inline module belongs to the file around it.
        while !self.modules.contains_key(&module) {
            module.pop()?;
        }
        Some(module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the imports of a crate as `FROM:LINE TO`, with paths below `src`.
    fn imports(files: &[(&str, &str)]) -> Vec<String> {
        let file = |(path, text): &(&str, &str)| SourceFile {
            path: Path::new("my-crate/src").join(path),
            text: (*text).to_owned(),
        };
        let files: Vec<_> = files.iter().map(file).collect();
        let graph = ImportGraph::new("my-crate", &files).unwrap();
        let name = |index: usize| graph.files[index].path.strip_prefix("my-crate/src").unwrap().display();
        graph
            .imports
            .iter()
            .map(|import| format!("{}:{} {}", name(import.from), import.line, name(import.to)))
            .collect()
    }

    #[test]
    fn use_declarations_and_paths_are_imports() {
        let a = "use crate::{b::B, c};\nuse std::fmt;\nfn f() {\n    my_crate::d::g();\n}\n";
        let files = [("a.rs", a), ("b.rs", ""), ("c.rs", ""), ("d.rs", ""), ("lib.rs", "use a::A;\n")];
        assert_eq!(imports(&files), ["a.rs:1 b.rs", "a.rs:1 c.rs", "a.rs:4 d.rs"]);
    }

    #[test]
    fn super_and_submodules() {
        let files = [
            ("a.rs", "mod b;\nmod c;\nuse b::B;\npub use c::C;\n"),
            ("a/b.rs", "use super::c::C;\nuse super::super::d::D;\nuse super::A;\n"),
            ("a/c.rs", "mod inner {\n    use super::super::A;\n}\n"),
            ("d.rs", ""),
        ];
        let expected =
            ["a.rs:3 a/b.rs", "a/b.rs:3 a.rs", "a/b.rs:1 a/c.rs", "a/b.rs:2 d.rs", "a/c.rs:2 a.rs"];
        assert_eq!(imports(&files), expected);
    }

    #[test]
    fn reexports_lead_to_the_declaring_module() {
        let files = [
            ("a.rs", "use crate::{B, c::D};\n"),
            ("b.rs", ""),
            ("c.rs", "mod d;\npub use d::D;\n"),
            ("c/d.rs", ""),
            ("lib.rs", "pub use b::B;\npub use c::D as E;\n"),
            ("main.rs", "use my_crate::E;\n"),
        ];
        assert_eq!(imports(&files), ["a.rs:1 b.rs", "a.rs:1 c/d.rs"]);
    }

    #[test]
    fn tests_import_nothing() {
        let files = [("a.rs", "#[cfg(test)]\nmod tests {\n    use crate::b::B;\n}\n"), ("b.rs", "")];
        assert!(imports(&files).is_empty());
    }

    #[test]
    fn circles_of_two_and_more() {
        let edges = |pairs: &[(u8, u8)]| pairs.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(circles(&edges(&[(1, 2), (2, 3), (1, 3)])), Vec::<BTreeSet<u8>>::new());
        let found = circles(&edges(&[(1, 2), (2, 1), (2, 3), (3, 4), (4, 5), (5, 3)]));
        assert_eq!(found, [BTreeSet::from([1, 2]), BTreeSet::from([3, 4, 5])]);
    }
}
