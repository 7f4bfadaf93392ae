//! Interface of a device: registers at an address, without KVM.
//!
//! A device gets accesses, relative to its own start, and a [`Guest`]: memory and exit counts of the machine that it is in.
//! An access returns an [`Action`] for the run.

use std::io;
use std::time::Duration;

use kvm_sys_wrap::{Gpa, Gva};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::PAGE_SIZE;
use crate::cpu::exit_counts::ExitCounts;
use crate::encoding;

/// Consequence of an access for the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The guest continues with its next instruction.
    Continue,
    /// The guest ends the run with this code; 0 is success.
    Exit(u32),
    /// The guest switches the machine off.
    PowerOff,
    /// The guest asks for a reset.
    Reset,
    /// The guest suspends the machine to memory (ACPI S3).
    Suspend {
        /// Time of the alarm that wakes the machine, since the epoch; `None` without one.
        wake: Option<Duration>,
    },
}

/// Saved state of another device, or of a device of another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the saved state is not of this device")]
pub struct StateMismatch;

/// Returns a device's registers as bytes.
pub(crate) fn to_bytes<T: Serialize>(registers: &T) -> Option<Vec<u8>> {
    // Fails only for types without a length, and there are none of those.
    encoding::to_bytes(registers).ok()
}

/// Returns the registers in the bytes of [`to_bytes`]. Bytes that are left over are an error.
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StateMismatch> {
    encoding::from_bytes(bytes).map_err(|_| StateMismatch)
}

/// Returns the registers at the start of `bytes`, and the bytes that follow them.
pub(crate) fn split_from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), StateMismatch> {
    encoding::split_from_bytes(bytes).map_err(|_| StateMismatch)
}

/// State of a device's input: the result of [`Device::poll_input`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputStatus {
    /// The device took all input that was there; more may follow.
    Consumed,
    /// The device has no room for input now.
    Full,
    /// The input of the device has ended, so that it need not be polled again.
    Closed,
}

/// Device on a range of I/O ports or guest-physical addresses.
///
/// An access has 1, 2, 4 or 8 bytes and begins inside the device; it may end beyond it. A string instruction (`rep outsb`)
/// arrives as single accesses. An error is one of the host, such as a closed output, and ends the run.
pub trait Device: Send {
    /// Returns the number of ports or addresses that the device answers.
    fn length(&self) -> u64;

    /// Reads from the registers into `data`, which holds ones (0xff), as on a PC's bus without a device.
    ///
    /// # Errors
    /// Errors of the device's host side.
    fn read(&mut self, offset: u64, data: &mut [u8], guest: &dyn Guest) -> io::Result<Action>;

    /// Writes the bytes of one guest access to the device's registers.
    ///
    /// # Errors
    /// Errors of the device's host side.
    fn write(&mut self, offset: u64, data: &[u8], guest: &dyn Guest) -> io::Result<Action>;

    /// Takes what has arrived from outside (console input, a point in time) and raises the device's interrupt. Called on
    /// machines with interrupts whenever the descriptor of the device's input is readable.
    ///
    /// # Errors
    /// Errors of the device's host side.
    fn poll_input(&mut self) -> io::Result<InputStatus> {
        Ok(InputStatus::Closed)
    }

    /// Returns the mistake of the guest's driver that stopped the device, if there was one.
    fn driver_error(&self) -> Option<String> {
        None
    }

    /// Returns the access by which the guest has to answer the device's last interrupt before the device sends another one, such as
    /// `a read of register C`; `None` if none is due.
    fn awaited_access(&self) -> Option<&'static str> {
        None
    }

    /// Returns the guest-visible state of the device as bytes: registers, queues, bytes that the guest has not fetched yet. A
    /// device without state returns no bytes. `None`, the default, means that the device cannot be saved; then a snapshot
    /// or a checkpoint of its machine fails with an error that names it.
    fn save(&self) -> Option<Vec<u8>> {
        None
    }

    /// Restores the state that [`Device::save`] returned, on this device or on one that was made in the same way.
    ///
    /// # Errors
    /// [`StateMismatch`]; then the device is unchanged.
    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        if state.is_empty() { Ok(()) } else { Err(StateMismatch) }
    }
}

/// Guest memory during an access of a vCPU.
pub trait GuestMemoryAccess {
    /// Translates a virtual address by the page tables of the vCPU; `None` if nothing is mapped there.
    fn translate(&self, address: Gva) -> Option<Gpa>;

    /// Reads guest-physical memory; `None` if any byte of it is not memory.
    fn read_physical(&self, address: Gpa, data: &mut [u8]) -> Option<()>;

    /// Writes guest-physical memory; `None`, with nothing written, if any byte of it is not memory or read-only to the guest.
    fn write_physical(&self, address: Gpa, data: &[u8]) -> Option<()>;
}

/// Guest during an access of one of its vCPUs.
pub trait Guest: GuestMemoryAccess {
    /// Returns the exits of the vCPU so far, the present one included.
    fn exits(&self) -> &ExitCounts;

    /// Returns the number of the vCPU, from 0.
    fn vcpu(&self) -> usize {
        0
    }
}

/// Returns the parts of a virtual range, each inside one page, with their physical addresses. The last one is `None` if the
/// range reaches a page that is not mapped or leaves the address space.
fn pages(
    guest: &dyn Guest,
    start: Gva,
    length: usize,
) -> impl Iterator<Item = Option<(Gpa, std::ops::Range<usize>)>> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= length {
            return None;
        }
        let piece = u64::try_from(done).ok().and_then(|offset| start.checked_add(offset)).and_then(|gva| {
            let in_page = usize::try_from(PAGE_SIZE - gva.0 % PAGE_SIZE).ok()?;
            let end = length.min(done + in_page);
            Some((guest.translate(gva)?, done..end))
        });
        done = piece.as_ref().map_or(length, |(_, range)| range.end);
        Some(piece)
    })
}

/// Reads guest-virtual memory, page by page; `None` if any byte is not mapped to memory.
pub fn read_virtual(guest: &dyn Guest, address: Gva, data: &mut [u8]) -> Option<()> {
    let length = data.len();
    for piece in pages(guest, address, length) {
        let (gpa, range) = piece?;
        guest.read_physical(gpa, data.get_mut(range)?)?;
    }
    Some(())
}

/// Writes guest-virtual memory, page by page; `None` if any byte is not mapped to writable memory. Bytes before it may have
/// been written then.
pub fn write_virtual(guest: &dyn Guest, address: Gva, data: &[u8]) -> Option<()> {
    for piece in pages(guest, address, data.len()) {
        let (gpa, range) = piece?;
        guest.write_physical(gpa, data.get(range)?)?;
    }
    Some(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A guest with two pages of memory at 0x1000 and 0x3000, which are mapped at 0x1000 and 0x2000.
    #[derive(Default)]
    pub(crate) struct TestGuest {
        pub(crate) memory: RefCell<Vec<u8>>,
        pub(crate) counts: ExitCounts,
    }

    impl TestGuest {
        pub(crate) fn new() -> Self {
            Self { memory: RefCell::new(vec![0; 0x2000]), ..Self::default() }
        }

        pub(crate) fn index(address: Gpa, length: usize) -> Option<usize> {
            let address = usize::try_from(address.0).ok()?;
            [(0x1000, 0), (0x3000, 0x1000)].into_iter().find_map(|(start, at)| {
                let inside = address >= start && address + length <= start + 0x1000;
                inside.then(|| address - start + at)
            })
        }
    }

    impl GuestMemoryAccess for TestGuest {
        fn translate(&self, address: Gva) -> Option<Gpa> {
            match address.0 / PAGE_SIZE {
                1 => Some(Gpa(address.0)),
                2 => Some(Gpa(address.0 + PAGE_SIZE)),
                // Mapped, but no memory behind it.
                7 => Some(Gpa(0xdead_0000)),
                _ => None,
            }
        }

        fn read_physical(&self, address: Gpa, data: &mut [u8]) -> Option<()> {
            let at = Self::index(address, data.len())?;
            data.copy_from_slice(&self.memory.borrow()[at..at + data.len()]);
            Some(())
        }

        fn write_physical(&self, address: Gpa, data: &[u8]) -> Option<()> {
            let at = Self::index(address, data.len())?;
            self.memory.borrow_mut()[at..at + data.len()].copy_from_slice(data);
            Some(())
        }
    }

    impl Guest for TestGuest {
        fn exits(&self) -> &ExitCounts {
            &self.counts
        }
    }

    #[test]
    fn a_range_over_two_pages_is_followed_to_where_it_lies() {
        let guest = TestGuest::new();
        write_virtual(&guest, Gva(0x1ffe), b"abcd").unwrap();
        assert_eq!(&guest.memory.borrow()[0xffe..0x1002], b"abcd");
        let mut back = [0; 4];
        read_virtual(&guest, Gva(0x1ffe), &mut back).unwrap();
        assert_eq!(&back, b"abcd");
    }

    #[test]
    fn a_range_with_a_hole_or_past_the_end_of_the_address_space_is_refused() {
        let guest = TestGuest::new();
        assert_eq!(write_virtual(&guest, Gva(0x2ffe), b"abcd"), None);
        assert_eq!(read_virtual(&guest, Gva(0x7000), &mut [0; 1]), None);
        assert_eq!(read_virtual(&guest, Gva(u64::MAX), &mut [0; 2]), None);
        assert_eq!(read_virtual(&guest, Gva(u64::MAX), &mut []), Some(()));
    }
}
