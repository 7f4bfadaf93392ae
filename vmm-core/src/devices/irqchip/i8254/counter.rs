//! One counter of the 8254: count register, latches, GATE, and its counting element.

use serde::{Deserialize, Serialize};

use super::control_word::{ControlWord, CountBytes, CounterMode};
use super::counting_element::CountingElement;

/// One of the three counters. Times are numbers of CLK pulses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counter {
    control: ControlWord,
    /// Count that was written last; `None` since the control word.
    count_register: Option<u16>,
    /// The first of two bytes of a count, if the second is expected.
    low_byte: Option<u8>,
    /// The next byte that is read is the second one.
    reads_high: bool,
    /// The count register holds a count that was not loaded yet.
    null_count: bool,
    latched_count: Option<LatchedCount>,
    latched_status: Option<u8>,
    gate: bool,
    element: ElementState,
    /// Time at which the counting element takes the count register.
    load_at: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct LatchedCount {
    count: u16,
    reads_high: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum ElementState {
    /// The element waits for its first count, and still shows the one before. OUT has its initial level.
    Waiting {
        count: u16,
    },
    Loaded(CountingElement),
}

impl Counter {
    /// Creates a counter that is programmed, and was loaded at time 0.
    pub(super) const fn loaded(control: u8, count: u16, gate: bool) -> Self {
        Self {
            control: ControlWord(control),
            count_register: Some(count),
            low_byte: None,
            reads_high: false,
            null_count: false,
            latched_count: None,
            latched_status: None,
            gate,
            element: ElementState::Loaded(CountingElement::new(count, 0, !gate, false)),
            load_at: None,
        }
    }

    /// Writes a control word or a counter latch command.
    pub(super) fn write_control(&mut self, value: u8, tick: u64) {
        if value >> 4 & 3 == 0 {
            return self.latch_count(tick);
        }
        *self = Self {
            control: ControlWord(value & 0x3f),
            count_register: None,
            low_byte: None,
            reads_high: false,
            null_count: true,
            latched_count: None,
            latched_status: None,
            gate: self.gate,
            element: ElementState::Waiting { count: self.count(tick) },
            load_at: None,
        };
    }

    /// Writes a byte of a count.
    pub(super) fn write(&mut self, value: u8, tick: u64) {
        self.settle(tick);
        match (self.control.bytes(), self.low_byte.take()) {
            (CountBytes::Low, _) => self.set_count(value.into(), tick),
            (CountBytes::High, _) => self.set_count(u16::from_le_bytes([0, value]), tick),
            (CountBytes::Both, Some(low)) => self.set_count(u16::from_le_bytes([low, value]), tick),
            (CountBytes::Both, None) => {
                self.low_byte = Some(value);
                if self.control.mode() == CounterMode::InterruptOnTerminalCount {
                    self.wait(tick);
                }
            }
        }
    }

    /// Stops counting, and sets OUT to its initial level.
    fn wait(&mut self, tick: u64) {
        self.element = ElementState::Waiting { count: self.count(tick) };
        self.load_at = None;
    }

    fn set_count(&mut self, count: u16, tick: u64) {
        self.count_register = Some(count);
        self.null_count = true;
        let next = tick.saturating_add(1);
        match (self.control.mode(), &self.element) {
            (CounterMode::InterruptOnTerminalCount, _) => {
                self.wait(tick);
                self.load_at = Some(next);
            }
            (CounterMode::SoftwareStrobe, _) => self.load_at = Some(next),
            // A rising GATE loads.
            (CounterMode::OneShot | CounterMode::HardwareStrobe, _) => {}
            (CounterMode::RateGenerator | CounterMode::SquareWave, ElementState::Waiting { .. }) => {
                self.load_at = Some(next);
            }
            (CounterMode::RateGenerator | CounterMode::SquareWave, ElementState::Loaded(element)) => {
                if !element.is_paused() {
                    self.load_at = Some(element.next_reload(self.control, tick));
                }
            }
        }
    }

    /// Sets GATE.
    pub(super) fn set_gate(&mut self, level: bool, tick: u64) {
        self.settle(tick);
        if std::mem::replace(&mut self.gate, level) == level {
            return;
        }
        let trigger = (level && self.count_register.is_some()).then(|| tick.saturating_add(1));
        match (self.control.mode(), &mut self.element) {
            (CounterMode::OneShot | CounterMode::HardwareStrobe, _) => {
                self.load_at = trigger.or(self.load_at);
            }
            (CounterMode::RateGenerator | CounterMode::SquareWave, ElementState::Loaded(element)) => {
                if !level {
                    element.pause(self.control, tick);
                }
                self.load_at = trigger;
            }
            (
                CounterMode::InterruptOnTerminalCount | CounterMode::SoftwareStrobe,
                ElementState::Loaded(element),
            ) => {
                if level {
                    element.resume(tick);
                } else {
                    element.pause(self.control, tick);
                }
            }
            // Loading does not need GATE.
            (
                CounterMode::InterruptOnTerminalCount
                | CounterMode::RateGenerator
                | CounterMode::SquareWave
                | CounterMode::SoftwareStrobe,
                ElementState::Waiting { .. },
            ) => {}
        }
    }

    /// Loads the counting element if it is time.
    fn settle(&mut self, tick: u64) {
        let Some(at) = self.load_at.filter(|at| *at <= tick) else { return };
        self.load_at = None;
        let Some(count) = self.count_register else { return };
        let mode = self.control.mode();
        let needs_gate = !matches!(mode, CounterMode::OneShot | CounterMode::HardwareStrobe);
        let starts_low = match &self.element {
            // Loaded at the end of a half, mode 3 goes on with the other one.
            ElementState::Loaded(element) if mode == CounterMode::SquareWave && !element.is_paused() => {
                !element.out(self.control, at)
            }
            ElementState::Loaded(_) | ElementState::Waiting { .. } => false,
        };
        let element = CountingElement::new(count, at, needs_gate && !self.gate, starts_low);
        self.element = ElementState::Loaded(element);
        self.null_count = false;
    }

    /// Returns the counter at a time after the last access.
    fn settled(&self, tick: u64) -> Self {
        let mut counter = *self;
        counter.settle(tick);
        counter
    }

    /// Returns OUT.
    pub(super) fn out(&self, tick: u64) -> bool {
        let counter = self.settled(tick);
        match &counter.element {
            ElementState::Waiting { .. } => counter.control.mode() != CounterMode::InterruptOnTerminalCount,
            ElementState::Loaded(element) => element.out(counter.control, tick),
        }
    }

    /// Returns the count of the counting element.
    fn count(&self, tick: u64) -> u16 {
        let counter = self.settled(tick);
        match &counter.element {
            ElementState::Waiting { count } => *count,
            ElementState::Loaded(element) => element.count(counter.control, tick),
        }
    }

    /// Reads the status if it is latched, else a byte of the latched count, else one of the count.
    pub(super) fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let (count, reads_high) = match &mut self.latched_count {
            Some(LatchedCount { count, reads_high }) => (*count, reads_high),
            None => (self.count(tick), &mut self.reads_high),
        };
        let [low, high] = count.to_le_bytes();
        let byte = match self.control.bytes() {
            CountBytes::Low => low,
            CountBytes::High => high,
            CountBytes::Both => {
                *reads_high = !*reads_high;
                if *reads_high {
                    return low;
                }
                high
            }
        };
        self.latched_count = None;
        byte
    }

    /// Latches the count until it is read; a count that is latched stays.
    pub(super) fn latch_count(&mut self, tick: u64) {
        let count = self.count(tick);
        self.latched_count.get_or_insert(LatchedCount { count, reads_high: false });
    }

    /// Latches the status until it is read; a status that is latched stays.
    pub(super) fn latch_status(&mut self, tick: u64) {
        self.settle(tick);
        let status = u8::from(self.out(tick)) << 7 | u8::from(self.null_count) << 6 | self.control.0 & 0x3f;
        self.latched_status.get_or_insert(status);
    }

    /// Returns the next time at which OUT changes, if nothing is written before.
    pub(super) fn next_out_change(&self, tick: u64) -> Option<u64> {
        let mut counter = self.settled(tick);
        let change = counter.next_change_of_element(tick);
        let Some(load) = counter.load_at else { return change };
        if change.is_some_and(|change| change < load) {
            return change;
        }
        let before = counter.out(tick);
        counter.settle(load);
        if counter.out(load) == before { counter.next_change_of_element(load) } else { Some(load) }
    }

    fn next_change_of_element(&self, tick: u64) -> Option<u64> {
        match &self.element {
            ElementState::Waiting { .. } => None,
            ElementState::Loaded(element) => element.next_out_change(self.control, tick),
        }
    }

    /// Returns the number of rising edges of OUT after `from`, up to and including `to`.
    pub(super) fn rising_edges(&self, from: u64, to: u64) -> u64 {
        let mut counter = self.settled(from);
        let Some(load) = counter.load_at.filter(|load| *load <= to) else {
            return counter.edges_of_element(from, to);
        };
        let last = load.saturating_sub(1);
        let (edges, before) = (counter.edges_of_element(from, last), counter.out(last));
        counter.settle(load);
        edges + u64::from(!before && counter.out(load)) + counter.edges_of_element(load, to)
    }

    fn edges_of_element(&self, from: u64, to: u64) -> u64 {
        match &self.element {
            ElementState::Waiting { .. } => 0,
            ElementState::Loaded(element) => element.rising_edges(self.control, from, to),
        }
    }
}
