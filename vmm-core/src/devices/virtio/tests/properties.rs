//! Anything at all, to every device: what must hold is that nothing panics, nothing takes forever, and nothing is written
//! where the guest could not write.

use std::io;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::block::VirtioBlock;
use super::super::console::VirtioConsole;
use super::super::entropy::VirtioEntropy;
use super::driver::{Driver, READ_ONLY, READ_ONLY_SIZE, WRITE, rings};
use crate::devices::console::{Input, Output};
use crate::devices::device::Device;
use crate::spec::{BlockAccess, BlockSpec, HostFile};

/// Somebody leans on the keyboard.
struct Endless;

impl Input for Endless {
    fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer.fill(b'x');
        Ok(buffer.len())
    }

    fn has_ended(&self) -> bool {
        false
    }
}

fn devices() -> [Driver; 4] {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(64 << 10).unwrap();
    let spec = |access| BlockSpec { image: HostFile::new(image.path()), access };
    [
        Driver::new(VirtioBlock::new(&spec(BlockAccess::ReadOnly)).unwrap()),
        Driver::new(VirtioBlock::new(&spec(BlockAccess::Temporary)).unwrap()),
        Driver::new(VirtioConsole::new(Output::new(io::sink()), Some(Box::new(Endless)))),
        Driver::new(VirtioEntropy),
    ]
}

/// One access.
#[derive(Debug, Clone)]
enum Step {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Receive,
}

/// Registers by themselves, and now and then anywhere, with any width.
fn step() -> impl Strategy<Value = Step> {
    let word = prop_oneof![0_u32..64, any::<u32>(), Just(0x1000), Just(0x2000), Just(0x3000), Just(15)];
    let register = (0_u64..0x50).prop_map(|number| number * 4);
    prop_oneof![
        4 => (register.clone(), word).prop_map(|(at, value)| Step::Write(at, value.to_le_bytes().to_vec())),
        1 => (0_u64..0x200, vec(any::<u8>(), 1..=8)).prop_map(|(at, data)| Step::Write(at, data)),
        1 => (0_u64..0x200, 1_usize..=8).prop_map(|(at, length)| Step::Read(at, length)),
        1 => Just(Step::Receive),
    ]
}

/// A descriptor that might just be right.
fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![
        6 => 0_u64..0x11_0000,
        8 => (0x10_u64..0x20).prop_map(|page| page * 0x1000),
        1 => any::<u64>(),
    ];
    let length = prop_oneof![Just(1), Just(16), Just(512), 0_u32..0x2000, any::<u32>()];
    let flags = prop_oneof![8 => 0_u16..4, 2 => 4_u16..8, 1 => any::<u16>()];
    (address, length, flags, prop_oneof![30 => 0_u16..8, 1 => any::<u16>()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_accesses(steps in vec(step(), 1..80), started: bool) {
        for mut driver in devices() {
            if started {
                driver.start();
            }
            for step in &steps {
                match step {
                    Step::Read(at, length) => driver.read(*at, &mut vec![0; *length]),
                    Step::Write(at, data) => driver.write(*at, data),
                    Step::Receive => { driver.device.poll_input().unwrap(); }
                }
            }
            // Whatever happened: a reset, and it works.
            driver.put(0x1000, &[0; 0x6000]);
            driver.start();
            let state = driver.device.save().unwrap();
            driver.device.restore(&state).unwrap();
            prop_assert_eq!(driver.device.save().unwrap(), state);
        }
    }

    /// A disk request as it should be, but for at most one number: either it is answered, or the driver hears of it.
    #[test]
    fn one_thing_wrong_with_a_request(
        cuts in vec(0_u32..2048, 0..4),
        kind in prop_oneof![Just(0_u32), Just(1), Just(4), Just(8), any::<u32>()],
        sector in prop_oneof![0_u64..140, any::<u64>()],
        wrong in proptest::option::of((0_u16..6, 0_usize..4, any::<u64>())),
    ) {
        for mut driver in devices().into_iter().take(2) {
            driver.start();
            driver.put(0x4_0000, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
            let direction = if kind == 1 { 0 } else { WRITE };
            let data = cuts.iter().enumerate().map(|(at, length)| (0x5_0000 + at as u64 * 0x1000, *length, direction));
            let chain: Vec<_> =
                [(0x4_0000, 16, 0)].into_iter().chain(data).chain([(0x4_1000, 1, WRITE)]).collect();
            let head = driver.chain(0, &chain);
            if let Some((descriptor, field, value)) = wrong {
                let at = rings(0)[0] + 16 * u64::from(descriptor);
                match field {
                    0 => driver.put(at, &value.to_le_bytes()),
                    1 => driver.put(at + 8, &(value as u32).to_le_bytes()),
                    2 => driver.put(at + 12, &(value as u16).to_le_bytes()),
                    _ => driver.put(at + 14, &(value as u16).to_le_bytes()),
                }
            }
            driver.publish(0, head);
            driver.notify(0);
            let (used, complaint) = (driver.used(0), driver.device.driver_error());
            prop_assert_eq!(used.len() + usize::from(complaint.is_some()), 1, "{:?} {:?}", used, complaint);
            if wrong.is_none() {
                prop_assert_eq!(complaint, None);
                prop_assert!(driver.bytes(0x4_1000, 1)[0] <= 2);
            }
        }
    }

    #[test]
    fn any_rings(
        descriptors in vec(descriptor(), 16),
        indirect in vec(descriptor(), 16),
        heads in vec(prop_oneof![30 => 0_u16..8, 1 => any::<u16>()], 16),
        index in prop_oneof![8 => 0_u16..9, 1 => any::<u16>()],
        kinds in vec(prop_oneof![0_u32..16, any::<u32>()], 4),
    ) {
        for mut driver in devices() {
            driver.start();
            let untouched = driver.bytes(READ_ONLY, READ_ONLY_SIZE as usize);
            for (address, kind) in (0_u64..0x10).zip(kinds.iter().cycle()) {
                driver.put(address * 0x1000 + 0x1_0000, &kind.to_le_bytes());
            }
            for (position, (address, length, flags, next)) in (0..).zip(&indirect) {
                driver.descriptor(0x8000, position, *address, *length, *flags, *next);
            }
            for queue in 0..2 {
                let [table, available, _] = rings(queue);
                let own = descriptors.iter().skip(8 * queue as usize).take(8);
                for (position, (address, length, flags, next)) in (0..).zip(own) {
                    driver.descriptor(table, position, *address, *length, *flags, *next);
                }
                for (position, head) in (0..8).zip(heads.iter().skip(8 * queue as usize)) {
                    driver.put(available + 4 + 2 * position, &head.to_le_bytes());
                }
                driver.put(available + 2, &index.to_le_bytes());
            }
            for queue in [0, 1, 0, 1] {
                driver.notify(queue);
                driver.device.poll_input().unwrap();
            }
            prop_assert_eq!(driver.bytes(READ_ONLY, READ_ONLY_SIZE as usize), untouched);
        }
    }
}
