//! QEMU's configuration device (fw_cfg): a guest selects an item by its key and reads it byte by byte.
//!
//! Port 0x510 takes the key, 16 bits wide; port 0x511 returns the item's bytes one after the other, then
//! zeros. An unknown key is an empty item. The version register reports that items cannot be written and that there is no
//! DMA (QEMU, docs/specs/fw_cfg.rst).

use std::io;

use serde::{Deserialize, Serialize};

use crate::Port;
use crate::devices::device::{Action, Device, Guest, StateMismatch, from_bytes, to_bytes};
use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::spec::BusAddress;
use crate::spec::FwCfgFile;

/// Declaration of the device.
pub(super) const DEVICE: DeviceInfo = DeviceInfo {
    name: "fw-cfg",
    title: "the configuration device",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(0x510))),
    length: 2,
    irqs: &[],
    purpose: "QEMU's configuration device: memory size, CPUs, files",
};

/// Key of the signature, "QEMU".
const SIGNATURE: u16 = 0x00;
/// Key of the version. Bit 0: the interface by ports.
const VERSION: u16 = 0x01;
/// Key of the memory size in bytes, 64 bits.
const RAM_SIZE: u16 = 0x03;
/// Key of the number of CPUs, 16 bits.
const CPUS: u16 = 0x05;
/// Key of the maximum number of CPUs; here the number of CPUs.
const MAX_CPUS: u16 = 0x0f;
/// Key of the list of files.
const DIRECTORY: u16 = 0x19;
/// Key of the first file.
const FIRST_FILE: u16 = 0x20;
/// Length of a name in bytes, with its NUL.
const NAME: usize = 56;
/// Maximum length of a file name in bytes.
pub const MAX_NAME_LENGTH: usize = NAME - 1;
/// Maximum number of files: the keys above them are the architecture's.
pub const MAX_FILES: usize = 0x4000 - 0x20;

/// Offset of the data port; the selector is at offset 0.
const DATA: u64 = 1;

/// Saved state of the device: selected item, offset of the next byte in it, and key.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedFwCfg {
    item: Option<usize>,
    offset: usize,
    key: u16,
}

/// Configuration device of QEMU (fw_cfg): items that a guest selects by key and reads.
#[derive(Debug)]
pub struct FwCfg {
    items: Vec<(u16, Vec<u8>)>,
    /// Index of the selected item, and of the next byte in it.
    selected: (Option<usize>, usize),
    /// Selected key. A write of one byte sets all of it.
    key: u16,
}

impl FwCfg {
    /// Creates a configuration device for a machine with `memory` bytes of memory and `cpus` CPUs.
    #[must_use]
    pub fn new(memory: u64, cpus: u16, files: &[FwCfgFile]) -> Self {
        let mut items = vec![
            (SIGNATURE, b"QEMU".to_vec()),
            (VERSION, 1u32.to_le_bytes().to_vec()),
            (RAM_SIZE, memory.to_le_bytes().to_vec()),
            (CPUS, cpus.to_le_bytes().to_vec()),
            (MAX_CPUS, cpus.to_le_bytes().to_vec()),
            (DIRECTORY, directory(files)),
        ];
        let keys = FIRST_FILE..;
        items.extend(keys.zip(files.iter().take(MAX_FILES)).map(|(key, file)| (key, file.bytes.clone())));
        let mut device = Self { items, selected: (None, 0), key: 0 };
        device.select();
        device
    }

    fn select(&mut self) {
        self.selected = (self.items.iter().position(|(key, _)| *key == self.key), 0);
    }

    fn next(&mut self) -> u8 {
        let (Some(item), offset) = self.selected else { return 0 };
        let byte = self.items.get(item).and_then(|(_, bytes)| bytes.get(offset)).copied();
        self.selected.1 = offset.saturating_add(1);
        byte.unwrap_or(0)
    }
}

/// Returns the directory: count, then size, key and name of each file. Its numbers are big-endian.
fn directory(files: &[FwCfgFile]) -> Vec<u8> {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
    let files = files.iter().take(MAX_FILES);
    let mut bytes = number(files.len()).to_vec();
    for (key, file) in (FIRST_FILE..).zip(files) {
        bytes.extend(number(file.bytes.len()));
        bytes.extend(key.to_be_bytes());
        bytes.extend([0; 2]);
        let mut name: Vec<u8> = file.name.bytes().take(MAX_NAME_LENGTH).collect();
        name.resize(NAME, 0);
        bytes.extend(name);
    }
    bytes
}

impl Device for FwCfg {
    fn length(&self) -> u64 {
        DEVICE.length
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        if let (DATA, Some(byte)) = (offset, data.first_mut()) {
            *byte = self.next();
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        // Only the key can be written. A single byte is its low one, as on a 16-bit port.
        if offset != DATA {
            self.key = match *data {
                [] => return Ok(Action::Continue),
                [low] => low.into(),
                [low, high, ..] => u16::from_le_bytes([low, high]),
            };
            self.select();
        }
        Ok(Action::Continue)
    }

    fn save(&self) -> Option<Vec<u8>> {
        let (item, offset) = self.selected;
        to_bytes(&SavedFwCfg { item, offset, key: self.key })
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        let SavedFwCfg { item, offset, key } = from_bytes(state)?;
        (self.selected, self.key) = ((item, offset), key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::tests::guest;

    fn item(device: &mut FwCfg, key: u16, length: usize) -> Vec<u8> {
        device.write(0, &key.to_le_bytes(), &guest()).unwrap();
        let mut byte = [0xff];
        let mut next = || {
            device.read(1, &mut byte, &guest()).unwrap();
            byte[0]
        };
        (0..length).map(|_| next()).collect()
    }

    fn device() -> FwCfg {
        let file = |name: &str, text: &str| FwCfgFile { name: name.to_owned(), bytes: text.into() };
        FwCfg::new(5 << 30, 3, &[file("opt/a", "first"), file(&"x".repeat(80), "second")])
    }

    #[test]
    fn what_test_kernels_ask_for() {
        let mut device = device();
        assert_eq!(item(&mut device, SIGNATURE, 6), b"QEMU\0\0", "zeros behind the end");
        assert_eq!(item(&mut device, VERSION, 4), [1, 0, 0, 0], "no DMA");
        assert_eq!(item(&mut device, RAM_SIZE, 8), (5u64 << 30).to_le_bytes());
        assert_eq!(item(&mut device, CPUS, 2), [3, 0]);
        assert_eq!(item(&mut device, MAX_CPUS, 2), [3, 0]);
        assert_eq!(item(&mut device, 0x7777, 2), [0, 0]);
        assert_eq!(item(&mut device, SIGNATURE, 1), b"Q", "selecting starts anew");
    }

    #[test]
    fn files_are_found_by_the_directory() {
        let mut device = device();
        let directory = item(&mut device, DIRECTORY, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..12], [0, 0, 0, 5, 0, 0x20, 0, 0]);
        assert_eq!(&directory[12..18], b"opt/a\0");
        assert_eq!(
            directory[4 + 64 + 8..][..56],
            [[b'x'; 55].as_slice(), &[0]].concat(),
            "a name always ends"
        );
        assert_eq!(item(&mut device, 0x20, 5), b"first");
        assert_eq!(item(&mut device, 0x21, 6), b"second");
    }

    #[test]
    fn items_cannot_be_written() {
        let mut device = device();
        device.write(1, &[0x41], &guest()).unwrap();
        assert_eq!(item(&mut device, SIGNATURE, 4), b"QEMU");
    }
}
