//! The `vmm-cli` program. All code is in the library ([`vmm_cli::main`]).
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// musl's own allocator maps and unmaps a few pages at a time: a hundred system calls before the guest's first instruction.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    vmm_cli::main()
}
