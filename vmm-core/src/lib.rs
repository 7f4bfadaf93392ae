//! A virtual machine on KVM: layout, CPU modes, page tables, devices and the run loop.
//!
//! A whole machine from a few bytes, which prints a letter and halts:
//!
//! ```no_run
//! use vmm_core::console::Console;
//! use vmm_core::end::End;
//! use vmm_core::image::FlatImage;
//! use vmm_core::machine::Machine;
//! use vmm_core::mode::Mode;
//! use vmm_core::spec::{Entry, MachineSpec};
//! use vmm_core::{Gpa, Gva, Kvm};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let code = [
//!     0xb0, b'A', // mov $'A', %al
//!     0xe6, 0xe9, // out %al, $0xe9: the debug console
//!     0xf4, // hlt
//! ];
//! let guest = FlatImage { address: Gpa(0x8000), bytes: &code };
//! let spec = MachineSpec::new(Mode::Long, 2 << 20, Entry::Address(Gva(0x8000)));
//! let mut machine = Machine::build(&Kvm::open()?, spec, &guest, Console::to(std::io::stdout()))?;
//! let outcome = machine.run()?;
//! assert!(matches!(outcome.end, End::Halt { .. }));
//! # Ok(())
//! # }
//! ```
//!
//! The modules in reading order:
//!
//! - what a machine is: [`mode`], [`register`], [`spec`];
//! - what is computed before there is one, without KVM: [`span`], [`layout`], [`paging`], [`control`], [`cpuid`], [`descriptor`],
//!   [`gdt`], [`idt`], [`tss`], [`landing`], [`state`];
//! - the machine: [`machine`] with [`image`], `host` and [`verify`];
//! - what answers it: [`device`], [`bus`], [`devices`], [`console`];
//! - its run: [`run_loop`] with [`exit_counts`], [`observer`] and [`limits`]; how it ends: [`end`], [`error`];
//! - its instructions as text: [`disassembly`];
//! - up to a point of it: [`run_to`]; what its page tables hold then: [`findings`];
//! - under control, forward and back: [`debugger`];
//! - what can be said of it before it runs: [`flow`], [`reasons`];
//! - a run once more: [`record`], [`replay`], [`checkpoint`]; why it ended: [`autopsy`];
//! - what works here: [`probe`].
#![forbid(unsafe_code)]

pub mod autopsy;
mod board;
pub mod bus;
pub mod call_sequence;
pub mod checkpoint;
mod coalesced_pio;
pub mod console;
pub mod control_bits;
pub mod control_regs;
pub mod cpuid;
pub mod debugger;
pub mod descriptor;
pub mod device;
pub mod devices;
pub mod disassembly;
pub mod end;
pub mod error;
pub mod exit_counts;
pub mod firmware;
pub mod gdt;
pub mod gpa_range;
mod host;
pub mod idt;
pub mod image;
pub mod irq;
pub mod layout;
pub mod limits;
pub mod machine;
pub mod mode;
pub mod msr;
pub mod observer;
mod overlay_promotion;
pub mod page_lint;
pub mod paging;
pub mod probe;
mod processor;
pub mod reach;
pub mod record;
pub mod register;
pub mod replay;
pub mod reset_state;
pub mod ring3_trap;
pub mod run_loop;
pub mod run_to;
mod smp;
pub mod snapshot;
pub mod sparse;
pub mod spec;
pub mod sregs_diff;
pub mod state;
pub mod step;
mod suspend;
pub mod tss;
mod vcpu_view;

pub use kvm_sys_wrap::{Gpa, Gva, Kvm, Port};
