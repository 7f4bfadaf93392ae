//! Exception delivery: the steps of the CPU from an exception to its handler, or to the exception that a failed step raises.
//!
//! In real mode the interrupt vector table holds a far pointer. In protected and long mode the CPU reads a gate from the
//! IDT, a code segment from the GDT and, if the ring changes, a stack from the TSS, then pushes the frame. The guest is not
//! changed: everything is computed from a [`GuestState`].
//!
//! Source: SDM vol. 3, 6.12 and 6.14; 20.1.4 for real mode.

use std::fmt;

use crate::cpu::control_regs::Cr0;
use crate::cpu::idt::Gate;

use super::control_transfer::is_canonical;
use super::exception::Exception;
use super::page_fault::{AccessKind, PageAccess};
use crate::machine::guest_state::GuestState;

/// Vector of #TS.
const INVALID_TSS_VECTOR: u8 = 10;
/// Vector of #NP.
const NOT_PRESENT_VECTOR: u8 = 11;
/// Vector of #SS.
const STACK_FAULT_VECTOR: u8 = 12;

/// Delivery of one exception: the gate that the CPU used, and the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Entry of the IDT or of the interrupt vector table. `None` if it could not be read.
    pub gate: Option<IdtEntry>,
    /// Result of the delivery: a handler, another exception, or a task switch.
    pub outcome: DeliveryOutcome,
}

/// Entry of the IDT or of the real-mode interrupt vector table, and its address.
///
/// Exhaustive: the architecture has no third kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdtEntry {
    /// Entry of the real-mode interrupt vector table.
    Vector {
        /// Linear address of the entry.
        at: u64,
        /// Value that the entry gives for CS.
        segment: u16,
        /// Value that the entry gives for IP.
        offset: u16,
    },
    /// Entry of the IDT: a gate.
    Gate {
        /// Linear address of the gate.
        at: u64,
        /// Gate that the entry holds, decoded.
        gate: Gate,
    },
}

/// Result of an exception delivery: a handler, another exception, or a task switch.
///
/// Exhaustive: the architecture has no other outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The CPU reached the first instruction of a handler.
    Handler(ExceptionHandler),
    /// The delivery failed and raised another exception.
    Failed(Exception),
    /// Task switch through a task gate, which is not analyzed.
    TaskSwitch,
}

/// State of the CPU at the first instruction of an exception handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExceptionHandler {
    /// Linear address of the handler's first instruction.
    pub linear: u64,
    /// Offset of the handler's first instruction in its code segment.
    pub offset: u64,
    /// Selector of the handler's code segment.
    pub selector: u16,
    /// Linear address of the saved flags in the exception frame.
    pub flags_address: u64,
    /// Linear stack pointer at the handler's first instruction.
    pub stack_pointer: u64,
}

/// Stack that receives the frame.
struct HandlerStack {
    /// Name in messages.
    name: String,
    /// Linear address of the top.
    top: u64,
    /// True if the privilege level changes.
    switched: bool,
}

impl GuestState<'_> {
    /// Computes the delivery of an exception.
    #[must_use]
    pub fn deliver(&self, fault: &Exception) -> Delivery {
        let mut gate = None;
        let protected = self.registers.cr0().contains(Cr0::PE);
        let result = if protected {
            self.deliver_through_idt(fault, &mut gate)
        } else {
            self.deliver_through_ivt(fault, &mut gate)
        };
        // Real mode pushes no error codes (SDM vol. 3, 20.1.4).
        let failed =
            |fault: Exception| Exception { error_code: fault.error_code.filter(|_| protected), ..fault };
        Delivery { gate, outcome: result.map_err(failed).unwrap_or_else(DeliveryOutcome::Failed) }
    }

    fn deliver_through_ivt(
        &self,
        fault: &Exception,
        found: &mut Option<IdtEntry>,
    ) -> Result<DeliveryOutcome, Exception> {
        let idt = &self.registers.sregs.idt;
        let entry = u64::from(fault.vector) * 4;
        if entry + 3 > u64::from(idt.limit) {
            let why = format!("vector {} lies beyond the IDT limit ({:#x})", fault.vector, idt.limit);
            return Err(Exception::gp(0, why));
        }
        let at = idt.base.wrapping_add(entry);
        let word = self.read_word(at, 4)?;
        let (offset, segment) = (low_word(word), low_word(word >> 16));
        *found = Some(IdtEntry::Vector { at, segment, offset });
        let sp = self.registers.regs.rsp & 0xffff;
        if sp % 2 == 1 && sp < 6 {
            return Err(Exception::new(
                STACK_FAULT_VECTOR,
                None,
                format!("the frame does not fit below SP {sp:#x}"),
            ));
        }
        let base = self.registers.sregs.ss.base;
        let push = |depth: u64| base.wrapping_add(sp.wrapping_sub(depth) & 0xffff);
        Ok(DeliveryOutcome::Handler(ExceptionHandler {
            linear: u64::from(segment) * 16 + u64::from(offset),
            offset: offset.into(),
            selector: segment,
            flags_address: push(2),
            stack_pointer: push(6),
        }))
    }

    fn deliver_through_idt(
        &self,
        fault: &Exception,
        found: &mut Option<IdtEntry>,
    ) -> Result<DeliveryOutcome, Exception> {
        let registers = self.registers;
        let (vector, long) = (fault.vector, registers.is_long());
        let size = if long { 16 } else { 8 };
        let (base, limit) = (registers.sregs.idt.base, u64::from(registers.sregs.idt.limit));
        let entry = u64::from(vector) * size;
        if entry + size - 1 > limit {
            let why = format!("gate {vector} lies beyond the IDT limit ({limit:#x})");
            return Err(Exception::gp(fault.gate_error_code(), why));
        }
        let at = base.wrapping_add(entry);
        let in_idt = |fault: Exception| Exception {
            reason: format!("the IDT at {base:#x} cannot be read: {}", fault.reason),
            ..fault
        };
        let low = self.read_word(at, 8).map_err(in_idt)?;
        let high = if long { self.read_word(at.wrapping_add(8), 8).map_err(in_idt)? } else { 0 };
        let gate = Gate::from_entry(low, high);
        *found = Some(IdtEntry::Gate { at, gate });
        self.check_gate(fault, gate, low)?;
        if gate.kind == 5 {
            return Ok(DeliveryOutcome::TaskSwitch);
        }

        let external = fault.ext_bit();
        let what = format!("IDT gate {vector}");
        let code = self.check_code(gate.selector, external, &what)?;
        let selector_code = super::segments::selector_error_code(gate.selector) | external;
        if code.dpl > registers.cpl() {
            let why = format!("{what} leads to code of ring {}, from ring {}", code.dpl, registers.cpl());
            return Err(Exception::gp(selector_code, why));
        }
        if long && !code.long {
            let why = format!("{what} leads to a code segment that is not 64-bit");
            return Err(Exception::gp(selector_code, why));
        }
        let target = if code.kind & 4 != 0 { registers.cpl() } else { code.dpl };
        let width: u64 = if long {
            8
        } else if gate.kind & 8 != 0 {
            4
        } else {
            2
        };
        let offset = if width == 2 { gate.offset & 0xffff } else { gate.offset };
        if long && !is_canonical(registers, offset) {
            return Err(Exception::gp(
                external,
                format!("{what} leads to {offset:#x}, which is not canonical"),
            ));
        }
        if !long && offset > u64::from(code.limit) {
            let why =
                format!("{what} leads to {offset:#x}, beyond the limit of its segment ({:#x})", code.limit);
            return Err(Exception::gp(external, why));
        }

        let stack = self.handler_stack(target, gate.ist, external)?;
        let words = if long || stack.switched { 5 } else { 3 } + u64::from(fault.error_code.is_some());
        let bottom = stack.top.wrapping_sub(words * width);
        self.check_push(&stack.name, bottom, words * width, target, external)?;
        let error = if fault.error_code.is_some() { width } else { 0 };
        Ok(DeliveryOutcome::Handler(ExceptionHandler {
            linear: if long { offset } else { code.base.wrapping_add(offset) & 0xffff_ffff },
            offset,
            selector: gate.selector,
            flags_address: bottom.wrapping_add(error + 2 * width),
            stack_pointer: bottom,
        }))
    }

    /// Checks type, privilege and presence of a gate, in the order of the CPU.
    fn check_gate(&self, fault: &Exception, gate: Gate, entry: u64) -> Result<(), Exception> {
        let long = self.registers.is_long();
        let allowed =
            if long { matches!(gate.kind, 0xe | 0xf) } else { matches!(gate.kind, 5..=7 | 0xe | 0xf) };
        // Bit 44 is 0 in every gate.
        if !allowed || entry >> 44 & 1 != 0 {
            let vector = fault.vector;
            let why = match entry {
                0 => format!("IDT gate {vector} is empty (all zeros, so not present)"),
                _ => {
                    format!("IDT gate {vector} has the wrong type: {:#x} is no gate of this mode", gate.kind)
                }
            };
            return Err(Exception::gp(fault.gate_error_code(), why));
        }
        if fault.software && gate.dpl < self.registers.cpl() {
            let why = format!(
                "IDT gate {} is for ring {} only, and ring {} used it",
                fault.vector,
                gate.dpl,
                self.registers.cpl()
            );
            return Err(Exception::gp(fault.gate_error_code(), why));
        }
        if !gate.present {
            let why = format!("IDT gate {} is not present", fault.vector);
            return Err(Exception::new(NOT_PRESENT_VECTOR, Some(fault.gate_error_code()), why));
        }
        Ok(())
    }

    /// Returns the stack of the handler: the current one, or one from the TSS.
    fn handler_stack(&self, target: u8, ist: u8, external: u32) -> Result<HandlerStack, Exception> {
        let registers = self.registers;
        let long = registers.is_long();
        let switched = target < registers.cpl();
        let top = if long && ist > 0 {
            self.tss_word(0x24 + (u64::from(ist) - 1) * 8, 8, external)?
        } else if long && switched {
            self.tss_word(4 + u64::from(target) * 8, 8, external)?
        } else if switched {
            let at = 4 + u64::from(target) * 8;
            let (esp, ss) = (self.tss_word(at, 4, external)?, self.tss_word(at + 4, 2, external)?);
            let stack = self.check_stack(low_word(ss), target, INVALID_TSS_VECTOR, external)?;
            stack.base.wrapping_add(esp) & 0xffff_ffff
        } else {
            registers.linear_stack()
        };
        // A 64-bit CPU aligns the frame (SDM vol. 3, 6.14.2).
        let name = match ist {
            1.. if long => format!("interrupt stack {ist} (IST {ist}) of the TSS"),
            _ if switched => format!("the ring-{target} stack of the TSS"),
            _ => "the stack".to_owned(),
        };
        Ok(HandlerStack { name, top: if long { top & !0xf } else { top }, switched })
    }

    fn tss_word(&self, offset: u64, size: usize, external: u32) -> Result<u64, Exception> {
        let tr = &self.registers.sregs.tr;
        if offset + size as u64 - 1 > u64::from(tr.limit) {
            let why =
                format!("the TSS is too short (limit {:#x}) to hold the stack for the handler", tr.limit);
            let code = super::segments::selector_error_code(tr.selector) | external;
            return Err(Exception::new(INVALID_TSS_VECTOR, Some(code), why));
        }
        let at = tr.base.wrapping_add(offset);
        self.read_word(at, size).map_err(|fault| Exception {
            reason: format!("the TSS cannot be read: {}", fault.reason),
            ..fault
        })
    }

    /// Checks that the frame can be pushed.
    fn check_push(
        &self,
        name: &str,
        bottom: u64,
        size: u64,
        target: u8,
        external: u32,
    ) -> Result<(), Exception> {
        let registers = self.registers;
        if registers.is_long() {
            if !is_canonical(registers, bottom) || !is_canonical(registers, bottom.wrapping_add(size - 1)) {
                let why = format!("{name} for the handler is at {bottom:#x}, which is not canonical");
                return Err(Exception::new(STACK_FAULT_VECTOR, Some(external), why));
            }
        } else if target == registers.cpl() {
            self.check_stack_limit(bottom, size, external)?;
        }
        let access =
            PageAccess { linear: bottom, size, kind: AccessKind::Write, user: target == 3, implicit: true };
        self.physical_ranges(&access).map(drop).map_err(|fault| Exception {
            reason: format!("the frame for the handler cannot be pushed on {name}: {}", fault.reason),
            ..fault
        })
    }

    /// Checks the frame against the limit of the current stack segment.
    fn check_stack_limit(&self, bottom: u64, size: u64, external: u32) -> Result<(), Exception> {
        let ss = &self.registers.sregs.ss;
        let offset = bottom.wrapping_sub(ss.base) & self.registers.stack_mask();
        let expand_down = ss.type_ & 0b1100 == 0b0100;
        let limit = u64::from(ss.limit);
        let outside = if expand_down { offset <= limit } else { offset + size - 1 > limit };
        if outside {
            let why = format!(
                "the frame for the handler, at offset {offset:#x}, leaves the stack segment (limit {limit:#x})"
            );
            return Err(Exception::new(STACK_FAULT_VECTOR, Some(external), why));
        }
        Ok(())
    }
}

impl GuestState<'_> {
    /// Handler that a gate names, without any check. The frame is not computed.
    pub(super) fn gate_target(&self, gate: IdtEntry) -> Option<ExceptionHandler> {
        let stack = self.registers.linear_stack();
        let to = |linear, offset, selector| ExceptionHandler {
            linear,
            offset,
            selector,
            flags_address: stack,
            stack_pointer: stack,
        };
        match gate {
            IdtEntry::Vector { segment, offset, .. } => {
                Some(to(u64::from(segment) * 16 + u64::from(offset), offset.into(), segment))
            }
            IdtEntry::Gate { gate, .. } => {
                (gate.offset != 0).then(|| to(gate.offset, gate.offset, gate.selector))
            }
        }
    }
}

/// Returns the low 16 bits.
const fn low_word(word: u64) -> u16 {
    (word & 0xffff) as u16
}

impl fmt::Display for IdtEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vector { at, segment, offset } => {
                write!(f, "vector table entry at {at:#x}: {segment:04x}:{offset:04x}")
            }
            Self::Gate { at, gate } => write!(f, "IDT gate at {at:#x}: {gate}"),
        }
    }
}
