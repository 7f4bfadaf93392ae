//! The two 8259A interrupt controllers of a PC (PICs), with the edge/level control registers of its chipset.
//!
//! | port | register |
//! |---|---|
//! | 0x20, 0xa0 | written: ICW1, OCW2, OCW3; read: IRR or ISR, as OCW3 selects |
//! | 0x21, 0xa1 | written: ICW2 to ICW4, OCW1; read: the interrupt mask |
//! | 0x4d0, 0x4d1 | ELCR: inputs whose bit is set are level-triggered |
//!
//! The INT output of the slave is connected to input 2 of the master. Source: Intel's data sheet of the 8259A; for ELCR that of the
//! 82371AB (PIIX4). A PC has further properties:
//!
//! - A request by an edge stays until it is acknowledged, also if the input falls before: devices of a machine send pulses.
//! - ICW3 is ignored, since the wiring is fixed, and so is the mode of the 8080 (ICW4, bit 0).
//! - LTIM of ICW1 is ignored: ELCR is in its place.
//! - A chip requests nothing before the end of its initialization sequence.

use serde::{Deserialize, Serialize};

/// Input of the master to which the slave is connected.
const CASCADE: u8 = 2;
/// Inputs of the master that can be level-triggered: all but the timer, the keyboard and the slave.
const MASTER_LEVEL_INPUTS: u8 = 0xf8;
/// Inputs of the slave that can be level-triggered: all but the clock and the coprocessor's error.
const SLAVE_LEVEL_INPUTS: u8 = 0xde;
/// Input whose vector a chip gives if nothing is requested when it is acknowledged.
const SPURIOUS: u8 = 7;

/// Written to the first port: ICW1.
const ICW1: u8 = 1 << 4;
/// ICW1: ICW4 follows.
const ICW1_IC4: u8 = 1 << 0;
/// ICW1: the chip is the only one (SNGL), and ICW3 does not follow.
const ICW1_SINGLE: u8 = 1 << 1;
/// ICW4: automatic end of interrupt (AEOI).
const ICW4_AUTO_EOI: u8 = 1 << 1;
/// ICW4: special fully nested mode (SFNM).
const ICW4_SPECIAL_FULLY_NESTED: u8 = 1 << 4;
/// Written to the first port without [`ICW1`]: OCW3, else OCW2.
const OCW3: u8 = 1 << 3;
/// OCW3: the next read is a poll.
const OCW3_POLL: u8 = 1 << 2;
/// OCW3: bit 0 selects the register that is read.
const OCW3_READ: u8 = 1 << 1;
/// OCW3: bit 5 sets or clears the special mask mode.
const OCW3_SPECIAL_MASK: u8 = 1 << 6;
/// Answer of a poll: bits 0 to 2 are an input that requests service.
const POLL_REQUEST: u8 = 1 << 7;

/// The two 8259A interrupt controllers of a PC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PicPair {
    master: Pic,
    slave: Pic,
}

/// Registers of one 8259A, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PicRegisters {
    /// Inputs that request service (IRR).
    pub(crate) irr: u8,
    /// Inputs in service (ISR).
    pub(crate) isr: u8,
    /// Inputs that are masked (IMR).
    pub(crate) imr: u8,
    /// Vector of the first input; `None` before the first ICW2.
    pub(crate) vector_base: Option<u8>,
}

impl PicPair {
    /// Creates the chips in their state after power-on: not initialized.
    pub(crate) const fn new() -> Self {
        Self { master: Pic::new(1 << CASCADE), slave: Pic::new(0) }
    }

    /// Sets the level of input `irq`, 0 to 15. Input 2 is the slave's, and other numbers have no input: both are ignored.
    pub(crate) fn set_input(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..=7 => self.master.set_input(irq, level),
            8..=15 => self.slave.set_input(irq - 8, level),
            16.. => {}
        }
        self.update_cascade();
    }

    /// Returns the INTR output of the master.
    pub(crate) fn intr(&self) -> bool {
        self.master.pending().is_some()
    }

    /// Acknowledges the request of highest priority (the INTA cycle), and returns its vector. Without a request it is the vector of
    /// input 7, and nothing changes.
    pub(crate) fn acknowledge(&mut self) -> u8 {
        let irq = self.master.acknowledge();
        let vector = if irq == Some(CASCADE) && !self.master.single {
            let irq = self.slave.acknowledge();
            self.slave.vector(irq)
        } else {
            self.master.vector(irq)
        };
        self.update_cascade();
        vector
    }

    /// Reads a register; all ones from a port that is none.
    pub(crate) fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 => self.master.read_command(),
            0x21 => self.master.read_data(),
            0xa0 => self.slave.read_command(),
            0xa1 => self.slave.read_data(),
            0x4d0 => self.master.elcr,
            0x4d1 => self.slave.elcr,
            _ => 0xff,
        };
        // A poll acknowledges.
        self.update_cascade();
        value
    }

    /// Writes a register. A write to a port that is none has no effect.
    pub(crate) fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.master.write_command(value),
            0x21 => self.master.write_data(value),
            0xa0 => self.slave.write_command(value),
            0xa1 => self.slave.write_data(value),
            0x4d0 => self.master.set_elcr(value & MASTER_LEVEL_INPUTS),
            0x4d1 => self.slave.set_elcr(value & SLAVE_LEVEL_INPUTS),
            _ => {}
        }
        self.update_cascade();
    }

    /// Returns the registers of master and slave.
    pub(crate) const fn registers(&self) -> [PicRegisters; 2] {
        [self.master.registers(), self.slave.registers()]
    }

    /// Connects the slave's INT output to the master. Without an acknowledge the request ends with the output. A master that was
    /// initialized as the only chip does not acknowledge the slave, and gets an edge.
    fn update_cascade(&mut self) {
        let active = self.slave.pending().is_some();
        if self.master.single {
            self.master.set_input(CASCADE, active);
        } else {
            self.master.set_request(CASCADE, active);
        }
    }
}

/// Write to the second port that a chip expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum InitState {
    /// OCW1, and the chip was never initialized.
    PowerOn,
    Icw2,
    Icw3,
    Icw4,
    /// OCW1.
    Ready,
}

/// One 8259A. Bit 0 of a byte is input 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Pic {
    /// Inputs to which other chips are connected.
    slaves: u8,
    /// Levels of the inputs.
    inputs: u8,
    /// Edges that are not acknowledged yet.
    requests: u8,
    /// Level-triggered inputs.
    elcr: u8,
    imr: u8,
    isr: u8,
    /// Input of the highest priority.
    first: u8,
    vector_base: Option<u8>,
    init: InitState,
    single: bool,
    needs_icw4: bool,
    auto_eoi: bool,
    rotate_in_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    reads_isr: bool,
    poll: bool,
}

impl Pic {
    const fn new(slaves: u8) -> Self {
        Self {
            slaves,
            inputs: 0,
            requests: 0,
            elcr: 0,
            imr: 0,
            isr: 0,
            first: 0,
            vector_base: None,
            init: InitState::PowerOn,
            single: false,
            needs_icw4: false,
            auto_eoi: false,
            rotate_in_auto_eoi: false,
            special_fully_nested: false,
            special_mask: false,
            reads_isr: false,
            poll: false,
        }
    }

    const fn registers(&self) -> PicRegisters {
        PicRegisters { irr: self.irr(), isr: self.isr, imr: self.imr, vector_base: self.vector_base }
    }

    const fn irr(&self) -> u8 {
        self.requests & !self.elcr | self.inputs & self.elcr
    }

    const fn set_input(&mut self, irq: u8, level: bool) {
        let bit = bit(irq);
        if !level {
            self.inputs &= !bit;
        } else if self.inputs & bit == 0 {
            self.inputs |= bit;
            self.requests |= bit & !self.elcr;
        }
    }

    const fn set_request(&mut self, irq: u8, requested: bool) {
        if requested {
            self.requests |= bit(irq);
        } else {
            self.requests &= !bit(irq);
        }
    }

    /// Sets the level-triggered inputs. An edge before is forgotten, and an input that is high is no edge.
    const fn set_elcr(&mut self, value: u8) {
        self.elcr = value;
        self.requests &= !value;
    }

    /// Returns the input for which the INT output is active.
    fn pending(&self) -> Option<u8> {
        if self.init != InitState::Ready {
            return None;
        }
        let request = self.highest(self.irr() & !self.imr)?;
        let Some(current) = self.highest(self.blocking()) else { return Some(request) };
        let nested = self.rank(request) < self.rank(current);
        // The slave has another request, whose priority is higher than that of the one in service.
        let of_same_slave =
            self.special_fully_nested && request == current && self.slaves & bit(request) != 0;
        (nested || of_same_slave).then_some(request)
    }

    /// Returns the inputs in service that hold back others, and that a non-specific EOI can end.
    const fn blocking(&self) -> u8 {
        if self.special_mask { self.isr & !self.imr } else { self.isr }
    }

    /// Returns the input of highest priority among these.
    fn highest(&self, inputs: u8) -> Option<u8> {
        (0..8).map(|rank| self.first.wrapping_add(rank) & 7).find(|irq| inputs & bit(*irq) != 0)
    }

    /// Returns the place of an input in the order of priorities: 0 is the highest.
    const fn rank(&self, irq: u8) -> u8 {
        irq.wrapping_sub(self.first) & 7
    }

    const fn set_lowest(&mut self, irq: u8) {
        self.first = irq.wrapping_add(1) & 7;
    }

    fn acknowledge(&mut self) -> Option<u8> {
        let irq = self.pending()?;
        self.requests &= !bit(irq);
        if !self.auto_eoi {
            self.isr |= bit(irq);
        } else if self.rotate_in_auto_eoi {
            self.set_lowest(irq);
        }
        Some(irq)
    }

    fn vector(&self, irq: Option<u8>) -> u8 {
        self.vector_base.unwrap_or_default() & 0xf8 | irq.unwrap_or(SPURIOUS) & 7
    }

    fn read_command(&mut self) -> u8 {
        self.take_poll().unwrap_or(if self.reads_isr { self.isr } else { self.irr() })
    }

    fn read_data(&mut self) -> u8 {
        self.take_poll().unwrap_or(self.imr)
    }

    /// Acknowledges a request if this read is a poll, and returns the answer.
    fn take_poll(&mut self) -> Option<u8> {
        if !std::mem::take(&mut self.poll) {
            return None;
        }
        Some(self.acknowledge().map_or(SPURIOUS, |irq| POLL_REQUEST | irq))
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.start_init(value);
        } else if value & OCW3 != 0 {
            self.poll |= value & OCW3_POLL != 0;
            if value & OCW3_READ != 0 {
                self.reads_isr = value & 1 != 0;
            }
            if value & OCW3_SPECIAL_MASK != 0 {
                self.special_mask = value & 1 << 5 != 0;
            }
        } else {
            self.write_ocw2(value >> 5, value & 7);
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.init {
            InitState::PowerOn | InitState::Ready => self.imr = value,
            InitState::Icw2 => {
                self.vector_base = Some(value & 0xf8);
                self.init = if self.single { self.state_after_icw3() } else { InitState::Icw3 };
            }
            InitState::Icw3 => self.init = self.state_after_icw3(),
            InitState::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                self.init = InitState::Ready;
            }
        }
    }

    const fn state_after_icw3(&self) -> InitState {
        if self.needs_icw4 { InitState::Icw4 } else { InitState::Ready }
    }

    /// Begins the initialization sequence. The edges before are forgotten; an input has to rise again. ISR and rotation are not named
    /// by the data sheet, but "fully nested mode is entered after initialization", and a guest that is started again expects it.
    const fn start_init(&mut self, icw1: u8) {
        let needs_icw4 = icw1 & ICW1_IC4 != 0;
        *self = Self {
            slaves: self.slaves,
            inputs: self.inputs,
            elcr: self.elcr,
            vector_base: self.vector_base,
            init: InitState::Icw2,
            single: icw1 & ICW1_SINGLE != 0,
            needs_icw4,
            // ICW4 sets them; without it they are off.
            auto_eoi: self.auto_eoi && needs_icw4,
            special_fully_nested: self.special_fully_nested && needs_icw4,
            ..Self::new(0)
        };
    }

    /// Executes OCW2: `command` is its bits 5 (EOI), 6 (SL) and 7 (R).
    fn write_ocw2(&mut self, command: u8, level: u8) {
        match command {
            0b000 => self.rotate_in_auto_eoi = false,
            0b100 => self.rotate_in_auto_eoi = true,
            0b001 | 0b101 => {
                if let Some(irq) = self.highest(self.blocking()) {
                    self.isr &= !bit(irq);
                    if command == 0b101 {
                        self.set_lowest(irq);
                    }
                }
            }
            0b011 => self.isr &= !bit(level),
            0b110 => self.set_lowest(level),
            0b111 => {
                self.isr &= !bit(level);
                self.set_lowest(level);
            }
            // 0b010: no operation.
            _ => {}
        }
    }
}

const fn bit(irq: u8) -> u8 {
    1 << (irq & 7)
}

#[cfg(test)]
mod tests;
