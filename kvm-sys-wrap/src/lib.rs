//! The Linux KVM API as safe Rust, one file for each step of the flow.
//!
//! | step | call | file |
//! |---|---|---|
//! | 1 | open `/dev/kvm`, `KVM_GET_API_VERSION`, `KVM_CHECK_EXTENSION` | `dev_kvm.rs`, `capability.rs` |
//! | 2 | `KVM_CREATE_VM` | `create_vm.rs` |
//! | 3 | `KVM_SET_TSS_ADDR` | `tss.rs` |
//! | 4 | `mmap`, `madvise`, `KVM_SET_USER_MEMORY_REGION` | `memory.rs`, `memory/`, `host_memory/` |
//! | 5 | `KVM_CREATE_VCPU` | `create_vcpu.rs` |
//! | 6 | `KVM_GET_VCPU_MMAP_SIZE`, `mmap` of `kvm_run` | `create_vcpu.rs`, `kvm_run.rs` |
//! | 7 | `KVM_GET_SREGS`, `KVM_SET_SREGS` | `sregs.rs` |
//! | 8 | `KVM_GET_REGS`, `KVM_SET_REGS` | `regs.rs` |
//! | 9 | `KVM_RUN`, and the reason why it returned | `run.rs`, `exit.rs`, `kick.rs` |
//! | | `KVM_CREATE_IRQCHIP`, `KVM_CREATE_PIT2`, `KVM_IRQFD`, `KVM_IRQ_LINE`, `KVM_GET_MP_STATE` | `irqchip.rs` |
//! | | `KVM_GET_SUPPORTED_CPUID`, `KVM_SET_CPUID2` | `cpuid.rs` |
//! | | `KVM_GET_MSRS`, `KVM_SET_MSRS`, `KVM_ENABLE_CAP` of `KVM_CAP_X86_USER_SPACE_MSR` | `msr.rs` |
//! | | `KVM_TRANSLATE` | `translate.rs` |
//! | | `KVM_SET_GUEST_DEBUG` | `debug.rs` |
//! | | `KVM_SET_VCPU_EVENTS`, `KVM_SET_MP_STATE`: emulation of single instructions | `emulate.rs` |
//! | | `KVM_GET_STATS_FD` | `stats.rs` |
//! | | `KVM_CAP_SYNC_REGS`: registers in `kvm_run` | `sync_regs.rs` |
//! | | `KVM_REGISTER_COALESCED_MMIO` for ports | `coalesced_pio.rs` |
//! | | VMs and vCPUs that are used again instead of `KVM_CREATE_VM` | `vm_pool.rs`, `pooled_vcpu.rs` |
//! | | `mprotect`, which makes KVM drop its mapping of a page | `mmu_invalidate.rs` |
//! | | `fork`: child processes that run guests | `fork.rs` |
//! | | `KVM_GET_XSAVE` and all other state of a vCPU | `vcpu_state.rs` |
//! | | `KVM_GET_IRQCHIP`, `KVM_GET_PIT2`, `KVM_GET_LAPIC`, `KVM_GET_CLOCK` and the matching `SET` calls | `interrupt_state.rs` |
//!
//! All calls pass through one dispatcher (`observe.rs`), where a [`CallObserver`] sees them. There is no policy here: no CPU
//! modes, no devices, no defaults.
//!
//! # Global state of the process
//!
//! Nothing is installed when the crate is linked or `/dev/kvm` is opened. These calls change the process:
//!
//! | state | installed by | effect |
//! |---|---|---|
//! | SIGRTMIN handler | [`Vcpu::kicker`], [`KickTimer::new`], [`KickTimer::with_interval`] | replaces a handler of the program for that signal |
//! | SIGINT, SIGTERM, SIGHUP, SIGQUIT handlers, and a flag | [`install_termination_handlers`] | such a signal ends a run instead of the process |
//! | blocked signals of a thread | [`block_vcpu_signals`] | the four signals above go to other threads |
//! | signals, descriptors and parent-death signal of a child | [`ChildProcess::fork`] | only in the child |
//! | SIGBUS handler, and a table of mappings | [`MappedFile::new`], [`Vm::map_file`] | for all other addresses the action before it is restored when a signal comes |
//! | open `/proc/self/pagemap` | [`Vm::reset_cow_pages`], [`open_pagemap`] | one descriptor, with close-on-exec |
//!
//! The handlers use thread-local variables for the vCPU that a thread is running. They are never uninstalled.
//!
//! # Versions
//!
//! Types of other crates in public signatures: [`bindings`] (kvm-bindings) and [`vm_memory`]. Enums are `#[non_exhaustive]`
//! where a variant may come, except those with an `Other` variant, such as [`Exit`]: see there.
//!
//! # Example
//!
//! ```no_run
//! use kvm_sys_wrap::vm_memory::{Bytes, GuestAddress};
//! use kvm_sys_wrap::{Exit, Gpa, Kvm, Port, Slot, TssAddress};
//!
//! #[rustfmt::skip]
//! const CODE: &[u8] = &[
//!     0xbe, 0x0c, 0x10,       // mov si, message
//!     0xba, 0xe9, 0x00,       // mov dx, 0xe9
//!     0xb9, 0x0c, 0x00,       // mov cx, 12
//!     0xf3, 0x6e,             // rep outsb
//!     0xf4,                   // hlt
//!     b'H', b'e', b'l', b'l', b'o', b' ', b'w', b'o', b'r', b'l', b'd', b'\n',
//! ];
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vm = Kvm::open()?.create_vm()?;
//! vm.set_tss_addr(TssAddress::new(Gpa(0xfffb_d000))?)?;
//! vm.add_slot(Slot::new(0, Gpa(0x1000), 0x1000))?;
//! vm.memory().write_slice(CODE, GuestAddress(0x1000))?;
//!
//! let mut vcpu = vm.create_vcpu(0)?; // in real mode
//! let mut sregs = vcpu.sregs()?;
//! (sregs.cs.base, sregs.cs.selector) = (0, 0);
//! vcpu.set_sregs(&sregs)?;
//! let mut regs = vcpu.regs()?;
//! (regs.rip, regs.rflags) = (0x1000, 2);
//! vcpu.set_regs(&regs)?;
//!
//! loop {
//!     match vcpu.run()? {
//!         Exit::PioOut { port: Port(0xe9), data, .. } => print!("{}", String::from_utf8_lossy(&data)),
//!         Exit::Hlt => break,
//!         Exit::Interrupted | Exit::Retry => {}
//!         exit => return Err(format!("the guest did something else: {exit:?}").into()),
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod address;
mod address_map;
mod call;
mod capability;
mod coalesced_pio;
mod cpuid;
mod create_vcpu;
mod create_vm;
mod debug;
mod dev_kvm;
mod emulate;
mod error;
mod exit;
mod external_interrupt;
mod fork;
mod host_memory;
mod interrupt_state;
mod io_bytes;
mod ioctl_request;
mod irqchip;
mod kick;
mod kvm_run;
mod memory;
mod mmu_invalidate;
mod msr;
mod observe;
mod ofd_lock;
mod pooled_vcpu;
#[cfg(debug_assertions)]
pub mod ptrace;
mod regs;
mod run;
#[cfg(debug_assertions)]
mod sandbox_probe;
mod saved_state;
mod sregs;
mod stats;
mod sync_regs;
mod system_call_filter;
mod translate;
mod tss;
mod vcpu_state;
mod vm_pool;

pub use address::{Gpa, Gva, PAGE_SIZE, Port};
pub use address_map::{Overlap, RangeOwner};
pub use call::{Call, FdKind};
pub use capability::{Capability, Requirement};
pub use create_vcpu::Vcpu;
pub use create_vm::Vm;
pub use debug::{Breakpoint, BreakpointCondition, GuestDebug};
pub use dev_kvm::Kvm;
pub use error::{Error, FileChange, Result, SlotNumberProblem, SlotShapeProblem, TssAddressProblem};
pub use exit::{Exit, emulation_failure};
pub use fork::{ChildProcess, SharedCounters};
pub use host_memory::{
    FileRange, GuestMemory, MappedFile, MemoryAdvice, MemoryFile, Slot, SlotBacking, SlotFlags,
};
pub use io_bytes::IoBytes;
pub use irqchip::{Irqfd, MpState};
pub use kick::{
    Kick, KickTimer, block_vcpu_signals, install_termination_handlers, request_termination,
    termination_requested,
};
pub use kvm_bindings as bindings;
pub use memory::{minor_faults, open_pagemap};
pub use mmu_invalidate::invalidate_page;
pub use observe::{CallArgs, CallObserver, CallRecord, CallResult};
pub use ofd_lock::{is_byte_locked, lock_byte_shared};
#[cfg(debug_assertions)]
pub use sandbox_probe::{arm_sandbox_probe, sandbox_probes};
pub use saved_state::{IrqchipState, LapicState, VcpuState};
pub use stats::{Stat, StatKind, StatUnit, Stats};
pub use system_call_filter::{has_system_call_filters, install_system_call_handler, landlock_version};
pub use tss::{TSS_SIZE, TssAddress};
pub use vm_memory;
pub use vm_pool::VmReservation;
