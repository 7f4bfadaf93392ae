//! The PICs: cases of the data sheet, laws, and the kernel's chips.

mod data_sheet;
mod kvm;
mod properties;

use super::PicPair;

/// Vectors that the tests set.
const MASTER: u8 = 0x20;
const SLAVE: u8 = 0x28;

/// Writes values to ports.
fn write(pics: &mut PicPair, writes: &[(u16, u8)]) {
    for (port, value) in writes {
        pics.write(*port, *value);
    }
}

/// Returns the writes that initialize both chips, with ICW4 of each.
fn init(master_icw4: u8, slave_icw4: u8) -> [(u16, u8); 8] {
    [
        (0x20, 0x11),
        (0x21, MASTER),
        (0x21, 0x04),
        (0x21, master_icw4),
        (0xa0, 0x11),
        (0xa1, SLAVE),
        (0xa1, 0x02),
        (0xa1, slave_icw4),
    ]
}

/// Returns chips that are initialized.
fn pics() -> PicPair {
    let mut pics = PicPair::new();
    write(&mut pics, &init(1, 1));
    pics
}

/// Sends edges to inputs.
fn pulse(pics: &mut PicPair, inputs: &[u8]) {
    for irq in inputs {
        pics.set_input(*irq, true);
        pics.set_input(*irq, false);
    }
}

/// Acknowledges all requests that the CPU sees, and returns their vectors.
fn vectors(pics: &mut PicPair) -> Vec<u8> {
    std::iter::from_fn(|| pics.intr().then(|| pics.acknowledge())).take(100).collect()
}
