//! Bus: devices by address, for I/O ports and for guest-physical addresses.
//!
//! Ranges never overlap; [`Bus::insert`] checks that. An access goes to the device in whose range it begins. Each device has
//! a lock, so the vCPUs of a machine can share the bus.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use crate::devices::device::{Action, Device, Guest, StateMismatch};

/// Device that several vCPUs share, behind a lock.
pub type SharedDevice = Arc<Mutex<dyn Device>>;

/// Devices of a bus, sorted by address.
#[derive(Default)]
pub struct Bus {
    /// Devices, sorted by first address.
    entries: Vec<Entry>,
    /// Stateless devices in front of the others.
    overlays: Vec<Entry>,
}

struct Entry {
    start: u64,
    /// Last address, inclusive, because a device may end at the top of the address space.
    last: u64,
    name: String,
    device: SharedDevice,
}

/// A device cannot be put at an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The addresses of two devices overlap.
    #[error("device `{requested}` at {at:#x} and device `{existing}` at {existing_at:#x} overlap")]
    Overlap {
        /// Name of the new device.
        requested: String,
        /// First address of the new device.
        at: u64,
        /// Name of the existing device.
        existing: String,
        /// First address of the existing device.
        existing_at: u64,
    },
    /// The device would end beyond the last address of the bus.
    #[error("device `{name}` at {at:#x} has {length} addresses and leaves the bus, which ends at {last:#x}")]
    Leaves {
        /// Name of the device that cannot be inserted.
        name: String,
        /// First address of the device.
        at: u64,
        /// Number of addresses of the device.
        length: u64,
        /// Last address that the bus has.
        last: u64,
    },
}

/// Device that cannot be saved in a snapshot or checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("device `{name}` cannot be saved")]
pub struct SaveError {
    /// Name of the device that cannot be saved.
    pub name: String,
}

/// Saved states that do not belong to the devices of a bus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The number of saved states is not the number of devices.
    #[error("the states of {saved} devices were saved, and here are {devices}")]
    Count {
        /// Number of saved device states.
        saved: usize,
        /// Number of devices on the bus.
        devices: usize,
    },
    /// A device refuses the state that was saved.
    #[error("device `{name}` cannot be put back")]
    Device {
        /// Name of the device that refuses its state.
        name: String,
        /// Reason why the device refuses its state.
        source: StateMismatch,
    },
}

impl Bus {
    /// Puts a device at `start`, on a bus whose last address is `bus_last`.
    ///
    /// # Errors
    /// [`BusError`]; then the bus is unchanged.
    pub fn insert(
        &mut self,
        name: &str,
        start: u64,
        bus_last: u64,
        device: SharedDevice,
    ) -> Result<(), BusError> {
        let length = device.lock().unwrap_or_else(PoisonError::into_inner).length();
        let last = start.checked_add(length.saturating_sub(1)).filter(|last| *last <= bus_last);
        let Some(last) = last else {
            return Err(BusError::Leaves { name: name.to_owned(), at: start, length, last: bus_last });
        };
        if let Some(existing) = self.entries.iter().find(|e| e.start <= last && start <= e.last) {
            return Err(BusError::Overlap {
                requested: name.to_owned(),
                at: start,
                existing: existing.name.clone(),
                existing_at: existing.start,
            });
        }
        let place = self.entries.partition_point(|e| e.start < start);
        self.entries.insert(place, Entry { start, last, name: name.to_owned(), device });
        Ok(())
    }

    /// Puts a device in front of the others: it gets the accesses to its addresses that another one has too. Its state is not saved.
    pub(crate) fn insert_overlay(&mut self, name: &str, start: u64, device: SharedDevice) {
        let length = device.lock().unwrap_or_else(PoisonError::into_inner).length();
        let last = start.saturating_add(length.saturating_sub(1));
        self.overlays.push(Entry { start, last, name: name.to_owned(), device });
    }

    /// Reads `data.len()` bytes at `address`; `None` if no device is there.
    ///
    /// # Errors
    /// Errors of the device's host side.
    pub fn read(&self, address: u64, data: &mut [u8], guest: &dyn Guest) -> Option<io::Result<Action>> {
        let entry = self.find(address)?;
        let mut device = entry.device.lock().unwrap_or_else(PoisonError::into_inner);
        Some(device.read(address - entry.start, data, guest))
    }

    /// Writes `data` at `address`; `None` if no device is there.
    ///
    /// # Errors
    /// Errors of the device's host side.
    pub fn write(&self, address: u64, data: &[u8], guest: &dyn Guest) -> Option<io::Result<Action>> {
        let entry = self.find(address)?;
        let mut device = entry.device.lock().unwrap_or_else(PoisonError::into_inner);
        Some(device.write(address - entry.start, data, guest))
    }

    /// Returns first and last address and name of each device, by address.
    pub fn devices(&self) -> impl Iterator<Item = (RangeInclusive<u64>, &str)> {
        self.entries.iter().map(|entry| (entry.start..=entry.last, entry.name.as_str()))
    }

    /// Returns the name of the device at `address`.
    #[must_use]
    pub fn name_at(&self, address: u64) -> Option<&str> {
        self.find(address).map(|entry| entry.name.as_str())
    }

    /// Returns first address, name and message of each device that stopped at a driver error ([`Device::driver_error`]).
    #[must_use]
    pub fn complaints(&self) -> Vec<(u64, &str, String)> {
        let complaint =
            |entry: &Entry| entry.device.lock().unwrap_or_else(PoisonError::into_inner).driver_error();
        self.entries
            .iter()
            .filter_map(|entry| Some((entry.start, entry.name.as_str(), complaint(entry)?)))
            .collect()
    }

    /// Returns the access that a device waits for ([`Device::awaited_access`]).
    pub(crate) fn awaited_access(&self, name: &str) -> Option<&'static str> {
        let named = self.entries.iter().filter(|entry| entry.name == name);
        named
            .filter_map(|entry| entry.device.lock().unwrap_or_else(PoisonError::into_inner).awaited_access())
            .next()
    }

    /// Returns the saved state of each device, by address.
    ///
    /// # Errors
    /// [`SaveError`] with the first device that cannot be saved.
    pub(crate) fn save(&self) -> Result<Vec<Vec<u8>>, SaveError> {
        let save = |entry: &Entry| {
            let state = entry.device.lock().unwrap_or_else(PoisonError::into_inner).save();
            state.ok_or_else(|| SaveError { name: entry.name.clone() })
        };
        self.entries.iter().map(save).collect()
    }

    /// Restores the state of each device.
    ///
    /// # Errors
    /// [`RestoreError`] with the first device that refuses its state, or if the number of devices differs.
    pub(crate) fn restore(&self, states: &[Vec<u8>]) -> Result<(), RestoreError> {
        if states.len() != self.entries.len() {
            return Err(RestoreError::Count { saved: states.len(), devices: self.entries.len() });
        }
        for (entry, state) in self.entries.iter().zip(states) {
            let restored = entry.device.lock().unwrap_or_else(PoisonError::into_inner).restore(state);
            restored.map_err(|source| RestoreError::Device { name: entry.name.clone(), source })?;
        }
        Ok(())
    }

    fn find(&self, address: u64) -> Option<&Entry> {
        let overlay = self.overlays.iter().find(|e| (e.start..=e.last).contains(&address));
        if overlay.is_some() {
            return overlay;
        }
        let after = self.entries.partition_point(|e| e.start <= address);
        self.entries.get(after.checked_sub(1)?).filter(|e| address <= e.last)
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.entries.iter().map(|e| (format!("{:#x}..={:#x}", e.start, e.last), &e.name)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::device::tests::TestGuest;

    /// Answers with its own name and offset.
    struct Named(u8, u64);

    impl Device for Named {
        fn length(&self) -> u64 {
            self.1
        }

        fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
            data[0] = self.0 + offset.to_le_bytes()[0];
            Ok(Action::Continue)
        }

        fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
            Ok(Action::Exit(u32::from(data[0]) + u32::from(offset.to_le_bytes()[0])))
        }
    }

    fn device(name: u8, length: u64) -> SharedDevice {
        Arc::new(Mutex::new(Named(name, length)))
    }

    #[test]
    fn each_address_has_at_most_one_device() {
        let mut bus = Bus::default();
        bus.insert("serial", 0x3f8, 0xffff, device(10, 8)).unwrap();
        bus.insert("console", 0xe9, 0xffff, device(20, 1)).unwrap();
        bus.insert("next", 0x400, 0xffff, device(30, 1)).unwrap();
        assert_eq!(
            bus.insert("exit", 0x3f4, 0xffff, device(40, 5)).unwrap_err().to_string(),
            "device `exit` at 0x3f4 and device `serial` at 0x3f8 overlap"
        );
        let guest = TestGuest::new();
        let read = |address| {
            let mut data = [0];
            bus.read(address, &mut data, &guest).map(|_| data[0])
        };
        assert_eq!(read(0xe8), None);
        assert_eq!(read(0xe9), Some(20));
        assert_eq!(read(0xea), None);
        assert_eq!(read(0x3f8), Some(10));
        assert_eq!(read(0x3ff), Some(17));
        assert_eq!(read(0x400), Some(30));
        assert_eq!(read(0x401), None);
        assert_eq!(bus.write(0x3f9, &[5], &guest).unwrap().unwrap(), Action::Exit(6));
        assert_eq!(bus.name_at(0x3ff), Some("serial"));
    }

    #[test]
    fn a_device_may_end_at_the_last_address_but_not_beyond() {
        let mut bus = Bus::default();
        bus.insert("top", u64::MAX - 7, u64::MAX, device(0, 8)).unwrap();
        assert_eq!(bus.name_at(u64::MAX), Some("top"));
        assert_eq!(
            bus.insert("serial", 0xfffc, 0xffff, device(0, 8)).unwrap_err().to_string(),
            "device `serial` at 0xfffc has 8 addresses and leaves the bus, which ends at 0xffff"
        );
    }
}
