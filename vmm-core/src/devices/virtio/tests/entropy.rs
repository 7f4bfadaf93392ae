//! Random numbers.

use super::super::entropy::VirtioEntropy;
use super::driver::{Driver, WRITE};

#[test]
fn buffers_are_filled_up_to_a_limit() {
    let mut driver = Driver::started(VirtioEntropy);
    driver.send(0, &[(0x4_0000, 300, WRITE), (0x5_0000, 33, WRITE)]);
    assert_eq!(driver.used(0), [(0, 333)]);
    let (first, second) = (driver.bytes(0x4_0000, 301), driver.bytes(0x5_0000, 34));
    // That 32 random bytes are all zero happens once in 2^256 runs.
    assert!(first[268..300].iter().any(|byte| *byte != 0) && second[..33].iter().any(|byte| *byte != 0));
    assert_eq!((first[300], second[33]), (0, 0), "and nothing behind them");
    driver.send(0, &[(0x1_0000, 0x4_0000, WRITE)]);
    assert_eq!(driver.used(0)[1], (2, 0x1_0000));
    assert_eq!(driver.bytes(0x2_0000, 16), [0; 16]);
}

#[test]
fn a_buffer_to_read_is_no_request() {
    let mut driver = Driver::started(VirtioEntropy);
    driver.send(0, &[(0x4_0000, 16, 0)]);
    driver.assert_broken("the chain of descriptor 0 is no request: it has no room for an answer");
}
