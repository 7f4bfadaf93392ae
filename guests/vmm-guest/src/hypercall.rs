//! The hypercall registers: sixteen ports, each 32 bits wide but the first, at [`port::HYPERCALL`].
//!
//! A register that takes an address takes a guest-virtual one; the machine translates it by the guest's page tables and
//! checks it. A wild pointer costs an [`Error`], never more.

use core::ffi::CStr;
use core::fmt;

use crate::port;

/// Offsets of the registers. OUT is guest to machine, IN is machine to guest.
pub mod register {
    /// OUT, 8 bits: print the byte.
    pub const PRINT_BYTE: u16 = 0x00;
    /// OUT: print the number in decimal.
    pub const PRINT_NUMBER: u16 = 0x04;
    /// OUT: upper half of the addresses that follow; kept until changed, 0 at the start.
    pub const ADDRESS_HIGH: u16 = 0x08;
    /// OUT: print the NUL-terminated string at this address, at most 64 KiB.
    pub const PRINT_STRING: u16 = 0x0c;
    /// IN: number of exits so far, this one included, low 32 bits.
    pub const EXIT_COUNT: u16 = 0x10;
    /// OUT: size in bytes of the buffer for the next two.
    pub const LENGTH: u16 = 0x14;
    /// OUT: write the exits by type, as text with a NUL, to the buffer at this address.
    pub const EXIT_STATS: u16 = 0x18;
    /// OUT: write the arguments, each with a NUL, then one more NUL, to the buffer at this address.
    pub const ARGUMENTS: u16 = 0x1c;
    /// OUT: translate this address.
    pub const TRANSLATE: u16 = 0x20;
    /// IN: physical address of the last translation, or bytes written by the last text call.
    pub const RESULT_LOW: u16 = 0x24;
    /// IN: its upper half.
    pub const RESULT_HIGH: u16 = 0x28;
    /// IN: how the last call went; see [`super::Error`].
    pub const STATUS: u16 = 0x2c;
    /// IN: address of the last translation in the monitor's own process, with `host-addresses = true`.
    pub const HOST_LOW: u16 = 0x30;
    /// IN: its upper half.
    pub const HOST_HIGH: u16 = 0x34;
    /// OUT: end the run with this code.
    pub const EXIT: u16 = 0x38;
    /// IN: [`super::SIGNATURE`], if the device is there.
    pub const SIGNATURE: u16 = 0x3c;
}

/// What the signature register reads as: "VMMH" in memory order.
pub const SIGNATURE: u32 = 0x484d_4d56;

/// Why a call did not do what it should: the values of the status register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// 1: the address is not mapped, or no memory is there.
    BadAddress,
    /// 2: the text did not fit; it was cut and still ends with a NUL.
    TooSmall,
    /// 3: no NUL within 64 KiB.
    NoNul,
    /// 4: wrong width, or no such register.
    BadRegister,
    /// Any other value: not documented, or there is no device.
    Unknown(u32),
}

impl Error {
    /// The result that a status stands for; 0 is success.
    pub const fn check(status: u32) -> Result<(), Self> {
        match status {
            0 => Ok(()),
            1 => Err(Self::BadAddress),
            2 => Err(Self::TooSmall),
            3 => Err(Self::NoNul),
            4 => Err(Self::BadRegister),
            other => Err(Self::Unknown(other)),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadAddress => f.write_str("no memory at this address"),
            Self::TooSmall => f.write_str("the buffer is too small"),
            Self::NoNul => f.write_str("no NUL within 64 KiB"),
            Self::BadRegister => f.write_str("wrong width or no such register"),
            Self::Unknown(status) => write!(f, "unknown status {status:#x}"),
        }
    }
}

impl core::error::Error for Error {}

/// Whether the device is there.
#[must_use]
pub fn is_present() -> bool {
    read(register::SIGNATURE) == SIGNATURE
}

/// Prints one byte.
pub fn print_byte(byte: u8) {
    // SAFETY: the register prints the byte and does nothing else.
    unsafe { port::out8(port::HYPERCALL + register::PRINT_BYTE, byte) };
}

/// Prints a number in decimal.
pub fn print_number(number: u32) {
    write(register::PRINT_NUMBER, number);
}

/// Prints a text, in one exit to the monitor.
pub fn print_string(text: &CStr) -> Result<(), Error> {
    call(register::PRINT_STRING, text.as_ptr().expose_provenance() as u64)
}

/// The number of exits so far, this one included; the low 32 bits.
#[must_use]
pub fn exit_count() -> u32 {
    read(register::EXIT_COUNT)
}

/// The number of exits by type, as text.
pub fn exit_stats(buffer: &mut [u8]) -> Result<&CStr, Error> {
    text_call(register::EXIT_STATS, buffer)?;
    CStr::from_bytes_until_nul(buffer).map_err(|_| Error::NoNul)
}

/// The arguments that the configuration gives to the guest.
pub fn arguments(buffer: &mut [u8]) -> Result<Arguments<'_>, Error> {
    text_call(register::ARGUMENTS, buffer)?;
    Ok(Arguments { rest: buffer })
}

/// The physical address behind a virtual one.
pub fn translate(address: u64) -> Result<u64, Error> {
    call(register::TRANSLATE, address)?;
    Ok(read64(register::RESULT_LOW, register::RESULT_HIGH))
}

/// Where the byte of the last translation lies in the monitor's own address space. All ones unless the configuration has
/// `devices.hypercall.host-addresses = true`.
#[must_use]
pub fn host_address() -> u64 {
    read64(register::HOST_LOW, register::HOST_HIGH)
}

/// Ends the run, in every ring. Codes up to 99 become the exit status of `vmm-cli run`.
pub fn exit(code: u32) -> ! {
    loop {
        write(register::EXIT, code);
    }
}

/// The arguments in a buffer: strings up to the first empty one.
#[derive(Debug, Clone)]
pub struct Arguments<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Arguments<'a> {
    type Item = &'a CStr;

    fn next(&mut self) -> Option<&'a CStr> {
        let argument = CStr::from_bytes_until_nul(self.rest).ok().filter(|text| !text.is_empty())?;
        self.rest = self.rest.get(argument.count_bytes() + 1..)?;
        Some(argument)
    }
}

/// Has the machine fill `buffer`.
fn text_call(register: u16, buffer: &mut [u8]) -> Result<(), Error> {
    // A buffer of 4 GiB and more is used up to there.
    write(register::LENGTH, u32::try_from(buffer.len()).unwrap_or(u32::MAX));
    call(register, buffer.as_mut_ptr().expose_provenance() as u64)
}

/// Hands an address to a register and asks for the status.
fn call(register: u16, address: u64) -> Result<(), Error> {
    write(register::ADDRESS_HIGH, high(address));
    write(register, low(address));
    Error::check(read(register::STATUS))
}

fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn write(register: u16, value: u32) {
    // SAFETY: the device writes to memory only in text_call, and there to a buffer that is borrowed mutably. The asm
    // block is not `nomem`, so the compiler expects its memory to change.
    unsafe { port::out32(port::HYPERCALL + register, value) };
}

fn read(register: u16) -> u32 {
    // SAFETY: reading any of the registers changes nothing.
    unsafe { port::in32(port::HYPERCALL + register) }
}

fn read64(low: u16, high: u16) -> u64 {
    u64::from(read(high)) << 32 | u64::from(read(low))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    fn collect(buffer: &[u8]) -> Vec<&str> {
        Arguments { rest: buffer }.map(|argument| argument.to_str().unwrap()).collect()
    }

    #[test]
    fn arguments_end_at_the_first_empty_one() {
        assert_eq!(collect(b"one\0two words\0\0rest\0"), ["one", "two words"]);
        assert_eq!(collect(b"\0"), [""; 0]);
    }

    #[test]
    fn arguments_survive_a_buffer_without_an_end() {
        assert_eq!(collect(b"one\0tw"), ["one"]);
        assert_eq!(collect(b""), [""; 0]);
    }

    #[test]
    fn the_signature_reads_as_text() {
        assert_eq!(&SIGNATURE.to_le_bytes(), b"VMMH");
    }

    /// The value that the C header gives to a name.
    fn in_header(name: &str) -> u32 {
        let header = include_str!("../../include/vmm.h");
        let mut words = header.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = words.find(|words| words.starts_with(&["#define", name])).unwrap();
        line[2]
            .strip_prefix("0x")
            .map_or_else(|| line[2].parse(), |hex| u32::from_str_radix(hex, 16))
            .unwrap()
    }

    #[test]
    fn the_c_header_says_the_same() {
        for (name, value) in [
            ("VMM_DEBUG_CONSOLE", port::DEBUG_CONSOLE),
            ("VMM_COM1", port::COM1),
            ("VMM_DEBUG_EXIT", port::DEBUG_EXIT),
            ("VMM_HYPERCALL", port::HYPERCALL),
            ("VMM_PRINT_BYTE", register::PRINT_BYTE),
            ("VMM_PRINT_NUMBER", register::PRINT_NUMBER),
            ("VMM_ADDRESS_HIGH", register::ADDRESS_HIGH),
            ("VMM_PRINT_STRING", register::PRINT_STRING),
            ("VMM_EXIT_COUNT", register::EXIT_COUNT),
            ("VMM_LENGTH", register::LENGTH),
            ("VMM_EXIT_STATS", register::EXIT_STATS),
            ("VMM_ARGUMENTS", register::ARGUMENTS),
            ("VMM_TRANSLATE", register::TRANSLATE),
            ("VMM_RESULT_LOW", register::RESULT_LOW),
            ("VMM_RESULT_HIGH", register::RESULT_HIGH),
            ("VMM_STATUS", register::STATUS),
            ("VMM_HOST_LOW", register::HOST_LOW),
            ("VMM_HOST_HIGH", register::HOST_HIGH),
            ("VMM_EXIT", register::EXIT),
            ("VMM_SIGNATURE", register::SIGNATURE),
        ] {
            assert_eq!(in_header(name), u32::from(value), "{name}");
        }
        assert_eq!(in_header("VMM_SIGNATURE_VALUE"), SIGNATURE);
        assert_eq!(Error::check(in_header("VMM_OK")), Ok(()));
        assert_eq!(Error::check(in_header("VMM_BAD_ADDRESS")), Err(Error::BadAddress));
        assert_eq!(Error::check(in_header("VMM_TOO_SMALL")), Err(Error::TooSmall));
        assert_eq!(Error::check(in_header("VMM_NO_NUL")), Err(Error::NoNul));
        assert_eq!(Error::check(in_header("VMM_BAD_REGISTER")), Err(Error::BadRegister));
    }

    #[test]
    fn every_status_has_its_error() {
        assert_eq!(Error::check(0), Ok(()));
        assert_eq!(Error::check(1), Err(Error::BadAddress));
        assert_eq!(Error::check(2), Err(Error::TooSmall));
        assert_eq!(Error::check(3), Err(Error::NoNul));
        assert_eq!(Error::check(4), Err(Error::BadRegister));
        assert_eq!(Error::check(u32::MAX), Err(Error::Unknown(u32::MAX)));
    }
}
