//! Exception: vector, error code, address and the reason as text.

use std::fmt;

use crate::cpu::ring3_trap::exception_name;
use crate::paging::walk::Walk;

use super::page_fault::error_code;

/// Exception or software interrupt before its delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exception {
    /// Vector of the exception, 0 to 255.
    pub vector: u8,
    /// Error code, for vectors that push one.
    pub error_code: Option<u32>,
    /// Linear address that could not be accessed (CR2). Page faults only.
    pub address: Option<u64>,
    /// Reason for the exception as a clause, such as `the page of 0x400000 is not present`.
    pub reason: String,
    /// Page walk that failed and raised the exception. Page faults only.
    pub walk: Option<Walk>,
    /// True for INT n, INT3 and INTO: the DPL of the gate is checked, and error codes have EXT clear.
    pub software: bool,
    /// True for a trap: the saved RIP is that of the next instruction.
    pub trap: bool,
}

/// EXT bit of a selector error code (SDM vol. 3, 6.13): raised while another event was delivered.
const ERROR_CODE_EXT: u32 = 1 << 0;
/// IDT bit of a selector error code: the index is that of a gate.
const ERROR_CODE_IDT: u32 = 1 << 1;
/// TI bit of a selector error code: the index is that of an LDT entry.
const ERROR_CODE_TI: u32 = 1 << 2;

/// Exception class for double faults (SDM vol. 3, tables 6-4 and 6-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExceptionClass {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

impl Exception {
    /// Creates a fault without an address.
    #[must_use]
    pub fn new(vector: u8, error_code: Option<u32>, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { vector, error_code, address: None, reason: why, walk: None, software: false, trap: false }
    }

    /// General-protection exception, #GP.
    pub(super) fn gp(error_code: u32, why: impl Into<String>) -> Self {
        Self::new(13, Some(error_code), why)
    }

    /// Invalid-opcode exception, #UD.
    pub(super) fn ud(why: impl Into<String>) -> Self {
        Self::new(6, None, why)
    }

    /// Returns mnemonic, name and vector of the exception, such as `#PF (page fault, vector 14)`.
    #[must_use]
    pub fn name(&self) -> String {
        match exception_name(self.vector) {
            _ if self.software => format!("interrupt {:#x}", self.vector),
            Some((mnemonic, name)) => format!("{mnemonic} ({name}, vector {})", self.vector),
            None => format!("interrupt {:#x}", self.vector),
        }
    }

    /// Returns the mnemonic of the exception, such as `#PF`.
    #[must_use]
    pub fn mnemonic(&self) -> String {
        match exception_name(self.vector) {
            _ if self.software => format!("interrupt {:#x}", self.vector),
            Some((mnemonic, _)) => mnemonic.to_owned(),
            None => format!("interrupt {:#x}", self.vector),
        }
    }

    pub(super) fn class(&self) -> ExceptionClass {
        match self.vector {
            _ if self.software => ExceptionClass::Benign,
            8 => ExceptionClass::DoubleFault,
            0 | 10..=13 | 21 | 29 | 30 => ExceptionClass::Contributory,
            14 => ExceptionClass::PageFault,
            _ => ExceptionClass::Benign,
        }
    }

    /// EXT bit of an error code raised while this exception is delivered.
    pub(super) const fn ext_bit(&self) -> u32 {
        if self.software { 0 } else { ERROR_CODE_EXT }
    }

    /// Error code of an exception caused by the gate of this exception.
    pub(super) fn gate_error_code(&self) -> u32 {
        u32::from(self.vector) << 3 | ERROR_CODE_IDT | self.ext_bit()
    }

    /// Returns the meaning of the error code. `None` if there is none.
    #[must_use]
    pub fn describe_error_code(&self) -> Option<String> {
        let error_code = self.error_code?;
        Some(match self.vector {
            14 => describe_page_fault_code(error_code),
            10..=13 => describe_selector_code(error_code),
            _ => "always 0".to_owned(),
        })
    }
}

fn describe_page_fault_code(error_code: u32) -> String {
    let has = |bit| error_code & bit != 0;
    let present = if has(error_code::PRESENT) { "page present" } else { "page not present" };
    let what = match (has(error_code::FETCH), has(error_code::WRITE)) {
        (true, _) => "instruction fetch",
        (false, true) => "write",
        // The fetch bit is set only with NX or SMEP enabled.
        (false, false) => "read",
    };
    let ring = if has(error_code::USER) { "from ring 3" } else { "from ring 0" };
    let reserved = if has(error_code::RESERVED) { ", reserved bit set" } else { "" };
    format!("{present}, {what}, {ring}{reserved}")
}

fn describe_selector_code(error_code: u32) -> String {
    if error_code == 0 {
        return "no selector involved".to_owned();
    }
    let table = match (error_code & ERROR_CODE_IDT, error_code & ERROR_CODE_TI) {
        (ERROR_CODE_IDT, _) => "IDT gate",
        (_, ERROR_CODE_TI) => "LDT entry",
        (_, _) => "GDT entry",
    };
    let external = if error_code & ERROR_CODE_EXT != 0 { ", while another event was delivered" } else { "" };
    format!("{table} {}{external}", error_code >> 3 & 0x1fff)
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name(), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_are_described() {
        let words = |vector, code| Exception::new(vector, Some(code), "").describe_error_code().unwrap();
        assert_eq!(words(14, 0), "page not present, read, from ring 0");
        assert_eq!(words(14, 0x7), "page present, write, from ring 3");
        assert_eq!(words(14, 0x19), "page present, instruction fetch, from ring 0, reserved bit set");
        assert_eq!(words(13, 0), "no selector involved");
        assert_eq!(words(13, 0x73), "IDT gate 14, while another event was delivered");
        assert_eq!(words(11, 0x18), "GDT entry 3");
    }
}
