//! Page-fault check of one memory access.
//!
//! Checks the result of a page walk ([`crate::paging::walk`]) against the rights of the access: ring, CR0.WP, SMEP, SMAP and
//! execute-disable (SDM vol. 3, 4.6), and composes the error code (4.7).

use crate::PAGE_SIZE;
use crate::cpu::control_regs::{Cr0, Cr4, Rflags};
use crate::cpu::cpu_state::OperandWidth;
use crate::paging::Scheme;
use crate::paging::walk::{Walk, WalkEnd};
use crate::{Gpa, Gva};

use super::exception::Exception;
use crate::machine::guest_state::GuestState;

/// Kind of a memory access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AccessKind {
    Read,
    Write,
    Fetch,
}

/// Access to a range of linear addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageAccess {
    pub(super) linear: u64,
    pub(super) size: u64,
    pub(super) kind: AccessKind,
    /// True for a user-mode access (CPL 3).
    pub(super) user: bool,
    /// True for an implicit supervisor access, such as the read of a gate. SMAP then ignores RFLAGS.AC.
    pub(super) implicit: bool,
}

/// Bits of the error code of a page fault (SDM vol. 3, figure 4-12).
pub(super) mod error_code {
    pub(in super::super) const PRESENT: u32 = 1 << 0;
    pub(in super::super) const WRITE: u32 = 1 << 1;
    pub(in super::super) const USER: u32 = 1 << 2;
    pub(in super::super) const RESERVED: u32 = 1 << 3;
    pub(in super::super) const FETCH: u32 = 1 << 4;
}

impl GuestState<'_> {
    /// Guest-physical address and size of each page of an access, or the exception that it raises.
    ///
    /// An address that is not canonical raises #GP. The caller checks for those that raise #SS.
    pub(super) fn physical_ranges(&self, access: &PageAccess) -> Result<Vec<(Gpa, u64)>, Exception> {
        let (mut pieces, mut done) = (Vec::with_capacity(1), 0);
        while done < access.size.max(1) {
            let linear = self.wrap_linear(access.linear.wrapping_add(done));
            let size = (PAGE_SIZE - linear % PAGE_SIZE).min(access.size.max(1) - done);
            pieces.push((self.translate(linear, access)?, size));
            done += size;
        }
        Ok(pieces)
    }

    /// Truncates a linear address to 32 bits outside of long mode.
    fn wrap_linear(&self, linear: u64) -> u64 {
        match self.registers.width() {
            OperandWidth::Bits64 => linear,
            OperandWidth::Bits16 | OperandWidth::Bits32 if self.registers.is_long() => linear,
            OperandWidth::Bits16 | OperandWidth::Bits32 => linear & 0xffff_ffff,
        }
    }

    fn translate(&self, linear: u64, access: &PageAccess) -> Result<Gpa, Exception> {
        let walk = self.walker().walk(self.memory, Gva(linear));
        match walk.end {
            WalkEnd::Mapped(to) => match self.denied_reason(access, to.access, to.size.is_some()) {
                None => Ok(to.gpa),
                Some(why) => Err(self.page_fault(linear, access, walk, error_code::PRESENT, why)),
            },
            WalkEnd::NotPresent => {
                let level = walk.steps.last().map_or("page table", |step| step.level.name);
                let why = match level {
                    "PT" => format!("the page of {linear:#x} is not present"),
                    _ => format!("the page of {linear:#x} is not present: its {level} entry is empty"),
                };
                Err(self.page_fault(linear, access, walk, 0, why))
            }
            WalkEnd::Reserved(bits) => {
                let why = format!("a page table entry for {linear:#x} has a reserved bit set ({bits:#x})");
                Err(self.page_fault(linear, access, walk, error_code::PRESENT | error_code::RESERVED, why))
            }
            WalkEnd::NoMemory(at) => {
                let cr3 = self.registers.sregs.cr3;
                let why = format!(
                    "the page tables for {linear:#x} lead to {at}, where no memory is (CR3 is {cr3:#x})"
                );
                Err(self.page_fault(linear, access, walk, 0, why))
            }
            WalkEnd::Unaddressable => {
                Err(Exception::gp(0, format!("the address {linear:#x} is not canonical")))
            }
        }
    }

    /// Reason why a mapped page denies the access, if it does.
    fn denied_reason(
        &self,
        access: &PageAccess,
        page: crate::spec::PagePermissions,
        paging: bool,
    ) -> Option<String> {
        if !paging {
            return None;
        }
        let at = access.linear;
        let (cr0, cr4) = (self.registers.cr0(), self.registers.cr4());
        let checked = self.registers.rflags().contains(Rflags::AC) && !access.implicit;
        if access.user && !page.user {
            return Some(format!(
                "the page of {at:#x} is a kernel page (U/S clear), out of reach for ring 3"
            ));
        }
        match access.kind {
            AccessKind::Write if !page.writable && (access.user || cr0.contains(Cr0::WP)) => {
                Some(format!("the page of {at:#x} is read-only"))
            }
            AccessKind::Fetch if !page.executable => {
                Some(format!("the page of {at:#x} is no-execute (XD set)"))
            }
            AccessKind::Fetch if !access.user && page.user && cr4.contains(Cr4::SMEP) => {
                Some(format!("the page of {at:#x} belongs to ring 3, and ring 0 may not execute it (SMEP)"))
            }
            AccessKind::Read | AccessKind::Write
                if !access.user && page.user && cr4.contains(Cr4::SMAP) && !checked =>
            {
                Some(format!("the page of {at:#x} belongs to ring 3, and ring 0 may not touch it (SMAP)"))
            }
            AccessKind::Read | AccessKind::Write | AccessKind::Fetch => None,
        }
    }

    fn page_fault(
        &self,
        linear: u64,
        access: &PageAccess,
        walk: Walk,
        reason: u32,
        why: String,
    ) -> Exception {
        let registers = self.registers;
        // The CPU sets the fetch bit only with SMEP or execute-disable enabled (SDM vol. 3, 4.7).
        let walker = self.walker();
        let reports_fetch = registers.cr4().contains(Cr4::SMEP)
            || (walker.execute_disable && walker.scheme.is_some_and(|scheme| scheme != Scheme::TwoLevel));
        let error_code = reason
            | if access.kind == AccessKind::Write { error_code::WRITE } else { 0 }
            | if access.user { error_code::USER } else { 0 }
            | if access.kind == AccessKind::Fetch && reports_fetch { error_code::FETCH } else { 0 };
        Exception { address: Some(linear), walk: Some(walk), ..Exception::new(14, Some(error_code), why) }
    }
}
