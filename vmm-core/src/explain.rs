//! Descriptions of a machine as data for a front-end: the KVM calls of a run, control bits with reasons, page table lints.

pub mod call_sequence;
pub mod control_bits;
pub mod page_lint;
