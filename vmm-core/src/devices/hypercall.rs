//! Hypercall registers: print, count exits, get arguments, translate addresses, exit.
//!
//! 64 bytes of registers, used with IN and OUT (or as MMIO). All but the first take 32 bits. `guests/include/vmm.h` and
//! the crate `guests/vmm-guest` are the guest's side of this table.
//!
//! | offset | access | register | meaning |
//! |---|---|---|---|
//! | 0x00 | write 8 | `PRINT_BYTE` | print one byte |
//! | 0x04 | write 32 | `PRINT_NUMBER` | print the number in decimal |
//! | 0x08 | write 32 | `ADDRESS_HIGH` | upper half of the addresses that follow; kept until changed, 0 at the start |
//! | 0x0c | write 32 | `PRINT_STRING` | print the NUL-terminated string at this virtual address, at most 64 KiB |
//! | 0x10 | read 32 | `EXIT_COUNT` | exits so far, this one included (lower 32 bits) |
//! | 0x14 | write 32 | `LENGTH` | size of the guest's buffer for the next two |
//! | 0x18 | write 32 | `EXIT_STATS` | write the exits by type as text, NUL-terminated, to the buffer at this virtual address |
//! | 0x1c | write 32 | `ARGUMENTS` | write the arguments there, each NUL-terminated, then one more NUL |
//! | 0x20 | write 32 | `TRANSLATE` | translate this virtual address |
//! | 0x24 | read 32 | `RESULT_LOW` | the physical address, or the number of bytes written: lower half |
//! | 0x28 | read 32 | `RESULT_HIGH` | upper half |
//! | 0x2c | read 32 | `STATUS` | result of the last call: see [`HypercallStatus`] |
//! | 0x30 | read 32 | `HOST_LOW` | host virtual address of the last translation, for display only: lower half. No register by default |
//! | 0x34 | read 32 | `HOST_HIGH` | upper half |
//! | 0x38 | write 32 | `EXIT` | end the run with this code |
//! | 0x3c | read 32 | `SIGNATURE` | 0x484d4d56, "VMMH" |
//!
//! `HOST_LOW` and `HOST_HIGH` are there only on request (`devices.hypercall.host-addresses` of a configuration), since a guest
//! that attacks this process gains by knowing its addresses. Without it a read of them gives the status
//! [`HypercallStatus::BadRegister`] and ones.
//!
//! Every pointer is translated page by page, with supervisor rights, and checked. An invalid one has no effect but an error
//! status. A write that reaches an unmapped page may have written the bytes before it.

use std::fmt;
use std::io::{self, Write};

use kvm_sys_wrap::{Gpa, Gva};
use serde::{Deserialize, Serialize};

use crate::PAGE_SIZE;
use crate::Port;
use crate::devices::console::Output;
use crate::devices::device::{
    Action, Device, Guest, StateMismatch, from_bytes, read_virtual, to_bytes, write_virtual,
};
use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::spec::BusAddress;

/// Declaration of the device.
pub(super) const DEVICE: DeviceInfo = DeviceInfo {
    name: "hypercall",
    title: "the hypercall device",
    location: DeviceLocation::Movable(BusAddress::Port(Port(0x500))),
    length: 64,
    irqs: &[],
    purpose: "print, count exits, translate addresses, exit",
};

const SIGNATURE: u32 = u32::from_le_bytes(*b"VMMH");
const MAX_STRING_LENGTH: usize = 64 << 10;

/// Result of the last hypercall, as the guest reads it from `STATUS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[repr(u32)]
pub enum HypercallStatus {
    /// The hypercall succeeded.
    #[default]
    Ok = 0,
    /// The address in the hypercall is not mapped to memory.
    BadAddress = 1,
    /// The buffer is too small: the text was cut, and is still NUL-terminated if there was room for one byte.
    BufferTooSmall = 2,
    /// The string has no NUL within 64 KiB.
    NoTerminator = 3,
    /// The offset is no register, the width is wrong, or the guest may not read host addresses.
    BadRegister = 4,
}

/// Host addresses of guest memory, for the `HOST` registers.
pub trait HostAddresses: fmt::Debug + Send {
    /// Returns the host's virtual address of a guest-physical one; `None` where no memory is. To show, not to use.
    fn host_address(&self, address: Gpa) -> Option<u64>;
}

/// Hypercall registers, by which a guest prints text, ends its run, and reads arguments and exit counts.
#[derive(Debug)]
pub struct Hypercall {
    output: Output,
    host: Box<dyn HostAddresses>,
    /// True if the `HOST` registers are there.
    shows_host: bool,
    /// Arguments, each NUL-terminated, then one more NUL.
    arguments: Vec<u8>,
    registers: Registers,
}

/// State that the guest has written and can read.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Registers {
    address_high: u32,
    length: u32,
    result: u64,
    host: u64,
    status: HypercallStatus,
}

impl Hypercall {
    /// Creates registers that print to `output` and hand out `arguments`. `host` knows which guest-physical addresses are
    /// memory.
    #[must_use]
    pub fn new(output: Output, arguments: &[String], host: Box<dyn HostAddresses>) -> Self {
        let mut text: Vec<u8> =
            arguments.iter().flat_map(|argument| argument.bytes().chain(std::iter::once(0))).collect();
        text.push(0);
        Self { output, host, shows_host: false, arguments: text, registers: Registers::default() }
    }

    /// Sets whether the guest can read host addresses. Default: no.
    #[must_use]
    pub fn with_host_addresses(mut self, shown: bool) -> Self {
        self.shows_host = shown;
        self
    }

    fn address(&self, low: u32) -> Gva {
        Gva(u64::from(self.registers.address_high) << 32 | u64::from(low))
    }

    /// Prints a NUL-terminated string. Without a NUL nothing is printed.
    fn print_string(&mut self, start: Gva, guest: &dyn Guest) -> io::Result<HypercallStatus> {
        let (mut text, mut at) = (Vec::new(), start);
        while text.len() < MAX_STRING_LENGTH {
            // Up to the end of the page: the next one may not be mapped.
            let in_page = PAGE_SIZE - at.0 % PAGE_SIZE;
            let mut piece =
                vec![0; usize::try_from(in_page).unwrap_or(1).min(MAX_STRING_LENGTH - text.len())];
            if read_virtual(guest, at, &mut piece).is_none() {
                return Ok(HypercallStatus::BadAddress);
            }
            if let Some(end) = piece.iter().position(|byte| *byte == 0) {
                text.extend(piece.drain(..end));
                self.output.write_all(&text)?;
                return Ok(HypercallStatus::Ok);
            }
            text.append(&mut piece);
            match at.checked_add(in_page) {
                Some(next) => at = next,
                None => return Ok(HypercallStatus::BadAddress),
            }
        }
        Ok(HypercallStatus::NoTerminator)
    }

    /// Writes NUL-terminated text to the guest's buffer, cut to its size.
    fn write_string(&mut self, start: Gva, text: &[u8], guest: &dyn Guest) -> HypercallStatus {
        let room = usize::try_from(self.registers.length).unwrap_or(usize::MAX).min(text.len());
        let cut = room < text.len();
        let mut given = text.get(..room).unwrap_or_default().to_vec();
        if let Some(last) = given.last_mut() {
            *last = 0;
        }
        self.registers.result = 0;
        if write_virtual(guest, start, &given).is_none() {
            return HypercallStatus::BadAddress;
        }
        self.registers.result = u64::try_from(room).unwrap_or(u64::MAX);
        if cut { HypercallStatus::BufferTooSmall } else { HypercallStatus::Ok }
    }

    fn translate(&mut self, address: Gva, guest: &dyn Guest) -> HypercallStatus {
        (self.registers.result, self.registers.host) = (0, 0);
        let Some(gpa) = guest.translate(address) else { return HypercallStatus::BadAddress };
        self.registers.result = gpa.0;
        let Some(host) = self.host.host_address(gpa) else { return HypercallStatus::BadAddress };
        self.registers.host = host;
        HypercallStatus::Ok
    }

    /// Executes a 32-bit write. Writes to `ADDRESS_HIGH` and `LENGTH` do not change the status.
    fn call(&mut self, register: u64, value: u32, guest: &dyn Guest) -> io::Result<Action> {
        let address = self.address(value);
        self.registers.status = match register {
            0x04 => {
                write!(self.output, "{value}")?;
                HypercallStatus::Ok
            }
            0x08 => {
                self.registers.address_high = value;
                return Ok(Action::Continue);
            }
            0x0c => self.print_string(address, guest)?,
            0x14 => {
                self.registers.length = value;
                return Ok(Action::Continue);
            }
            0x18 => {
                let text = format!("{}\0", guest.exits());
                self.write_string(address, text.as_bytes(), guest)
            }
            0x1c => {
                let arguments = std::mem::take(&mut self.arguments);
                let status = self.write_string(address, &arguments, guest);
                self.arguments = arguments;
                status
            }
            0x20 => self.translate(address, guest),
            0x38 => return Ok(Action::Exit(value)),
            _ => HypercallStatus::BadRegister,
        };
        Ok(Action::Continue)
    }

    fn value(&mut self, register: u64, guest: &dyn Guest) -> Option<u32> {
        let [low, high] = halves(self.registers.result);
        let [host_low, host_high] = halves(self.registers.host);
        Some(match register {
            0x10 => halves(guest.exits().total())[0],
            0x24 => low,
            0x28 => high,
            0x2c => self.registers.status as u32,
            0x30 if self.shows_host => host_low,
            0x34 if self.shows_host => host_high,
            0x3c => SIGNATURE,
            _ => return None,
        })
    }
}

impl Device for Hypercall {
    fn length(&self) -> u64 {
        DEVICE.length
    }

    fn read(&mut self, offset: u64, data: &mut [u8], guest: &dyn Guest) -> io::Result<Action> {
        let value = if data.len() == 4 { self.value(offset, guest) } else { None };
        match value {
            Some(value) => data.copy_from_slice(&value.to_le_bytes()),
            None => self.registers.status = HypercallStatus::BadRegister,
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], guest: &dyn Guest) -> io::Result<Action> {
        match (offset, data) {
            (0x00, [byte]) => self.output.write_all(&[*byte])?,
            (register, [a, b, c, d]) if register != 0 => {
                return self.call(register, u32::from_le_bytes([*a, *b, *c, *d]), guest);
            }
            _ => self.registers.status = HypercallStatus::BadRegister,
        }
        Ok(Action::Continue)
    }

    fn save(&self) -> Option<Vec<u8>> {
        to_bytes(&self.registers)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        self.registers = from_bytes(state)?;
        Ok(())
    }
}

/// Returns lower and upper half.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests;
