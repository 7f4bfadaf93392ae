//! A virtual machine on KVM: layout, CPU modes, page tables, devices and the run loop.
#![forbid(unsafe_code)]

pub mod mode;
pub mod spec;

pub use kvm_sys_wrap::{Gpa, Gva, Port};
