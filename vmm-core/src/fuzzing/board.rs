//! Devices of a machine without KVM: on their buses, with guest memory, a disk, console input and interrupt lines.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_sys_wrap::{Gpa, GuestMemory, Gva, Port};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};

use crate::PAGE_SIZE;
use crate::cpu::exit_counts::ExitCounts;
use crate::devices::bus::{Bus, SharedDevice};
use crate::devices::console::{Input, Output};
use crate::devices::device::{Guest, GuestMemoryAccess};
use crate::devices::irq::IrqLine;
use crate::devices::rtc::AlarmHandle;
use crate::devices::test_doubles::EdgeCounter;
use crate::devices::{self, CreatedDevice, DeviceResources};
use crate::firmware;
use crate::spec::gpa_range::GpaRange;
use crate::spec::mode::Mode;
use crate::spec::{
    BlockAccess, BlockSpec, BusAddress, DeviceSpecs, EntryPoint, FwCfgFile, FwCfgSpec, HypercallSpec,
    MachineSpec, PlatformSpec, VirtioSpec,
};

/// Memory from 0.
pub(super) const MEMORY_SIZE: u16 = 0x8000;
/// More memory, behind a hole.
pub(super) const HIGH_MEMORY: u64 = 0x1_0000;
pub(super) const HIGH_MEMORY_SIZE: u16 = 0x1000;
/// Memory that neither the guest nor a device may write.
pub(super) const READ_ONLY: u64 = 0x3000;
pub(super) const READ_ONLY_SIZE: usize = 0x1000;
/// Size of the disk: its last block is not complete.
const DISK_SIZE: u16 = 5 * 1024;

/// Device on a bus.
pub(super) struct BoardDevice {
    pub(super) name: String,
    pub(super) at: BusAddress,
    pub(super) length: u64,
    pub(super) device: SharedDevice,
}

/// Devices with the parts of a machine that they use.
pub(super) struct FuzzBoard {
    pub(super) devices: Vec<BoardDevice>,
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    pub(super) guest: FuzzGuest,
    pub(super) console: FuzzConsole,
    image: File,
    image_bytes: Vec<u8>,
}

impl FuzzBoard {
    /// Creates the devices of `specs`, which may use the disk.
    pub(super) fn new(specs: impl FnOnce(&BoardDisk) -> DeviceSpecs) -> Self {
        let image = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).unwrap());
        let image_bytes: Vec<u8> =
            (0..DISK_SIZE).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
        image.write_all_at(&image_bytes, 0).unwrap();
        let disk = BoardDisk(format!("/proc/self/fd/{}", image.as_raw_fd()));

        let mut spec = MachineSpec::new(Mode::Long, MEMORY_SIZE.into(), EntryPoint::Address(Gva(0)));
        spec.devices = specs(&disk);
        spec.arguments = vec!["one".to_owned(), String::new(), "three".to_owned()];
        let regions = [
            (GuestAddress(0), usize::from(MEMORY_SIZE)),
            (GuestAddress(HIGH_MEMORY), usize::from(HIGH_MEMORY_SIZE)),
        ];
        let memory = GuestMemory::from_ranges(&regions).unwrap();
        let read_only = [GpaRange::new(Gpa(READ_ONLY), PAGE_SIZE).unwrap()];
        let console = FuzzConsole::default();
        let mut resources = DeviceResources {
            spec: &spec,
            memory: memory.clone(),
            read_only: &read_only,
            output: Output::new(console.clone()),
            input: Some((Box::new(console.clone()), None)),
            alarm: AlarmHandle::default(),
            memory_sizes: firmware::memory_sizes,
            custom: &[],
        };
        let (mut ports, mut mmio) = (Bus::default(), Bus::default());
        let mut created_devices = Vec::new();
        for installed in devices::installed(&spec.devices) {
            let lines = installed.irqs.iter().map(|_| IrqLine::new(EdgeCounter::default())).collect();
            let created = devices::create(&installed, lines, &mut resources).ok();
            let CreatedDevice { device, input_fd: _ } = created.unwrap();
            let inserted = match installed.at {
                BusAddress::Port(port) => {
                    ports.insert(installed.name, port.0.into(), u16::MAX.into(), Arc::clone(&device))
                }
                BusAddress::Mmio(start) => {
                    mmio.insert(installed.name, start.0, u64::MAX, Arc::clone(&device))
                }
            };
            inserted.unwrap();
            created_devices.push(BoardDevice {
                name: installed.name.to_owned(),
                at: installed.at,
                length: installed.length,
                device,
            });
        }
        let guest = FuzzGuest { memory, exits: ExitCounts::default() };
        Self { devices: created_devices, ports, mmio, guest, console, image, image_bytes }
    }

    /// Returns the memory that the guest can write, region by region.
    pub(super) fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(MEMORY_SIZE) + usize::from(HIGH_MEMORY_SIZE)];
        let (low, high) = bytes.split_at_mut(MEMORY_SIZE.into());
        self.guest.memory.read_slice(low, GuestAddress(0)).unwrap();
        self.guest.memory.read_slice(high, GuestAddress(HIGH_MEMORY)).unwrap();
        bytes
    }

    /// Sets what [`FuzzBoard::memory`] returned.
    pub(super) fn set_memory(&self, bytes: &[u8]) {
        let (low, high) = bytes.split_at_checked(MEMORY_SIZE.into()).unwrap_or((bytes, &[]));
        self.guest.memory.write_slice(low, GuestAddress(0)).unwrap();
        self.guest.memory.write_slice(high, GuestAddress(HIGH_MEMORY)).unwrap();
    }

    /// Fills memory with zeros, and the read-only part with a pattern.
    pub(super) fn clear_memory(&self) {
        static ZEROS: [u8; MEMORY_SIZE as usize] = [0; MEMORY_SIZE as usize];
        self.set_memory(&ZEROS);
        let high = ZEROS.get(..HIGH_MEMORY_SIZE.into()).unwrap();
        self.guest.memory.write_slice(high, GuestAddress(HIGH_MEMORY)).unwrap();
        self.guest.memory.write_slice(&[READ_ONLY_PATTERN; READ_ONLY_SIZE], GuestAddress(READ_ONLY)).unwrap();
    }

    /// Checks that nobody wrote to the image or to read-only memory.
    pub(super) fn check_unchanged(&self) {
        let mut page = [0; READ_ONLY_SIZE];
        self.guest.memory.read_slice(&mut page, GuestAddress(READ_ONLY)).unwrap();
        assert!(page == [READ_ONLY_PATTERN; READ_ONLY_SIZE], "a write to read-only memory");
        let mut image = vec![0; self.image_bytes.len()];
        self.image.read_exact_at(&mut image, 0).unwrap();
        assert!(image == self.image_bytes, "a write to the image");
    }
}

/// Content of the read-only memory.
const READ_ONLY_PATTERN: u8 = 0x0a;

/// Disk of a board.
pub(super) struct BoardDisk(String);

impl BoardDisk {
    pub(super) fn device(&self, access: BlockAccess) -> VirtioSpec {
        VirtioSpec::Block(BlockSpec { image: self.0.as_str().into(), access })
    }
}

/// Returns all devices of a PC, and virtio devices.
pub(super) fn all_devices(virtio: Vec<VirtioSpec>, kvm_testdev: bool) -> DeviceSpecs {
    let file = |name: &str, bytes: &[u8]| FwCfgFile { name: name.to_owned(), bytes: bytes.into() };
    let files = vec![file("opt/a", b"first"), file("opt/b", b"")];
    DeviceSpecs {
        // The default ports overlap those of the configuration device.
        hypercall: Some(HypercallSpec { at: BusAddress::Port(Port(0x800)), host_addresses: false }),
        platform: PlatformSpec { kvm_testdev, fw_cfg: Some(FwCfgSpec { files }), ..PlatformSpec::pc() },
        virtio,
        ..DeviceSpecs::default()
    }
}

/// Guest whose virtual addresses are physical ones, up to page 8. The next page is mapped and has no memory.
pub(super) struct FuzzGuest {
    pub(super) memory: GuestMemory,
    exits: ExitCounts,
}

impl GuestMemoryAccess for FuzzGuest {
    fn translate(&self, address: Gva) -> Option<Gpa> {
        (address.0 <= u64::from(MEMORY_SIZE) + 0xfff).then_some(Gpa(address.0))
    }

    fn read_physical(&self, address: Gpa, data: &mut [u8]) -> Option<()> {
        self.memory.read_slice(data, address.into()).ok()
    }

    fn write_physical(&self, address: Gpa, data: &[u8]) -> Option<()> {
        let range = GpaRange::new(address, u64::try_from(data.len()).ok()?)?;
        if range.overlaps(GpaRange::new(Gpa(READ_ONLY), PAGE_SIZE)?) {
            return None;
        }
        self.memory.write_slice(data, address.into()).ok()
    }
}

impl Guest for FuzzGuest {
    fn exits(&self) -> &ExitCounts {
        &self.exits
    }
}

/// Number of bytes that the console's input has in all.
const INPUT_SIZE: usize = 300;

/// Console that gives out the bytes 0, 1, 2 and so on, at most five at once, and discards output. Clones share the position.
#[derive(Debug, Clone, Default)]
pub(super) struct FuzzConsole(Arc<Mutex<usize>>);

impl FuzzConsole {
    /// Goes to a position in the input.
    pub(super) fn set_position(&self, position: usize) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = position;
    }

    /// Returns the position in the input.
    pub(super) fn position(&self) -> usize {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes to the end of the input.
    pub(super) fn end(&self) {
        self.set_position(INPUT_SIZE);
    }

    /// Returns the bytes that a poll of `room` bytes gets at the present position.
    pub(super) fn next(&self, room: usize) -> Vec<u8> {
        let position = self.position();
        let count = room.min(5).min(INPUT_SIZE.saturating_sub(position));
        (position..).take(count).map(|at| at.to_le_bytes()[0]).collect()
    }
}

impl Input for FuzzConsole {
    fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let next = self.next(buffer.len());
        for (to, from) in buffer.iter_mut().zip(&next) {
            *to = *from;
        }
        self.set_position(self.position() + next.len());
        Ok(next.len())
    }

    fn has_ended(&self) -> bool {
        self.position() >= INPUT_SIZE
    }
}

impl io::Write for FuzzConsole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
