//! Properties that coverage-guided fuzzing checks. With the cargo feature `fuzzing`, and in the tests of this crate.
//!
//! Each function takes any bytes and panics if a property does not hold. `vmm-cli/fuzz` has a target for each
//! (`cargo xtask fuzz`); a test calls each with the files of its corpus.
//!
//! | function | bytes | properties |
//! |---|---|---|
//! | [`config`] | TOML file, after a NUL `--set` options, one a line | each mistake can be shown; a file that is accepted and printed again is the same configuration |
//! | [`note`] | configuration inside an ELF file | no file outside of the directory of the ELF file, nothing that is written, no memory beyond that of the host |
//! | [`snapshot`] | snapshot without its first 16 bytes, which are made to fit | it is refused, or its parts can be used and saved again; a snapshot with another checksum is refused |
//! | [`gdb`] | bytes of gdb to a session | answers are packets with their checksums; the debugger has the breakpoints that gdb set, and none after the session |
//! | [`junit`] | JUnit reports to merge, or cases to report | a merged report has all cases, and is the same when it is read again |
//! | [`trace_filter`] | terms of a filter, one a line | what matches does not depend on their order; more terms of one key match more, one of another key less |
//! | [`message`] | bytes of a worker process | messages do not depend on how the bytes are cut, and are the same when they are sent again |
//! | [`source_lines`] | ELF file with DWARF tables | names and numbers can be printed |
//!
//! For all of them: no panic, no endless loop, and memory in proportion to the input.

#[cfg(test)]
mod corpus;
mod source_lines;

pub use crate::config::fuzzing::{config, note};
pub use crate::gdb::fuzzing::gdb;
pub use crate::snapshot_file::fuzzing::snapshot;
pub use crate::suite::fuzzing::{junit, message};
pub use crate::trace::fuzzing::trace_filter;
pub use source_lines::source_lines;

#[cfg(test)]
mod tests {
    #[test]
    fn properties_hold_for_each_corpus() {
        super::corpus::check(&[
            ("config", super::config),
            ("note", super::note),
            ("snapshot", super::snapshot),
            ("gdb", super::gdb),
            ("junit", super::junit),
            ("trace_filter", super::trace_filter),
            ("message", super::message),
            ("source_lines", super::source_lines),
        ]);
    }
}
