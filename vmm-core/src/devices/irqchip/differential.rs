//! Comparison of the local APIC and the IOAPIC with those of the kernel: random programs of register accesses on both.
//!
//! | file | part |
//! |---|---|
//! | `differential.rs` | both sides of a comparison |
//! | `differential/kernel_chips.rs` | the kernel's chips, and a guest that accesses them |
//! | `differential/own_chips.rs` | the chips of this crate, connected as on a machine |
//! | `differential/local_apic.rs` | registers and interrupts of one local APIC in xAPIC mode |
//! | `differential/x2apic.rs` | registers and interrupts of one local APIC in x2APIC mode |
//! | `differential/ipi.rs` | messages between two local APICs |
//! | `differential/ioapic.rs` | IOAPIC with one local APIC |
//! | `differential/timer.rs` | expiry of the timer |
//!
//! Deviations of the kernel's chips (Linux 6.18) from the manuals, which the programs avoid:
//!
//! | subject | kernel | manual, and this crate |
//! |---|---|---|
//! | error status | always 0; vectors below 16 are delivered | SDM vol. 3, 11.5.3: errors, and no delivery |
//! | arbitration priority register | always 0 | 11.6.2.4 |
//! | bits 12 and 14 of the local vector table | keep what is written | 11.5.1: read-only |
//! | reserved bits of the command register | keep what is written | 11.6.1: reserved |
//! | level-triggered message of the command register | sets TMR, and needs "assert" | 11.6.1: edge-triggered |
//! | LINT0 after reset of the first processor | ExtINT, not masked | 11.4.7.1: masked |
//! | reserved bits in x2APIC mode | are ignored in some registers | 11.12.1.3: #GP |
//! | current count | rounded down | 11.5.4: one more during the first tick |
//! | period of the timer | at least 200 us | none |
//! | bits 17 to 55 of a redirection entry | keep what is written | 82093AA, 3.2.4: reserved |
//! | end of an interrupt, on kvm-pvm | when the processor takes it, so that ISR is always empty | 11.8.5: the write of EOI |
//! | bits 0 to 3 of the task priority, on AMD hosts | lost at the next exit, since CR8 is taken for the register | 11.8.3.1: kept |
//! | level-triggered interrupt that no APIC accepts | pending forever, or sent again at the input's next change | remote IRR is set when it is accepted |

mod ioapic;
mod ipi;
mod kernel_chips;
mod local_apic;
mod own_chips;
mod timer;
mod x2apic;

use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use kernel_chips::KernelChips;
use own_chips::OwnChips;

/// Address of the local APIC's registers.
const APIC: u32 = 0xfee0_0000;
/// Address of the IOAPIC's registers.
const IOAPIC: u32 = 0xfec0_0000;

/// Offsets of local APIC registers.
const TPR: u32 = 0x80;
const TPR_MSR: u32 = 0x808;
const PPR: u32 = 0xa0;
const EOI: u32 = 0xb0;
const LDR: u32 = 0xd0;
const DFR: u32 = 0xe0;
const SVR: u32 = 0xf0;
const ICR: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;

/// Answers of the kernel's chips and of this crate's.
type Compared<T> = (T, T);

/// Chips of the kernel and of this crate with the same history.
struct Both {
    kernel: KernelChips,
    own: OwnChips,
    start: Instant,
    /// Nanoseconds by which the timers of the two sides can differ.
    uncertainty: u64,
}

impl Both {
    /// Creates chips for `cpus` processors. LINT0 is masked on both sides.
    fn new(cpus: usize) -> Self {
        let (kernel, own) = (KernelChips::new(cpus), OwnChips::new(cpus));
        let mut both = Self { kernel, own, start: Instant::now(), uncertainty: 0 };
        for cpu in 0..cpus {
            both.write(cpu, APIC + LVT_LINT0, 1 << 16);
        }
        both
    }

    /// Creates chips whose interrupts stay in service until they are ended, also on a host where the kernel ends them at once: there
    /// each one is put back. That does not suit level-triggered ones, whose end the IOAPIC has seen, and timers that have
    /// expired, which `KVM_SET_LAPIC` starts again.
    fn with_interrupts_in_service(cpus: usize) -> Self {
        let mut both = Self::new(cpus);
        both.kernel.restores_in_service = KernelChips::ends_interrupts_at_once();
        both.own.ends_at_once = false;
        both
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap()
    }

    /// Performs an access on the kernel's side, then on the other one with the time in the middle.
    fn at_both<T, U>(
        &mut self,
        kernel: impl FnOnce(&mut KernelChips) -> T,
        own: impl FnOnce(&mut OwnChips, u64) -> U,
    ) -> (T, U) {
        let before = self.now();
        let kernel = kernel(&mut self.kernel);
        let after = self.now();
        self.uncertainty += after - before;
        (kernel, own(&mut self.own, u64::midpoint(before, after)))
    }

    fn read(&mut self, cpu: usize, address: u32) -> Compared<u32> {
        self.at_both(|kernel| kernel.read(cpu, address), |own, now| own.read(cpu, address, now))
    }

    fn write(&mut self, cpu: usize, address: u32, value: u32) {
        let value = if address == APIC + TPR { value & kept_priority() } else { value };
        let kernel = |kernel: &mut KernelChips| kernel.write(cpu, address, value);
        self.at_both(kernel, |own, now| own.write(cpu, address, value, now));
    }

    /// Lets a processor take the next interrupt, if there is one.
    fn take(&mut self, cpu: usize) -> Compared<Option<u8>> {
        self.at_both(|kernel| kernel.take(cpu), |own, now| own.take(cpu, now))
    }

    fn set_line(&mut self, input: u8, level: bool) {
        self.at_both(|kernel| kernel.set_line(input, level), |own, now| own.set_line(input, level, now));
    }

    fn read_msr(&mut self, msr: u32) -> Compared<Option<u64>> {
        self.at_both(|kernel| kernel.read_msr(msr), |own, now| own.read_msr(msr, now))
    }

    fn write_msr(&mut self, msr: u32, value: u64) -> Compared<Option<()>> {
        let lost = if msr == TPR_MSR { u64::from(!kept_priority()) } else { 0 };
        let value = value & !lost;
        let kernel = |kernel: &mut KernelChips| kernel.write_msr(msr, value);
        self.at_both(kernel, |own, now| own.write_msr(msr, value, now))
    }

    /// Compares counts of a timer within the uncertainty of the accesses so far. A count is at least a nanosecond.
    fn check_count(&self, (kernel, own): Compared<u32>) -> Result<(), TestCaseError> {
        let tolerance = self.uncertainty + 2;
        let message = || format!("current count {kernel}, own {own}, tolerance {tolerance}");
        if u64::from(kernel.abs_diff(own)) <= tolerance {
            Ok(())
        } else {
            Err(TestCaseError::fail(message()))
        }
    }

    /// Compares IRR, ISR, TMR and the priorities, read by the guest and by `KVM_GET_LAPIC`.
    fn check_interrupts(&mut self, cpu: usize) -> Result<(), TestCaseError> {
        let page = self.kernel.page(cpu);
        for offset in (0x100..0x280).step_by(16).chain([TPR]) {
            let (kernel, own) = self.read(cpu, APIC + offset);
            let saved = page[offset as usize..][..4]
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u32::from(*byte));
            proptest::prop_assert_eq!((kernel, saved), (own, own), "APIC {} register {:#x}", cpu, offset);
        }
        let (kernel, own) = self.read(cpu, APIC + PPR);
        proptest::prop_assert_eq!(kernel, own, "PPR of APIC {}", cpu);
        Ok(())
    }
}

/// Bits of the task priority that the kernel keeps.
fn kept_priority() -> u32 {
    static IS_AMD: OnceLock<bool> = OnceLock::new();
    if *IS_AMD.get_or_init(|| Path::new("/sys/module/kvm_amd").exists()) { !0xf } else { !0 }
}

/// Runs random programs, the same ones each time. A failure prints the shortest program that was found.
fn run_programs<S: Strategy>(cases: u32, programs: &S, run: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng).run(programs, run).unwrap();
}
