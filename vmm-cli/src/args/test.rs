//! The options of `test`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueHint};
use regex::Regex;

use super::Format;
use crate::suite::partition::Partition;
use crate::suite::shuffle::Seed;

const WHICH: &str = "Which cases";
const HOW: &str = "How they are run";
const REPORTS: &str = "Reports";

/// Options of `test`.
#[derive(Debug, Args)]
#[command(after_long_help = STATUSES)]
pub(crate) struct TestArgs {
    /// Configurations, and directories to search for them
    #[arg(default_value = ".", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,
    /// Only cases whose name matches; with several, any of them
    #[arg(long, help_heading = WHICH, value_name = "REGEX")]
    pub(crate) filter: Vec<Regex>,
    /// Only one of several parts, such as 2/8; hash:2/8 deals the cases out by their names
    #[arg(long, help_heading = WHICH, value_name = "[hash:]PART/PARTS")]
    pub(crate) partition: Option<Partition>,
    /// Show the names of the cases, and run none
    #[arg(long, help_heading = WHICH)]
    pub(crate) list: bool,
    /// Cases at a time; without it, one for each CPU
    #[arg(long, short, help_heading = HOW, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Try a case that fails this many times more; one that then passes is flaky
    #[arg(long, help_heading = HOW, value_name = "N", default_value_t)]
    pub(crate) retry: usize,
    /// Begin no more cases when one has failed
    #[arg(long, help_heading = HOW)]
    pub(crate) fail_fast: bool,
    /// In another order: a number, or `random`
    #[arg(long, help_heading = HOW, value_name = "SEED")]
    pub(crate) shuffle: Option<Seed>,
    /// What this host cannot do fails, and is not skipped
    #[arg(long, help_heading = HOW)]
    pub(crate) no_skip: bool,
    /// Write the results to this file as JUnit XML
    #[arg(long, help_heading = REPORTS, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) junit: Option<PathBuf>,
    /// Run nothing: make one JUnit report of these, which partitions have written
    #[arg(long, help_heading = REPORTS, value_name = "FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    #[arg(requires = "output", conflicts_with_all = ["paths", "filter", "partition", "list", "junit"])]
    pub(crate) merge: Vec<PathBuf>,
    /// The file that --merge writes
    #[arg(long, short, help_heading = REPORTS, value_name = "FILE", requires = "merge")]
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Let --junit and --output replace files
    #[arg(long, help_heading = REPORTS)]
    pub(crate) force: bool,
    /// How the results are shown on standard output
    #[arg(long, help_heading = REPORTS, value_enum, default_value_t)]
    pub(crate) format: Format,
}

const STATUSES: &str = "\
Exit status:
  0      every case passed, or was skipped
  103    a case failed
  105    a mistake on the command line, or no case was found
  106    trouble on the host: no /dev/kvm, a report that cannot be written
  130    interrupted";
