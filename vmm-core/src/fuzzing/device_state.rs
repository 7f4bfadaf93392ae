//! Saved states of devices that nobody saved.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use std::sync::PoisonError;

use super::board::{FuzzBoard, all_devices};
use super::input::FuzzInput;
use crate::devices::device::Device;
use crate::spec::{BlockAccess, VirtioSpec};

/// Maximum number of accesses after a state was restored.
const MAX_ACCESSES: usize = 64;

thread_local! {
    static BOARD: (FuzzBoard, Vec<Vec<u8>>) = {
        let board = FuzzBoard::new(|disk| {
            let virtio = vec![
                disk.device(BlockAccess::ReadOnly),
                disk.device(BlockAccess::Temporary),
                VirtioSpec::Console { input: true },
                VirtioSpec::Entropy,
            ];
            all_devices(virtio, true)
        });
        let initial = |device: &super::board::BoardDevice| {
            device.device.lock().unwrap_or_else(PoisonError::into_inner).save().unwrap()
        };
        let initial = board.devices.iter().map(initial).collect();
        (board, initial)
    };
}

/// Restores a state into a device and uses the device: the first byte is the number of the device, the next two the length of the
/// state; accesses follow the state.
pub fn device_state(bytes: &[u8]) {
    BOARD.with(|(board, initial)| {
        let mut input = FuzzInput::new(bytes);
        let index = usize::from(input.u8()) % board.devices.len();
        let (Some(device), Some(initial)) = (board.devices.get(index), initial.get(index)) else { return };
        let length = device.length;
        // Its state holds a time, which goes on.
        let has_time = device.name == "power";
        let mut device = device.device.lock().unwrap_or_else(PoisonError::into_inner);
        board.clear_memory();
        board.console.set_position(0);
        device.restore(initial).unwrap();
        let before = device.save();

        let length_of_state = input.u16();
        let state = input.bytes(length_of_state.into());
        if device.restore(state).is_err() {
            assert!(has_time || device.save() == before, "a refused state has changed the device");
        } else {
            let saved = device.save().unwrap();
            device.restore(&saved).unwrap();
            assert!(
                has_time || device.save().as_ref() == Some(&saved),
                "another state after its restoration"
            );
        }
        for _ in 0..MAX_ACCESSES {
            if input.is_empty() {
                break;
            }
            access(&mut *device, length, board, &mut input);
        }
        let saved = device.save().unwrap();
        device.restore(&saved).unwrap();
        drop(device);
        board.check_unchanged();
    });
}

fn access(device: &mut dyn Device, length: u64, board: &FuzzBoard, input: &mut FuzzInput<'_>) {
    let kind = input.u8();
    let offset = u64::from(input.u16()) % length;
    let width = 1 << (kind & 3);
    match kind >> 2 & 3 {
        0 | 1 => {
            let value: [u8; 8] = input.array();
            device.write(offset, value.get(..width).unwrap(), &board.guest).unwrap();
        }
        2 => {
            let mut data = [0xff; 8];
            device.read(offset, data.get_mut(..width).unwrap(), &board.guest).unwrap();
        }
        _ => {
            device.poll_input().unwrap();
        }
    }
}
