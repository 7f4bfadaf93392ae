//! Expiry of the timer, with times that are long against the delays of a busy host.

use std::time::Duration;

use super::*;

/// Divide configuration: by 16, so that 1,000,000 counts are 16 ms.
const BY_16: u32 = 0b0011;
const COUNT: u32 = 20_000_000;
/// Vector of the timer.
const VECTOR: u32 = 0x51;
/// Time in which a count of [`COUNT`] expires: 320 ms, and as much for delays.
const EXPIRY: Duration = Duration::from_millis(640);

fn wait(both: &mut Both, time: Duration) {
    both.kernel.wait(0, time);
    let now = both.now();
    both.own.advance(now);
}

/// Starts the timer in a mode, and returns the first counts.
fn start(mode: u32) -> Both {
    let mut both = Both::new(1);
    both.write(0, APIC + SVR, 0x1ff);
    both.write(0, APIC + DIVIDE, BY_16);
    both.write(0, APIC + LVT_TIMER, mode << 17 | VECTOR);
    both.write(0, APIC + INITIAL_COUNT, COUNT);
    both
}

fn check_count(both: &mut Both) -> Compared<u32> {
    let counts = both.read(0, APIC + CURRENT_COUNT);
    both.check_count(counts).unwrap();
    counts
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_one_shot_timer_counts_and_expires_as_the_kernels_does() {
    let mut both = start(0);
    check_count(&mut both);
    assert_eq!(both.take(0), (None, None));
    wait(&mut both, EXPIRY);
    assert_eq!(both.take(0), (Some(0x51), Some(0x51)));
    assert_eq!(both.read(0, APIC + CURRENT_COUNT), (0, 0));
    assert_eq!(both.read(0, APIC + INITIAL_COUNT), (COUNT, COUNT));
    both.write(0, APIC + EOI, 0);
    wait(&mut both, EXPIRY);
    assert_eq!(both.take(0), (None, None), "once");
    // A masked timer counts all the same.
    both.write(0, APIC + LVT_TIMER, 1 << 16 | VECTOR);
    both.write(0, APIC + INITIAL_COUNT, COUNT);
    check_count(&mut both);
    wait(&mut both, EXPIRY);
    assert_eq!((both.take(0), both.read(0, APIC + CURRENT_COUNT)), ((None, None), (0, 0)));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_periodic_timer_expires_again_and_keeps_its_phase_as_the_kernels_does() {
    let mut both = start(1);
    // As long as the count of the start is known, the periods are too.
    for _ in 0..3 {
        wait(&mut both, EXPIRY);
        assert_eq!(both.take(0), (Some(0x51), Some(0x51)));
        both.write(0, APIC + EOI, 0);
        let (kernel, own) = both.read(0, APIC + CURRENT_COUNT);
        // Beside the end of a period the counts are apart by one.
        let apart = kernel.abs_diff(own);
        assert!(u64::from(apart.min(COUNT - apart)) <= both.uncertainty + 2, "{kernel} and {own}");
    }
    both.write(0, APIC + INITIAL_COUNT, 0);
    // What expired before the write may wait.
    both.kernel.wait(0, Duration::ZERO);
    let _ = both.take(0);
    both.write(0, APIC + EOI, 0);
    wait(&mut both, EXPIRY);
    assert_eq!((both.take(0), both.read(0, APIC + CURRENT_COUNT)), ((None, None), (0, 0)));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_new_divisor_changes_the_rate_as_the_kernels_does() {
    let mut both = start(0);
    for divide in [0b1010, 0b0000, 0b1011, 0b0011] {
        both.write(0, APIC + DIVIDE, divide);
        check_count(&mut both);
        check_count(&mut both);
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn modes_turn_the_timer_off_as_the_kernels_do() {
    let mut both = start(0);
    // With a deadline there is no count.
    both.write(0, APIC + LVT_TIMER, 2 << 17 | VECTOR);
    assert_eq!(both.read(0, APIC + LVT_TIMER), (0x4_0051, 0x4_0051));
    assert_eq!(both.read(0, APIC + INITIAL_COUNT), (0, 0));
    both.write(0, APIC + INITIAL_COUNT, COUNT);
    assert_eq!((both.read(0, APIC + INITIAL_COUNT), both.read(0, APIC + CURRENT_COUNT)), ((0, 0), (0, 0)));
    both.write(0, APIC + LVT_TIMER, VECTOR);
    wait(&mut both, EXPIRY);
    assert_eq!(both.take(0), (None, None));
    // Between one-shot and periodic it runs on.
    both.write(0, APIC + INITIAL_COUNT, COUNT);
    both.write(0, APIC + LVT_TIMER, 1 << 17 | VECTOR);
    check_count(&mut both);
    wait(&mut both, EXPIRY);
    assert_eq!(both.take(0), (Some(0x51), Some(0x51)));
}
