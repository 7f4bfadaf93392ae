//! A model that does at each CLK pulse what the data sheet says, against the counters, which compute the same for any time.

use proptest::collection::vec;
use proptest::prelude::*;
use serde::Serialize;

use super::*;
use crate::encoding::{from_bytes, to_bytes};

/// Counter with binary counts of two bytes.
#[derive(Default)]
struct Model {
    mode: u8,
    register: Option<u16>,
    null_count: bool,
    low_byte: Option<u8>,
    gate: bool,
    out: bool,
    count: u16,
    /// Mode 3: the count was odd when it was loaded.
    odd: bool,
    /// The next pulse loads the count.
    load: bool,
    /// The element was loaded since the control word, and GATE has not stopped it for good.
    counts: bool,
    /// OUT changes when the count ends.
    armed: bool,
}

impl Model {
    fn control(&mut self, mode: u8) {
        let Self { gate, count, .. } = *self;
        *self = Self { mode, gate, count, null_count: true, out: mode != 0, ..Self::default() };
    }

    fn write(&mut self, byte: u8) {
        let Some(low) = self.low_byte.take() else {
            self.low_byte = Some(byte);
            if self.mode == 0 {
                (self.out, self.counts, self.load) = (false, false, false);
            }
            return;
        };
        self.register = Some(u16::from_le_bytes([low, byte]));
        self.null_count = true;
        match self.mode {
            0 => (self.out, self.counts, self.load) = (false, false, true),
            4 => self.load = true,
            2 | 3 => self.load |= !self.armed,
            _ => {}
        }
    }

    fn set_gate(&mut self, level: bool) {
        let rises = level && !self.gate;
        let falls = !level && self.gate;
        self.gate = level;
        match self.mode {
            1 | 5 if rises && self.register.is_some() => self.load = true,
            2 | 3 if self.armed => {
                self.load = rises || self.load && !falls;
                if falls {
                    (self.counts, self.out) = (false, true);
                }
            }
            4 if falls && !self.out => self.out = true,
            _ => {}
        }
    }

    fn take_register(&mut self) {
        let register = self.register.unwrap();
        self.odd = register % 2 == 1;
        self.count = if self.mode == 3 { register & !1 } else { register };
        self.null_count = false;
    }

    fn pulse(&mut self) {
        if self.load {
            (self.load, self.counts, self.armed) = (false, true, true);
            self.take_register();
            self.out = matches!(self.mode, 2..=5);
            return;
        }
        if matches!(self.mode, 4 | 5) {
            self.out = true;
        }
        if !self.counts || !self.gate && !matches!(self.mode, 1 | 5) {
            return;
        }
        match self.mode {
            2 if self.count == 1 => {
                self.take_register();
                self.out = true;
            }
            2 => {
                self.count = self.count.wrapping_sub(1);
                self.out = self.count != 1;
            }
            // The half with OUT high of an odd count lasts a pulse longer: to 0 instead of 2.
            3 if self.count == if self.odd && self.out { 0 } else { 2 } => {
                self.out = !self.out;
                self.take_register();
            }
            3 => self.count = self.count.wrapping_sub(2),
            _ => {
                self.count = self.count.wrapping_sub(1);
                if self.count == 0 && self.armed {
                    self.armed = false;
                    self.out = matches!(self.mode, 0 | 1);
                }
            }
        }
    }
}

/// Saved form of a counter, with any values.
#[derive(Debug, Clone, Serialize)]
struct SavedCounter {
    control: u8,
    count_register: Option<u16>,
    low_byte: Option<u8>,
    flags: [bool; 2],
    latched_count: Option<(u16, bool)>,
    latched_status: Option<u8>,
    gate: bool,
    element: SavedElement,
    load_at: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
enum SavedElement {
    Waiting(u16),
    Loaded { initial: u16, start: u64, paused: Option<u64>, starts_low: bool },
}

fn hostile() -> impl Strategy<Value = SavedCounter> {
    let element = prop_oneof![
        any::<u16>().prop_map(SavedElement::Waiting),
        (prop_oneof![0_u16..4, any::<u16>()], any::<u64>(), any::<Option<u64>>(), any::<bool>()).prop_map(
            |(initial, start, paused, starts_low)| SavedElement::Loaded {
                initial,
                start,
                paused,
                starts_low
            },
        ),
    ];
    let load_at = prop::option::of(prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0_u64..1 << 54]);
    let latches = (any::<Option<(u16, bool)>>(), any::<Option<u8>>());
    let registers =
        (any::<u8>(), any::<Option<u16>>(), any::<Option<u8>>(), any::<[bool; 2]>(), any::<bool>());
    (registers, latches, element, load_at).prop_map(|(registers, latches, element, load_at)| {
        let (control, count_register, low_byte, flags, gate) = registers;
        let (latched_count, latched_status) = latches;
        SavedCounter {
            control,
            count_register,
            low_byte,
            flags,
            latched_count,
            latched_status,
            gate,
            element,
            load_at,
        }
    })
}

/// Access to a counter, or pulses that pass.
#[derive(Debug, Clone)]
enum Step {
    Control(u8),
    Byte(u8),
    Count(u8),
    Gate(bool),
    Pulses(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // 1 is illegal in the periodic modes.
    let step = prop_oneof![
        1 => (0_u8..6).prop_map(Step::Control),
        1 => Just(Step::Byte(0)),
        3 => prop_oneof![2_u8..12, Just(0)].prop_map(Step::Count),
        2 => any::<bool>().prop_map(Step::Gate),
        4 => (0_u8..40).prop_map(Step::Pulses),
    ];
    vec(step, 1..40)
}

/// Model and timer after some steps, compared at each pulse. Counter 0 has no GATE, counter 2 has one.
fn compare(steps: &[Step], counter: u8) -> Result<(), TestCaseError> {
    let port = 0x40 + u16::from(counter);
    let (mut pit, mut model) = (Pit::new(), Model { gate: counter == 0, ..Model::default() });
    let mut tick = 0;
    for step in std::iter::once(&Step::Control(3)).chain(steps) {
        let mut pulses = 0;
        match *step {
            Step::Control(mode) => {
                model.control(mode);
                write(&mut pit, tick, &[(0x43, counter << 6 | 0x30 | mode << 1)]);
                // The count of before is not compared.
                model.count = count(&mut pit, tick, counter);
            }
            Step::Byte(byte) | Step::Count(byte) if model.low_byte.is_some() => {
                // The high byte. A count of 0 or 256 is allowed, 1 is not.
                let high = if model.low_byte == Some(1) { 1 } else { byte % 2 };
                model.write(high);
                write(&mut pit, tick, &[(port, high)]);
            }
            Step::Byte(byte) => {
                model.write(byte);
                write(&mut pit, tick, &[(port, byte)]);
            }
            Step::Count(value) => {
                for byte in [value, 0] {
                    model.write(byte);
                    write(&mut pit, tick, &[(port, byte)]);
                }
            }
            Step::Gate(level) if counter == 2 => {
                model.set_gate(level);
                write(&mut pit, tick, &[(0x61, level.into())]);
            }
            Step::Gate(_) => {}
            Step::Pulses(count) => pulses = u64::from(count),
        }
        let start = (pit.clone(), tick, model.out);
        let (mut edges, mut next) = (0, None);
        for _ in 0..=pulses {
            if tick != start.1 {
                let before = model.out;
                model.pulse();
                edges += u64::from(model.out && !before);
                if model.out != start.2 && next.is_none() {
                    next = Some(at(tick));
                }
            }
            write(&mut pit, tick, &[(0x43, 0xc0 | 2 << counter)]);
            let [status, low, high] = read(&mut pit, tick, port);
            let state = (status >> 7 != 0, status >> 6 & 1 != 0, u16::from_le_bytes([low, high]));
            prop_assert_eq!(state, (model.out, model.null_count, model.count), "{:?}, tick {}", step, tick);
            tick += 1;
        }
        tick -= 1;
        if counter == 0 {
            let (pit, from, _) = start;
            prop_assert_eq!(pit.edges(at(from), at(tick)), edges);
            let computed = pit.next_output_change(at(from)).filter(|next| *next <= at(tick));
            prop_assert_eq!(computed, next);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn counter_0_does_at_each_pulse_what_the_data_sheet_says(steps in steps()) {
        compare(&steps, 0)?;
    }

    #[test]
    fn counter_2_with_gate_does_at_each_pulse_what_the_data_sheet_says(steps in steps()) {
        compare(&steps, 2)?;
    }

    #[test]
    fn a_long_time_is_the_sum_of_its_parts(
        writes in vec((0x40_u16..0x44, any::<u8>()), 0..30), times in (any::<u64>(), any::<u64>(), any::<u64>()),
    ) {
        let mut pit = Pit::new();
        writes.iter().for_each(|(port, value)| pit.write(*port, *value, 0));
        let mut times = [times.0, times.1, times.2];
        times.sort_unstable();
        let [first, middle, last] = times;
        prop_assert_eq!(pit.edges(first, last), pit.edges(first, middle) + pit.edges(middle, last));
        if let Some(next) = pit.next_output_change(first) {
            prop_assert!(next > first);
            prop_assert_ne!(pit.output(next), pit.output(first));
            prop_assert_eq!(pit.output(next - 1), pit.output(first));
            prop_assert_eq!(pit.edges(first, next), u64::from(pit.output(next)));
        }
        let restored: Pit = from_bytes(&to_bytes(&pit).unwrap()).unwrap();
        prop_assert_eq!(restored, pit);
    }

    #[test]
    fn no_saved_state_is_a_panic(
        counters in [hostile(), hostile(), hostile()], port_b: u8,
        accesses in vec((prop_oneof![0x40_u16..0x44, Just(0x61)], any::<Option<u8>>(), any::<u64>()), 0..30),
    ) {
        let mut pit: Pit = from_bytes(&to_bytes(&(counters, port_b)).unwrap()).unwrap();
        for (port, value, now) in accesses {
            match value {
                Some(value) => pit.write(port, value, now),
                None => _ = pit.read(port, now),
            }
            pit.output(now);
            pit.next_output_change(now);
            pit.edges(now, u64::MAX);
            pit.edges(0, now);
        }
    }
}
