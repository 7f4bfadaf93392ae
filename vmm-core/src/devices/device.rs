//! What a device is: registers at an address, nothing of KVM.
//!
//! A device sees accesses, relative to its own start, and a [`Guest`]: the little that some devices may know of the
//! machine they sit in. It answers with what the access means for the run.

use std::io;
use std::time::Duration;

use kvm_sys_wrap::{Gpa, Gva};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::PAGE_SIZE;
use crate::cpu::exit_counts::ExitCounts;
use crate::encoding;

/// What follows from an access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing: the guest goes on.
    Continue,
    /// The guest ended the run with this code; 0 is success.
    Exit(u32),
    /// The guest switched the machine off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest suspended the machine to memory (ACPI S3).
    Suspend {
        /// When something wakes it, since the epoch; `None` if nothing will.
        wake: Option<Duration>,
    },
}

/// The saved state of another device, or of a device of another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the saved state is not of this device")]
pub struct StateMismatch;

/// A device's registers as bytes.
pub(crate) fn to_bytes<T: Serialize>(registers: &T) -> Vec<u8> {
    // Fails for types without a length only, and there are none of those.
    encoding::to_bytes(registers).unwrap_or_default()
}

/// Returns the registers in the bytes of [`to_bytes`]. Bytes that are left over are an error.
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StateMismatch> {
    encoding::from_bytes(bytes).map_err(|_| StateMismatch)
}

/// Returns the registers at the start of `bytes`, and the bytes that follow them.
pub(crate) fn split_from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), StateMismatch> {
    encoding::split_from_bytes(bytes).map_err(|_| StateMismatch)
}

/// What came of looking for input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputStatus {
    /// Something was taken, and more may follow.
    Consumed,
    /// The device has no room now.
    Full,
    /// There will be no more.
    Closed,
}

/// Something that answers accesses to a range of ports or addresses.
///
/// An access has 1, 2, 4 or 8 bytes and begins inside the device; it may end beyond it. A string instruction comes as
/// single accesses. An error is one of the host's, such as a closed output; the run ends with it.
pub trait Device: Send {
    /// Number of addresses it answers.
    fn length(&self) -> u64;

    /// Fills `data`. What a device leaves alone reads as all ones, as on a PC's bus.
    ///
    /// # Errors
    /// What the host side of the device ran into.
    fn read(&mut self, offset: u64, data: &mut [u8], guest: &dyn Guest) -> io::Result<Action>;

    /// Takes `data`.
    ///
    /// # Errors
    /// What the host side of the device ran into.
    fn write(&mut self, offset: u64, data: &[u8], guest: &dyn Guest) -> io::Result<Action>;

    /// Takes what has arrived from outside, input of the console or a time, and raises its interrupt. Asked of the devices
    /// that have something to wait for, on a machine with interrupts, whenever it is there.
    ///
    /// # Errors
    /// What the host side of the device ran into.
    fn poll_input(&mut self) -> io::Result<InputStatus> {
        Ok(InputStatus::Closed)
    }

    /// What the guest's driver did wrong, if the device has stopped over it.
    fn driver_error(&self) -> Option<String> {
        None
    }

    /// What the guest has made of the device: registers, queues, bytes that it did not fetch yet. Devices without have none.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Puts back what [`Device::save`] gave, on this device or on one that was made as it was.
    ///
    /// # Errors
    /// [`StateMismatch`]; then the device is as it was.
    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        if state.is_empty() { Ok(()) } else { Err(StateMismatch) }
    }
}

/// The guest as a device sees it during an access: its memory through its own eyes, and some counts.
pub trait Guest {
    /// Translates a virtual address as the vCPU would now; `None` where nothing is mapped.
    fn translate(&self, address: Gva) -> Option<Gpa>;

    /// The host's address of a guest-physical one; `None` where no memory is. To show, not to use.
    fn host_address(&self, address: Gpa) -> Option<u64>;

    /// Reads guest-physical memory; `None` if any byte of it is not memory.
    fn read_physical(&self, address: Gpa, data: &mut [u8]) -> Option<()>;

    /// Writes guest-physical memory; `None`, with nothing written, if any byte of it is not memory the guest could write.
    fn write_physical(&self, address: Gpa, data: &[u8]) -> Option<()>;

    /// Makes the host forget how it maps the page of a guest-physical address: the guest's next access to it is a fault in
    /// the host, which it does not notice. Where no memory is, nothing happens.
    ///
    /// # Errors
    /// The host's.
    fn forget_page(&self, address: Gpa) -> io::Result<()>;

    /// Exits so far, the present one included.
    fn exits(&self) -> &ExitCounts;
}

/// The pieces of a virtual range, each inside one page, with their physical addresses; the last one is `None` where the
/// range meets a page that is not mapped or leaves the address space.
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

/// Reads guest-virtual memory, page by page; `None` if any byte is not there.
pub fn read_virtual(guest: &dyn Guest, address: Gva, data: &mut [u8]) -> Option<()> {
    let length = data.len();
    for piece in pages(guest, address, length) {
        let (gpa, range) = piece?;
        guest.read_physical(gpa, data.get_mut(range)?)?;
    }
    Some(())
}

/// Writes guest-virtual memory, page by page; `None` if any byte is not there, and then some may have been written.
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
        /// The pages that a device asked to forget.
        pub(crate) forgotten: RefCell<Vec<Gpa>>,
    }

    impl TestGuest {
        pub(crate) fn new() -> Self {
            Self { memory: RefCell::new(vec![0; 0x2000]), ..Self::default() }
        }

        fn index(address: Gpa, length: usize) -> Option<usize> {
            let address = usize::try_from(address.0).ok()?;
            [(0x1000, 0), (0x3000, 0x1000)].into_iter().find_map(|(start, at)| {
                let inside = address >= start && address + length <= start + 0x1000;
                inside.then(|| address - start + at)
            })
        }
    }

    impl Guest for TestGuest {
        fn translate(&self, address: Gva) -> Option<Gpa> {
            match address.0 / PAGE_SIZE {
                1 => Some(Gpa(address.0)),
                2 => Some(Gpa(address.0 + PAGE_SIZE)),
                // Mapped, but no memory behind it.
                7 => Some(Gpa(0xdead_0000)),
                _ => None,
            }
        }

        fn host_address(&self, address: Gpa) -> Option<u64> {
            Self::index(address, 1).map(|_| 0x7f00_0000_0000 + address.0)
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

        fn forget_page(&self, address: Gpa) -> io::Result<()> {
            self.forgotten.borrow_mut().push(address);
            Ok(())
        }

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
