//! CPU facts as plain data and pure functions: registers, descriptors, descriptor tables and CPUID. Nothing here calls KVM.

pub mod control_regs;
pub mod cpu_state;
pub mod cpuid;
pub mod descriptor;
pub mod exit_counts;
pub mod gdt;
pub mod idt;
pub mod msr;
pub mod reset_state;
pub mod ring3_trap;
pub mod sregs_diff;
pub mod tss;
