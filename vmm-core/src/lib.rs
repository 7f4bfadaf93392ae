//! A virtual machine on KVM: layout, CPU modes, page tables, devices and the run loop.
//!
//! A whole machine from a few bytes, which prints a letter and halts:
//!
//! ```no_run
//! use vmm_core::devices::console::Console;
//! use vmm_core::machine::end::End;
//! use vmm_core::machine::image::FlatImage;
//! use vmm_core::machine::Machine;
//! use vmm_core::spec::mode::Mode;
//! use vmm_core::spec::{EntryPoint, MachineSpec};
//! use vmm_core::{Gpa, Gva, Kvm};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let code = [
//!     0xb0, b'A', // mov $'A', %al
//!     0xe6, 0xe9, // out %al, $0xe9: the debug console
//!     0xf4, // hlt
//! ];
//! let guest = FlatImage { address: Gpa(0x8000), bytes: &code };
//! let spec = MachineSpec::new(Mode::Long, 2 << 20, EntryPoint::Address(Gva(0x8000)));
//! let mut machine = Machine::build(&Kvm::open()?, spec, &guest, Console::with_output(std::io::stdout()))?;
//! let outcome = machine.run()?;
//! assert!(matches!(outcome.end, End::Halt { .. }));
//! # Ok(())
//! # }
//! ```
//!
//! The folders, in reading order. A folder never uses one that comes after it:
//!
//! | folder | contents |
//! |---|---|
//! | [`spec`] | a machine as plain data: CPU mode, memory, devices, limits |
//! | [`cpu`] | control registers, CPUID, descriptors, GDT, IDT, TSS, MSR names |
//! | [`encoding`] | saved state as bytes |
//! | [`devices`] | devices, the bus that they answer on, the console, interrupt lines |
//! | [`sandbox`] | confinement of the process that runs a guest |
//! | [`firmware`] | what a BIOS leaves in memory: ACPI and MP tables, BIOS data area, memory map |
//! | [`paging`] | page tables: schemes, builder, walker |
//! | [`layout`] | the memory layout of a machine, and all checks that need no KVM |
//! | [`initial_state`] | registers and tables that a vCPU starts with, as a pure function |
//! | [`machine`] | the machine on KVM: build, run, step, stop |
//! | [`snapshot`] | a machine saved, restored, reset and copied |
//! | [`disassembly`] | instructions as text |
//! | [`record`] | recorded runs and their replay |
//! | [`autopsy`] | post-mortem analysis of a guest |
//! | [`debugger`] | breakpoints, watchpoints and steps, forward and back |
//! | [`explain`] | what a machine will do, as data for a front-end |
#![forbid(unsafe_code)]

#[cfg(feature = "autopsy")]
pub mod autopsy;
pub mod cpu;
#[cfg(feature = "debugger")]
pub mod debugger;
pub mod devices;
#[cfg(feature = "disassembly")]
pub mod disassembly;
pub mod encoding;
pub mod explain;
pub mod firmware;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod initial_state;
pub mod layout;
pub mod machine;
pub mod paging;
pub mod record;
pub mod sandbox;
pub mod snapshot;
pub mod spec;

pub use kvm_sys_wrap;
pub use kvm_sys_wrap::{Gpa, Gva, Kvm, PAGE_SIZE, Port};
