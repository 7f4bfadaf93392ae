//! IOAPIC, an Intel 82093AA with 24 inputs: turns the level of each input into messages for local APICs.
//!
//! Software selects a register (IOREGSEL) and accesses it through a window (IOWIN). The version is 0x11, which has no EOI
//! register. The polarity of an entry is kept and has no effect: [`IoApic::set_input`] says that a line is asserted, not that its
//! voltage is high.

use serde::{Deserialize, Serialize};

use super::message::{InterruptMessage, TriggerMode};
use redirection::RedirectionEntry;

pub(crate) mod redirection;

/// Inputs of the IOAPIC.
pub(crate) const INPUTS: u8 = 24;
/// Offset of the select register.
const SELECT: u64 = 0x00;
/// Offset of the window.
const WINDOW: u64 = 0x10;
/// Identification register.
const ID: u8 = 0x00;
/// Version register.
const VERSION: u8 = 0x01;
/// Arbitration register.
const ARBITRATION: u8 = 0x02;
/// First register of the redirection table; each entry has two.
const REDIRECTION: u8 = 0x10;
/// Value of the version register: version 0x11, and the number of the last input.
const VERSION_VALUE: u32 = 0x11 | 23 << 16;

/// IOAPIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IoApic {
    /// Number of the register in the window.
    select: u8,
    id: u8,
    entries: [RedirectionEntry; 24],
    /// Inputs that are asserted, a bit each.
    levels: u32,
    /// Inputs with an edge whose message has not been taken, a bit each.
    edges: u32,
}

/// Message of an input of the IOAPIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InputMessage {
    /// Input that the message comes from.
    pub(crate) input: u8,
    /// Message for local APICs.
    pub(crate) message: InterruptMessage,
}

impl IoApic {
    /// Creates an IOAPIC in the state after reset: all inputs are masked.
    pub(crate) fn new() -> Self {
        Self { select: 0, id: 0, entries: [RedirectionEntry::default(); 24], levels: 0, edges: 0 }
    }

    /// Reads 32 bits at an offset from the base address. Registers that do not exist read 0, beyond the redirection table all bits
    /// are set.
    pub(crate) fn read(&self, offset: u64) -> u32 {
        match (offset, self.select) {
            (SELECT, register) => register.into(),
            (WINDOW, ID | ARBITRATION) => u32::from(self.id & 0xf) << 24,
            (WINDOW, VERSION) => VERSION_VALUE,
            (WINDOW, register) => self.selected(register).map_or(u32::MAX, |(input, half)| {
                self.entries.get(input).map_or(u32::MAX, |entry| entry.half(half))
            }),
            _ => 0,
        }
    }

    /// Writes 32 bits at an offset from the base address. Registers that do not exist or can only be read ignore it. The messages
    /// that become due are those of [`IoApic::take_messages`].
    pub(crate) fn write(&mut self, offset: u64, value: u32) {
        let [lowest, _, _, highest] = value.to_le_bytes();
        match (offset, self.select) {
            (SELECT, _) => self.select = lowest,
            (WINDOW, ID) => self.id = highest & 0xf,
            (WINDOW, register) => {
                if let Some((input, half)) = self.selected(register)
                    && let Some(entry) = self.entries.get_mut(input)
                {
                    entry.set_half(half, value);
                }
            }
            _ => {}
        }
    }

    /// Sets the level of an input: asserted if `level`. A rising edge of an edge-triggered input that is masked is lost.
    pub(crate) fn set_input(&mut self, input: u8, level: bool) {
        let (bit, number) = (1u32.checked_shl(input.into()).unwrap_or(0), usize::from(input));
        let Some(entry) = self.entries.get(number) else { return };
        let is_rising = level && self.levels & bit == 0;
        if is_rising && entry.effective_trigger() == TriggerMode::Edge && !entry.is_masked() {
            self.edges |= bit;
        }
        self.levels = if level { self.levels | bit } else { self.levels & !bit };
    }

    /// Takes the messages that are due: one for each edge, and one for each asserted level-triggered input whose last interrupt has
    /// ended. A message that no local APIC accepts has to be given back ([`IoApic::reject`]).
    pub(crate) fn take_messages(&mut self) -> impl Iterator<Item = InputMessage> + use<> {
        let mut due = [None; 24];
        let inputs = (0..INPUTS).zip(self.entries.iter_mut().zip(&mut due));
        for (input, (entry, due)) in inputs {
            let bit = 1 << input;
            let is_due = match entry.effective_trigger() {
                TriggerMode::Edge => self.edges & bit != 0,
                TriggerMode::Level => self.levels & bit != 0 && !entry.remote_irr(),
            };
            if !is_due || entry.is_masked() {
                continue;
            }
            if entry.effective_trigger() == TriggerMode::Level {
                entry.set_remote_irr(true);
            }
            *due = entry.message().map(|message| InputMessage { input, message });
        }
        self.edges = 0;
        due.into_iter().flatten()
    }

    /// Gives back a message that no local APIC accepted: a level-triggered input sends another one with the next messages, an edge
    /// is lost.
    pub(crate) fn reject(&mut self, input: u8) {
        if let Some(entry) = self.entries.get_mut(usize::from(input)) {
            entry.set_remote_irr(false);
        }
    }

    /// Ends the level-triggered interrupts with this vector (EOI broadcast). Inputs that are still asserted interrupt again.
    pub(crate) fn eoi(&mut self, vector: u8) {
        for entry in &mut self.entries {
            if entry.vector() == vector {
                entry.set_remote_irr(false);
            }
        }
    }

    /// Returns the redirection entry of each input.
    pub(crate) fn entries(&self) -> &[RedirectionEntry] {
        &self.entries
    }

    /// Returns true if the input is asserted.
    #[cfg(test)]
    pub(crate) fn is_asserted(&self, input: u8) -> bool {
        self.levels.checked_shr(input.into()).is_some_and(|levels| levels & 1 != 0)
    }

    /// Returns the input of a register of the redirection table, and the half of its entry.
    fn selected(&self, register: u8) -> Option<(usize, Half)> {
        let number = register.checked_sub(REDIRECTION)?;
        let half = if number % 2 == 0 { Half::Low } else { Half::High };
        Some((usize::from(number / 2), half))
    }
}

/// Register of a redirection entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
}

#[cfg(test)]
mod tests;
