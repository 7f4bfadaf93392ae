//! Tables that the VMM writes into guest memory before the first `KVM_RUN`.

use kvm_sys_wrap::Gpa;

/// Table to write into guest memory before the first `KVM_RUN`: its bytes and address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableImage {
    /// Guest-physical address of the first byte.
    pub gpa: Gpa,
    /// Name of the table, as in the layout: a [`LayoutPart`](crate::layout::LayoutPart), or a table of the firmware.
    pub name: &'static str,
    /// Bytes of the table, at least one.
    pub bytes: Vec<u8>,
}
