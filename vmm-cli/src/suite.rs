//! `vmm-cli test`: runs many guests in parallel, each a case with an `[expect]`, and counts the results.
//!
//! | file | step |
//! |---|---|
//! | `discover.rs`, `case.rs` | finds files and the cases in them |
//! | `partition.rs`, `shuffle.rs` | selects and orders cases |
//! | `workers.rs`, `group.rs`, `case_progress.rs`, `worker_exit.rs` | the parent: starts worker processes, retries, Ctrl-C |
//! | `worker.rs`, `message.rs` | a worker process, and what it sends to the parent |
//! | `resources.rs` | KVM, and the order in which machines are closed |
//! | `boot_snapshot.rs`, `case_setup.rs` | shared part of the cases of a file, and the differences between them |
//! | `runner.rs` with `panic_capture.rs`, `input.rs`, `case_output.rs` | runs one case once: builds or resets a machine, runs and evaluates it |
//! | `outcome.rs` | result of a case |
//! | `reporter.rs` with `progress.rs`, `json.rs`, `junit.rs` | reports results |
//! | `merge.rs` | merges the reports of partitions |
//!
//! Machines are prepared and runs are evaluated as for `run` (`prepare.rs`, `verdict.rs`).

pub(crate) mod case;
pub(crate) mod discover;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod input;
pub(crate) mod json;
pub(crate) mod junit;
pub(crate) mod merge;
pub(crate) mod partition;
pub(crate) mod reporter;
pub(crate) mod shuffle;
pub(crate) mod workers;

mod boot_snapshot;
mod case_output;
mod case_progress;
mod case_setup;
mod group;
mod message;
mod outcome;
mod panic_capture;
mod progress;
mod resources;
mod runner;
mod worker;
mod worker_exit;
