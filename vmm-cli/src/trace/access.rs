//! Port and MMIO accesses, and the devices that answer them.

use std::ops::RangeInclusive;

use vmm_core::kvm_sys_wrap::{Exit, IoBytes};
use vmm_core::machine::Machine;
use vmm_core::spec::BusAddress;
use vmm_core::{Gpa, Port};

use super::event::AccessEvent;

/// Access of an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExitAccess {
    pub(crate) at: BusAddress,
    pub(crate) write: bool,
    /// Bytes of one item.
    pub(crate) width: usize,
    /// Number of items; more than one only for string instructions.
    pub(crate) count: u64,
    /// Bytes that were written; empty for a read.
    pub(crate) bytes: IoBytes,
}

impl ExitAccess {
    /// Returns the access of an exit; `None` for other exits.
    pub(crate) fn from_exit(exit: &Exit) -> Option<Self> {
        Some(if let Exit::PioOut { port, width, count, data } = exit {
            let (at, count) = (BusAddress::Port(*port), (*count).into());
            Self { at, write: true, width: (*width).into(), count, bytes: data.clone() }
        } else if let Exit::PioIn { port, width, count } = exit {
            let (at, count) = (BusAddress::Port(*port), (*count).into());
            Self { at, write: false, width: (*width).into(), count, bytes: IoBytes::new(&[]) }
        } else if let Exit::MmioWrite { address, data } = exit {
            let at = BusAddress::Mmio(*address);
            Self { at, write: true, width: data.len(), count: 1, bytes: data.clone() }
        } else if let Exit::MmioRead { address, width } = exit {
            let at = BusAddress::Mmio(*address);
            Self { at, write: false, width: (*width).into(), count: 1, bytes: IoBytes::new(&[]) }
        } else {
            return None;
        })
    }

    /// Returns the address space and the address.
    pub(crate) fn space_and_address(&self) -> (&'static str, u64) {
        match self.at {
            BusAddress::Port(Port(port)) => ("port", port.into()),
            BusAddress::Mmio(Gpa(address)) => ("address", address),
        }
    }

    /// Returns the event for traces.
    pub(super) fn event(self, device: Option<&str>) -> AccessEvent {
        let (space, address) = self.space_and_address();
        let Self { write, width, count, bytes, .. } = self;
        let (device, bytes) = (device.map(str::to_owned), bytes.to_vec());
        AccessEvent { space, address, device, write, width, count, bytes }
    }
}

/// Names of the devices of a machine, by address.
pub(super) struct DeviceNames {
    ports: Vec<(RangeInclusive<u64>, String)>,
    mmio: Vec<(RangeInclusive<u64>, String)>,
}

impl DeviceNames {
    pub(super) fn from_machine(machine: &Machine) -> Self {
        let (ports, mmio) = machine.buses();
        let [ports, mmio] = [ports, mmio]
            .map(|bus| bus.devices().map(|(range, name)| (range, name.to_owned())).collect::<Vec<_>>());
        Self { ports, mmio }
    }

    /// Returns the name of the device at an address.
    pub(super) fn name_at(&self, at: BusAddress) -> Option<&str> {
        let (devices, address) = match at {
            BusAddress::Port(Port(port)) => (&self.ports, port.into()),
            BusAddress::Mmio(Gpa(address)) => (&self.mmio, address),
        };
        devices.iter().find(|(range, _)| range.contains(&address)).map(|(_, name)| name.as_str())
    }
}
