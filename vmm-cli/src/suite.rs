//! `vmm-cli test`: many guests, each a case with an `[expect]`, run in parallel and counted.
//!
//! | file | step |
//! |---|---|
//! | `find.rs`, `case.rs` | the files under the paths, and the cases that they are |
//! | `partition.rs`, `shuffle.rs` | which of them, in which order |
//! | `workers.rs` | a thread for each job; retries; Ctrl-C |
//! | `boot.rs`, `enter.rs` | what cases of one file have in common, and what is different in each |
//! | `attempt.rs` with `guard.rs`, `input.rs` | one case, once: a machine built or reset, run, judged |
//! | `outcome.rs` | what a case came to |
//! | `show.rs` with `progress.rs`, `json.rs`, `junit.rs` | what is told of it |
//! | `merge.rs` | the reports of partitions put together |
//!
//! How a machine is made of a configuration, and what its run is worth, is the same as for `run` (`prepare.rs`,
//! `judgement.rs`).

pub(crate) mod case;
pub(crate) mod discover;
pub(crate) mod input;
pub(crate) mod json;
pub(crate) mod junit;
pub(crate) mod merge;
pub(crate) mod partition;
pub(crate) mod reporter;
pub(crate) mod shuffle;
pub(crate) mod workers;

mod boot_snapshot;
mod case_setup;
mod outcome;
mod panic_capture;
mod progress;
mod runner;
