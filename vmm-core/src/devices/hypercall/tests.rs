//! Each hypercall register, with good and with wild pointers.

use super::*;
use crate::cpu::exit_counts::ExitKind;
use crate::devices::device::tests::TestGuest;
use crate::devices::test_doubles::CapturedOutput;

/// Host addresses of the memory of a [`TestGuest`].
#[derive(Debug)]
struct TestHost;

impl HostAddresses for TestHost {
    fn host_address(&self, address: Gpa) -> Option<u64> {
        TestGuest::index(address, 1).map(|_| 0x7f00_0000_0000 + address.0)
    }
}

struct Bench {
    device: Hypercall,
    printed: CapturedOutput,
    guest: TestGuest,
}

impl Bench {
    fn new(arguments: &[&str]) -> Self {
        let printed = CapturedOutput::default();
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        let device = Hypercall::new(Output::new(printed.clone()), &arguments, Box::new(TestHost));
        let device = device.with_host_addresses(true);
        Self { device, printed, guest: TestGuest::new() }
    }

    fn write(&mut self, register: u64, value: u32) -> Action {
        self.device.write(register, &value.to_le_bytes(), &self.guest).unwrap()
    }

    fn read(&mut self, register: u64) -> u32 {
        let mut data = [0xff; 4];
        self.device.read(register, &mut data, &self.guest).unwrap();
        u32::from_le_bytes(data)
    }

    fn status(&mut self) -> u32 {
        self.read(0x2c)
    }

    fn poke(&self, at: usize, bytes: &[u8]) {
        self.guest.memory.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn peek(&self, at: usize, length: usize) -> Vec<u8> {
        self.guest.memory.borrow()[at..at + length].to_vec()
    }
}

#[test]
fn bytes_numbers_and_strings_are_printed() {
    let mut bench = Bench::new(&[]);
    bench.device.write(0, b"#", &bench.guest).unwrap();
    bench.write(0x04, u32::MAX);
    bench.poke(0xffd, b" over two pages\0");
    bench.write(0x0c, 0x1ffd);
    assert_eq!(bench.status(), HypercallStatus::Ok as u32);
    assert_eq!(bench.printed.bytes(), b"#4294967295 over two pages");
}

#[test]
fn wild_strings_give_a_status() {
    let mut bench = Bench::new(&[]);
    bench.write(0x0c, 0x9000);
    assert_eq!(bench.status(), HypercallStatus::BadAddress as u32);
    bench.write(0x0c, 0x7000);
    assert_eq!(bench.status(), HypercallStatus::BadAddress as u32, "mapped, no memory behind it");
    bench.write(0x08, u32::MAX);
    bench.write(0x0c, u32::MAX);
    assert_eq!(bench.status(), HypercallStatus::BadAddress as u32, "the last byte of the address space");
    bench.write(0x08, 0);
    bench.poke(0, &[b'x'; 0x2000]);
    bench.write(0x0c, 0x1000);
    assert_eq!(bench.status(), HypercallStatus::BadAddress as u32, "runs into a page that is not mapped");
    assert_eq!(bench.printed.bytes(), b"");
}

#[test]
fn a_string_that_ends_just_before_an_unmapped_page_is_fine() {
    let mut bench = Bench::new(&[]);
    bench.poke(0x1ffe, b"!\0");
    bench.write(0x0c, 0x2ffe);
    assert_eq!((bench.status(), bench.printed.bytes()), (0, b"!".to_vec()));
}

#[test]
fn exit_counts_are_given_as_number_and_text() {
    let mut bench = Bench::new(&[]);
    for _ in 0..3 {
        bench.guest.counts.record(ExitKind::PioOut);
    }
    assert_eq!(bench.read(0x10), 3);
    bench.write(0x14, 100);
    bench.write(0x18, 0x1000);
    assert_eq!((bench.status(), bench.read(0x24)), (0, 11));
    assert_eq!(bench.peek(0, 11), b"pio-out 3\n\0");
    bench.write(0x14, 4);
    bench.write(0x18, 0x1000);
    assert_eq!((bench.status(), bench.read(0x24)), (HypercallStatus::BufferTooSmall as u32, 4));
    assert_eq!(bench.peek(0, 4), b"pio\0");
    bench.write(0x18, 0x9000);
    assert_eq!((bench.status(), bench.read(0x24)), (HypercallStatus::BadAddress as u32, 0));
    bench.write(0x14, 0);
    bench.write(0x18, 0x9000);
    assert_eq!(bench.status(), HypercallStatus::BufferTooSmall as u32, "no bytes, so no wild write either");
}

#[test]
fn arguments_are_a_list_of_strings() {
    let mut bench = Bench::new(&["one", "two"]);
    bench.write(0x14, 100);
    bench.write(0x1c, 0x2000);
    assert_eq!((bench.status(), bench.read(0x24)), (0, 9));
    assert_eq!(bench.peek(0x1000, 9), b"one\0two\0\0");
}

#[test]
fn translations_show_physical_and_host_address() {
    let mut bench = Bench::new(&[]);
    bench.write(0x20, 0x2010);
    assert_eq!((bench.status(), bench.read(0x24), bench.read(0x28)), (0, 0x3010, 0));
    assert_eq!((bench.read(0x30), bench.read(0x34)), (0x3010, 0x7f00));
    bench.write(0x20, 0x9000);
    assert_eq!((bench.status(), bench.read(0x24), bench.read(0x34)), (1, 0, 0));
    bench.write(0x20, 0x7008);
    assert_eq!(
        (bench.status(), bench.read(0x24), bench.read(0x34)),
        (1, 0xdead_0000, 0),
        "mapped to nothing"
    );
}

#[test]
fn host_addresses_are_not_told_by_default() {
    let mut bench = Bench::new(&[]);
    bench.device = Hypercall::new(Output::new(bench.printed.clone()), &[], Box::new(TestHost));
    bench.write(0x20, 0x2010);
    assert_eq!((bench.status(), bench.read(0x24)), (0, 0x3010));
    for register in [0x30, 0x34] {
        bench.write(0x04, 0);
        assert_eq!((bench.status(), bench.read(register)), (0, u32::MAX));
        assert_eq!(bench.status(), HypercallStatus::BadRegister as u32);
    }
    bench.write(0x20, 0x7008);
    assert_eq!(bench.status(), HypercallStatus::BadAddress as u32, "mapped to nothing");
}

#[test]
fn the_end_has_a_code_and_wrong_uses_a_status() {
    let mut bench = Bench::new(&[]);
    assert_eq!(bench.write(0x38, 300), Action::Exit(300));
    assert_eq!(bench.read(0x3c), 0x484d_4d56);
    for (register, width) in [(0x00, 4), (0x04, 1), (0x10, 4), (0x38, 2), (0x05, 4), (0x40, 4)] {
        bench.write(0x04, 0);
        assert_eq!(bench.status(), 0);
        bench.device.write(register, &vec![0; width], &bench.guest).unwrap();
        assert_eq!(bench.status(), HypercallStatus::BadRegister as u32, "{register:#x} with {width} bytes");
    }
    let mut narrow = [0xff; 2];
    bench.device.read(0x3c, &mut narrow, &bench.guest).unwrap();
    assert_eq!((narrow, bench.status()), ([0xff; 2], HypercallStatus::BadRegister as u32));
}
