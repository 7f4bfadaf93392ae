//! A fault: vector, error code, address, and the reason in words.

use std::fmt;

use crate::cpu::ring3_trap::exception_name;
use crate::paging::walk::Walk;

use super::page_fault::code;

/// An exception or software interrupt, before anybody tries to deliver it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// The vector.
    pub vector: u8,
    /// The error code that it pushes, if it does.
    pub error_code: Option<u32>,
    /// The address that goes into CR2: page faults only.
    pub address: Option<u64>,
    /// Why, as a clause: `the page of 0x400000 is not present`.
    pub why: String,
    /// The page walk that failed: page faults only.
    pub walk: Option<Walk>,
    /// From `int n` and the like: the gate's privilege level counts, and error codes have EXT clear.
    pub software: bool,
    /// Raised after its instruction: the frame points behind it.
    pub trap: bool,
}

/// Bits of the error code of a fault about a selector (SDM vol. 3, 6.13).
const EXTERNAL: u32 = 1 << 0;
const IN_IDT: u32 = 1 << 1;
const IN_LDT: u32 = 1 << 2;

/// How two faults in a row combine (SDM vol. 3, tables 6-4 and 6-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExceptionClass {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

impl Exception {
    /// A fault without address.
    #[must_use]
    pub fn new(vector: u8, error_code: Option<u32>, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { vector, error_code, address: None, why, walk: None, software: false, trap: false }
    }

    /// General protection.
    pub(super) fn gp(error_code: u32, why: impl Into<String>) -> Self {
        Self::new(13, Some(error_code), why)
    }

    /// Invalid opcode.
    pub(super) fn ud(why: impl Into<String>) -> Self {
        Self::new(6, None, why)
    }

    /// Name with number, as in `#PF (page fault, vector 14)`.
    #[must_use]
    pub fn name(&self) -> String {
        match exception_name(self.vector) {
            _ if self.software => format!("interrupt {:#x}", self.vector),
            Some((mnemonic, name)) => format!("{mnemonic} ({name}, vector {})", self.vector),
            None => format!("vector {}", self.vector),
        }
    }

    /// The mnemonic alone.
    #[must_use]
    pub fn mnemonic(&self) -> String {
        match exception_name(self.vector) {
            _ if self.software => format!("interrupt {:#x}", self.vector),
            Some((mnemonic, _)) => mnemonic.to_owned(),
            None => format!("vector {}", self.vector),
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

    /// The EXT bit of an error code that arises while this fault is delivered.
    pub(super) const fn external(&self) -> u32 {
        if self.software { 0 } else { EXTERNAL }
    }

    /// The error code of a fault about this fault's own gate.
    pub(super) fn gate_code(&self) -> u32 {
        u32::from(self.vector) << 3 | IN_IDT | self.external()
    }

    /// The error code in words; `None` if there is none.
    #[must_use]
    pub fn error_code_words(&self) -> Option<String> {
        let error_code = self.error_code?;
        Some(match self.vector {
            14 => page_fault_words(error_code),
            10..=13 => selector_words(error_code),
            _ => "always 0".to_owned(),
        })
    }
}

fn page_fault_words(error_code: u32) -> String {
    let has = |bit| error_code & bit != 0;
    let present = if has(code::PRESENT) { "page present" } else { "page not present" };
    let what = match (has(code::FETCH), has(code::WRITE)) {
        (true, _) => "instruction fetch",
        (false, true) => "write",
        // Where NX and SMEP are off a fetch shows as a read.
        (false, false) => "read",
    };
    let ring = if has(code::USER) { "from ring 3" } else { "from ring 0" };
    let reserved = if has(code::RESERVED) { ", reserved bit set" } else { "" };
    format!("{present}, {what}, {ring}{reserved}")
}

fn selector_words(error_code: u32) -> String {
    if error_code == 0 {
        return "no selector involved".to_owned();
    }
    let table = match (error_code & IN_IDT, error_code & IN_LDT) {
        (IN_IDT, _) => "IDT gate",
        (_, IN_LDT) => "LDT entry",
        (_, _) => "GDT entry",
    };
    let external = if error_code & EXTERNAL != 0 { ", while another event was delivered" } else { "" };
    format!("{table} {}{external}", error_code >> 3 & 0x1fff)
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name(), self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_in_words() {
        let words = |vector, code| Exception::new(vector, Some(code), "").error_code_words().unwrap();
        assert_eq!(words(14, 0), "page not present, read, from ring 0");
        assert_eq!(words(14, 0x7), "page present, write, from ring 3");
        assert_eq!(words(14, 0x19), "page present, instruction fetch, from ring 0, reserved bit set");
        assert_eq!(words(13, 0), "no selector involved");
        assert_eq!(words(13, 0x73), "IDT gate 14, while another event was delivered");
        assert_eq!(words(11, 0x18), "GDT entry 3");
    }
}
