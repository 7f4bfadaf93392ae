//! The Linux KVM API as safe Rust, one file for each step of the flow.
//!
//! | step | call | file |
//! |---|---|---|
//! | 1 | open `/dev/kvm`, `KVM_GET_API_VERSION`, `KVM_CHECK_EXTENSION` | `dev_kvm.rs`, `capability.rs` |
//! | 2 | `KVM_CREATE_VM` | `create_vm.rs` |
//! | 3 | `KVM_SET_TSS_ADDR` | `tss.rs` |
//! | 4 | `mmap`, `madvise`, `KVM_SET_USER_MEMORY_REGION` | `memory.rs` |
//! | 5 | `KVM_CREATE_VCPU` | `create_vcpu.rs` |
//! | 6 | `KVM_GET_VCPU_MMAP_SIZE`, `mmap` of `kvm_run` | `create_vcpu.rs`, `kvm_run.rs` |
//! | 7 | `KVM_GET_SREGS`, `KVM_SET_SREGS` | `sregs.rs` |
//! | 8 | `KVM_GET_REGS`, `KVM_SET_REGS` | `regs.rs` |
//! | 9 | `KVM_RUN`, and why it returned | `run.rs`, `exit.rs`, `kick.rs` |
//! | | `KVM_CREATE_IRQCHIP`, `KVM_CREATE_PIT2`, `KVM_IRQFD` and what else makes interrupts | `irqchip.rs` |
//! | | `KVM_GET_SUPPORTED_CPUID`, `KVM_SET_CPUID2` | `cpuid.rs` |
//! | | `KVM_GET_MSRS`, `KVM_SET_MSRS`, `KVM_ENABLE_CAP` of `KVM_CAP_X86_USER_SPACE_MSR` | `msr.rs` |
//! | | `KVM_TRANSLATE` | `translate.rs` |
//! | | `KVM_SET_GUEST_DEBUG` | `debug.rs` |
//! | | `KVM_SET_VCPU_EVENTS`, `KVM_SET_MP_STATE`: an instruction by hand | `by_hand.rs` |
//! | | `KVM_GET_STATS_FD` | `stats.rs` |
//! | | `mprotect`, for tests of KVM | `forget.rs` |
//! | | `KVM_GET_XSAVE` and the rest of a vCPU's state | `vcpu_state.rs` |
//! | | `KVM_GET_IRQCHIP`, `KVM_GET_PIT2`, `KVM_GET_LAPIC`, `KVM_GET_CLOCK` and their opposites | `interrupt_state.rs` |
//!
//! This is the only crate of the workspace with `unsafe`. It has no policy: no CPU modes, no devices, no defaults. All
//! calls pass through one place (`observe.rs`), where they can be watched.
//!
//! ```no_run
//! use kvm_sys_wrap::{Exit, Gpa, Kvm, Slot, TssAddress};
//!
//! # fn main() -> Result<(), kvm_sys_wrap::Error> {
//! let vm = Kvm::open()?.create_vm()?;
//! vm.set_tss_addr(TssAddress::new(Gpa(0xfffb_d000))?)?;
//! let (flags, advice, backing) = Default::default();
//! vm.add_slot(Slot { number: 0, address: Gpa(0), size: 0x1000, flags, advice, backing })?;
//! let mut vcpu = vm.create_vcpu(0)?; // in real mode, at f000:fff0, where no memory is
//! assert!(matches!(vcpu.run()?, Exit::MmioRead { .. } | Exit::InternalError { .. }));
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
mod interrupt_state;
mod io_bytes;
mod irqchip;
mod kick;
mod kvm_run;
mod memory;
mod mmu_invalidate;
mod msr;
mod observe;
mod regs;
mod run;
mod sregs;
mod stats;
mod sync_regs;
mod translate;
mod tss;
mod vcpu_state;

pub use address::{Gpa, Gva, PAGE_SIZE, Port};
pub use address_map::{Overlap, RangeOwner};
pub use call::{Call, FdKind};
pub use capability::{Capability, Requirement};
pub use create_vcpu::Vcpu;
pub use create_vm::Vm;
pub use debug::{Breakpoint, BreakpointCondition, GuestDebug};
pub use dev_kvm::Kvm;
pub use error::{Error, Result};
pub use exit::{Exit, emulation_failure};
pub use interrupt_state::{IrqchipState, LapicState};
pub use io_bytes::IoBytes;
pub use irqchip::{Irqfd, MpState};
pub use kick::{
    Alarm, Kick, block_vcpu_signals, install_termination_handlers, request_termination, termination_requested,
};
pub use kvm_bindings as bindings;
pub use memory::{
    FileRange, GuestMemory, MappedFile, MemoryAdvice, MemoryFile, Slot, SlotBacking, SlotFlags, minor_faults,
};
pub use mmu_invalidate::invalidate_page;
pub use observe::{CallArgs, CallObserver, CallRecord, CallResult};
pub use stats::{Stat, StatKind, StatUnit, Stats};
pub use tss::{TSS_SIZE, TssAddress};
pub use vcpu_state::VcpuState;
