//! Selectors: lookup in the GDT or LDT, and the checks of a segment register load.
//!
//! Source: SDM vol. 3, 3.4 and 5.5 to 5.8; the checks of each load in vol. 2, MOV, JMP and IRET.

use crate::cpu::descriptor::SegmentDescriptor;

use super::exception::Exception;
use crate::machine::guest_state::GuestState;

/// Vector of #NP.
const NOT_PRESENT_VECTOR: u8 = 11;
/// Vector of #SS.
const STACK_FAULT_VECTOR: u8 = 12;
/// Vector of #GP.
const GENERAL_PROTECTION_VECTOR: u8 = 13;

/// TI bit of a selector: the index is that of an LDT entry.
const SELECTOR_TI: u16 = 4;

/// Error code of a selector: the selector without its RPL.
pub(super) const fn selector_error_code(selector: u16) -> u32 {
    selector as u32 & 0xfffc
}

pub(super) const fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

/// Returns the text for a selector with its table and index.
pub(super) fn describe_selector(selector: u16) -> String {
    let table = if selector & SELECTOR_TI != 0 { "LDT" } else { "GDT" };
    format!("selector {selector:#x} ({table} entry {})", selector >> 3)
}

impl GuestState<'_> {
    /// Reads the descriptor of a selector. `external` is the EXT bit of error codes.
    pub(super) fn descriptor(&self, selector: u16, external: u32) -> Result<SegmentDescriptor, Exception> {
        let sregs = &self.registers.sregs;
        let (base, limit, table) = if selector & SELECTOR_TI == 0 {
            (sregs.gdt.base, u32::from(sregs.gdt.limit), "GDT")
        } else if sregs.ldt.present == 0 || sregs.ldt.unusable != 0 {
            let why = format!("{} is looked up, and there is no LDT", describe_selector(selector));
            return Err(Exception::gp(selector_error_code(selector) | external, why));
        } else {
            (sregs.ldt.base, sregs.ldt.limit, "LDT")
        };
        let offset = u32::from(selector & 0xfff8);
        if offset + 7 > limit {
            let why = format!("{} lies beyond the {table} limit ({limit:#x})", describe_selector(selector));
            return Err(Exception::gp(selector_error_code(selector) | external, why));
        }
        let at = base.wrapping_add(u64::from(offset));
        let entry = self.read_word(at, 8).map_err(|fault| Exception {
            reason: format!("the {table} cannot be read: {}", fault.reason),
            ..fault
        })?;
        let mut descriptor = SegmentDescriptor::from_entry(entry, 0);
        if !descriptor.code_or_data && self.registers.is_long() && offset + 15 <= limit {
            descriptor = SegmentDescriptor::from_entry(entry, self.read_word(at.wrapping_add(8), 8)?);
        }
        Ok(descriptor)
    }

    /// Checks that a selector names a present code segment. `what` begins the reason of the exception.
    pub(super) fn check_code(
        &self,
        selector: u16,
        external: u32,
        what: &str,
    ) -> Result<SegmentDescriptor, Exception> {
        if is_null(selector) {
            return Err(Exception::gp(
                external,
                format!("{what} has the null selector for its code segment"),
            ));
        }
        let found = self.descriptor(selector, external)?;
        let code = selector_error_code(selector) | external;
        let refuse = |why: &str| {
            Err(Exception::gp(code, format!("{what} leads to {}, {why}", describe_selector(selector))))
        };
        if !found.code_or_data || found.kind & 8 == 0 {
            let empty = found.kind == 0 && found.base == 0 && found.limit == 0;
            let is = if empty {
                "which is an empty descriptor".to_owned()
            } else {
                format!("which is {}", describe_descriptor(&found))
            };
            return refuse(&format!("{is}, not a code segment"));
        }
        if found.long && found.big {
            return refuse("which has both L and D set");
        }
        if !found.present {
            let why = format!("{what} leads to {}, which is not present", describe_selector(selector));
            return Err(Exception::new(NOT_PRESENT_VECTOR, Some(code), why));
        }
        Ok(found)
    }

    /// Checks a load of DS, ES, FS or GS.
    pub(super) fn check_data(&self, selector: u16, register: &str) -> Result<(), Exception> {
        if is_null(selector) {
            return Ok(());
        }
        let found = self.descriptor(selector, 0)?;
        let code = selector_error_code(selector);
        let refuse = |why: &str| {
            Err(Exception::gp(
                code,
                format!("{register} is loaded with {}, {why}", describe_selector(selector)),
            ))
        };
        // Data, or code that can be read.
        if !found.code_or_data || found.kind & 0b1010 == 0b1000 {
            return refuse(&format!(
                "which is {}, not a segment that can be read",
                describe_descriptor(&found)
            ));
        }
        let conforming = found.kind & 0b1100 == 0b1100;
        let rpl = (selector & 3) as u8;
        if !conforming && (found.dpl < rpl || found.dpl < self.registers.cpl()) {
            return refuse(&format!("which is for ring {} and below", found.dpl));
        }
        if !found.present {
            let why =
                format!("{register} is loaded with {}, which is not present", describe_selector(selector));
            return Err(Exception::new(NOT_PRESENT_VECTOR, Some(code), why));
        }
        Ok(())
    }

    /// Checks a load of SS at privilege level `cpl`. `vector` is that of the exception: #GP, or #TS for a stack from the TSS.
    pub(super) fn check_stack(
        &self,
        selector: u16,
        cpl: u8,
        vector: u8,
        external: u32,
    ) -> Result<SegmentDescriptor, Exception> {
        let code = selector_error_code(selector) | external;
        let fail = |why: &str| {
            let from = if vector == GENERAL_PROTECTION_VECTOR {
                "ss is loaded with"
            } else {
                "the TSS says that ss is"
            };
            Err(Exception::new(vector, Some(code), format!("{from} {}, {why}", describe_selector(selector))))
        };
        if is_null(selector) {
            // 64-bit code outside of ring 3 may run with a null SS.
            if self.registers.is_long() && cpl < 3 && (selector & 3) as u8 == cpl {
                return Ok(SegmentDescriptor::NULL);
            }
            return fail("the null selector");
        }
        let found = self.descriptor(selector, external)?;
        if !found.code_or_data || found.kind & 0b1010 != 0b0010 {
            return fail(&format!("which is {}, not writable data", describe_descriptor(&found)));
        }
        if (selector & 3) as u8 != cpl || found.dpl != cpl {
            return fail(&format!("which is for ring {}, in ring {cpl}", found.dpl));
        }
        if !found.present {
            let why = format!("ss is loaded with {}, which is not present", describe_selector(selector));
            return Err(Exception::new(STACK_FAULT_VECTOR, Some(code), why));
        }
        Ok(found)
    }
}

/// Returns the text for a descriptor, with its type even if it is not present.
fn describe_descriptor(descriptor: &SegmentDescriptor) -> String {
    if descriptor.entry() == 0 {
        return "an empty descriptor".to_owned();
    }
    let words = SegmentDescriptor { present: true, ..*descriptor }.to_string();
    let kind = words.split(", ring").next().unwrap_or_default();
    if descriptor.present { kind.to_owned() } else { format!("{kind}, not present") }
}
