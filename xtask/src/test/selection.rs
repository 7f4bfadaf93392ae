//! Options of `cargo xtask test`: which tests run on which hosts.

use std::path::Path;

use super::config::ConfigTest;
use super::outcome::TestHost;
use crate::workspace::Workspace;

/// Options of `cargo xtask test`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct TestOptions {
    /// Run only tests whose name contains one of these texts [default: all tests]
    ///
    /// Names are as in the report: vmm-core/on_kvm::NAME for a Rust test, crash/NAME for a configuration. The path of a
    /// configuration selects that configuration. Documentation examples are selected by file, such as vmm-core/src/lib.rs.
    #[arg(value_name = "FILTER")]
    pub(super) filters: Vec<String>,
    /// Hosts to run on
    #[arg(long, value_enum, default_value_t)]
    pub(super) host: HostChoice,
    /// Only boot Debian's Linux kernel on the nested host: to a shell, a disk and the power-off
    #[arg(long, conflicts_with_all = ["filters", "host"])]
    pub(crate) linux: bool,
}

/// Value of `--host`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum HostChoice {
    /// Local machine: all tests, with and without KVM
    Here,
    /// Nested host: tests that need KVM, and configurations
    Nested,
    /// Both hosts
    #[default]
    All,
}

impl HostChoice {
    /// Returns true if tests run on this host.
    pub(super) fn includes(self, host: TestHost) -> bool {
        match self {
            Self::Here => host == TestHost::Here,
            Self::Nested => host == TestHost::Nested,
            Self::All => true,
        }
    }

    /// Returns the hosts in the order in which tests run.
    pub(super) fn hosts(self) -> impl Iterator<Item = TestHost> {
        [TestHost::Here, TestHost::Nested].into_iter().filter(move |host| self.includes(*host))
    }
}

/// Filters of the command line, with a record of those that have selected a test.
pub(super) struct Selection<'a> {
    filters: Vec<(&'a str, bool)>,
}

impl<'a> Selection<'a> {
    /// Creates a selection. Without filters it selects all tests.
    pub(super) fn new(filters: &'a [String]) -> Self {
        Self { filters: filters.iter().map(|filter| (filter.as_str(), false)).collect() }
    }

    /// Returns true if a test with this name is selected.
    pub(super) fn selects(&mut self, name: &str) -> bool {
        self.select(|filter| name.contains(filter))
    }

    /// Returns true if a configuration is selected, by its name or by its path.
    pub(super) fn selects_config(&mut self, workspace: &Workspace, test: &ConfigTest) -> bool {
        let path = workspace.relative(&test.config);
        self.select(|filter| {
            test.name.contains(filter) || [path, test.config.as_path()].contains(&plain(Path::new(filter)))
        })
    }

    /// Returns false if all filters are paths of configurations, so that no Rust test has to be built.
    pub(super) fn may_select_rust_tests(&self) -> bool {
        let is_config = |(filter, _): &(&str, bool)| filter.ends_with(".toml");
        self.filters.is_empty() || !self.filters.iter().all(is_config)
    }

    /// Returns true if documentation examples may be selected. Their names contain a file name and are not listed before
    /// they run, because listing compiles them.
    pub(super) fn may_select_doc_tests(&self) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|(filter, _)| filter.contains(".rs"))
    }

    /// Returns the first filter that has selected no test.
    pub(super) fn unused_filter(&self) -> Option<&'a str> {
        self.filters.iter().find(|(_, used)| !used).map(|(filter, _)| *filter)
    }

    fn select(&mut self, matches: impl Fn(&str) -> bool) -> bool {
        let mut selected = self.filters.is_empty();
        for (filter, used) in &mut self.filters {
            if matches(filter) {
                *used = true;
                selected = true;
            }
        }
        selected
    }
}

/// Returns a path without a leading `./`.
fn plain(path: &Path) -> &Path {
    path.strip_prefix(".").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(filters: &[&str]) -> Vec<String> {
        filters.iter().map(|filter| (*filter).to_owned()).collect()
    }

    #[test]
    fn no_filter_selects_everything() {
        let mut selection = Selection::new(&[]);
        assert!(selection.selects("vmm-core/on_kvm::a") && selection.unused_filter().is_none());
        assert!(selection.may_select_rust_tests() && selection.may_select_doc_tests());
    }

    #[test]
    fn a_filter_is_a_part_of_the_name_and_has_to_select_a_test() {
        let filters = filters(&["on_kvm::a", "crash/"]);
        let mut selection = Selection::new(&filters);
        assert!(selection.selects("vmm-core/on_kvm::ab") && !selection.selects("vmm-core/on_kvm::b"));
        assert_eq!(selection.unused_filter(), Some("crash/"));
        assert!(selection.selects("crash/far-jump"));
        assert_eq!(selection.unused_filter(), None);
    }

    #[test]
    fn the_path_of_a_configuration_selects_only_that() {
        let workspace = Workspace::here();
        let test = |path: &str| ConfigTest::from_elf_note(workspace.path(path));
        for filter in
            ["configs/a.toml", "./configs/a.toml", &workspace.path("configs/a.toml").to_string_lossy()]
        {
            let filters = filters(&[filter]);
            let mut selection = Selection::new(&filters);
            assert!(selection.selects_config(&workspace, &test("configs/a.toml")), "{filter}");
            assert!(!selection.selects_config(&workspace, &test("configs/crash/a.toml")), "{filter}");
            assert!(!selection.may_select_rust_tests() && !selection.may_select_doc_tests());
        }
    }
}
