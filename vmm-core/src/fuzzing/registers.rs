//! Registers of all devices of a PC whose answers do not depend on time: what a guest sees after its state was restored.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use super::board::{FuzzBoard, all_devices};
use super::input::FuzzInput;
use crate::devices::device::Action;
use crate::spec::{BlockAccess, BusAddress, VirtioSpec};

/// Maximum number of accesses before the state is saved, and after.
const MAX_ACCESSES: usize = 100;

thread_local! {
    static BOARD: (FuzzBoard, BoardState) = {
        let board = FuzzBoard::new(|disk| {
            let virtio = vec![disk.device(BlockAccess::Temporary), VirtioSpec::Console { input: true }];
            all_devices(virtio, false)
        });
        board.clear_memory();
        let initial = BoardState::save(&board);
        (board, initial)
    };
}

/// Checks that a saved state is all that the answers of devices depend on. The bytes are accesses; in their middle the state is
/// saved, and the second half is made twice.
pub fn registers(bytes: &[u8]) {
    BOARD.with(|(board, initial)| {
        initial.restore(board);
        let (first, second) = bytes.split_at_checked(bytes.len() / 2).unwrap_or((bytes, &[]));
        accesses(board, first);
        let saved = BoardState::save(board);
        let answers = accesses(board, second);
        saved.restore(board);
        // An error of a driver is told where it is made, and is no part of the state.
        assert!(board.mmio.complaints().is_empty(), "an error of another run");
        let again = accesses(board, second);
        assert!(answers == again, "{answers:x?} before the state was restored, and then {again:x?}");
        board.check_unchanged();
    });
}

/// State of all devices and of guest memory, and the position in the console's input.
struct BoardState {
    ports: Vec<Vec<u8>>,
    mmio: Vec<Vec<u8>>,
    memory: Vec<u8>,
    input: usize,
}

impl BoardState {
    fn save(board: &FuzzBoard) -> Self {
        Self {
            ports: board.ports.save().unwrap(),
            mmio: board.mmio.save().unwrap(),
            memory: board.memory(),
            input: board.console.position(),
        }
    }

    fn restore(&self, board: &FuzzBoard) {
        board.ports.restore(&self.ports).unwrap();
        board.mmio.restore(&self.mmio).unwrap();
        board.set_memory(&self.memory);
        board.console.set_position(self.input);
    }
}

/// Makes accesses and returns the answers: the bytes that were read, and consequences for the run.
fn accesses(board: &FuzzBoard, bytes: &[u8]) -> Vec<u8> {
    let mut answers = Vec::new();
    let mut input = FuzzInput::new(bytes);
    for _ in 0..MAX_ACCESSES {
        if input.is_empty() {
            break;
        }
        let (kind, index) = (input.u8(), input.u8());
        let Some(device) = board.devices.get(usize::from(index) % board.devices.len()) else { break };
        let offset = u64::from(input.u8()) % device.length;
        let (bus, address) = match device.at {
            BusAddress::Port(port) => (&board.ports, u64::from(port.0) + offset),
            BusAddress::Mmio(start) => (&board.mmio, start.0 + offset),
        };
        let width = 1 << (kind & 3);
        let is_timeless = !["rtc", "power"].contains(&device.name.as_str());
        let mut data = [0xff; 8];
        let action = if kind & 4 == 0 {
            data = input.array();
            bus.write(address, data.get(..width).unwrap(), &board.guest)
        } else {
            let action = bus.read(address, data.get_mut(..width).unwrap(), &board.guest);
            if is_timeless {
                answers.extend(data.get(..width).unwrap());
            }
            action
        };
        let action = action.unwrap().unwrap();
        match action {
            Action::Continue => {}
            Action::Exit(code) => answers.extend(code.to_le_bytes()),
            Action::PowerOff => answers.push(1),
            Action::Reset => answers.push(2),
            Action::Suspend { wake: _ } => answers.push(3),
        }
    }
    answers
}
