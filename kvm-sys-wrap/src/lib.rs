//! The Linux KVM API as safe Rust, one file for each step of the flow.

mod address;

pub use address::{Gpa, Gva, Port};
pub use kvm_bindings as bindings;
