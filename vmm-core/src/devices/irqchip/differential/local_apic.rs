//! Registers and interrupts of one local APIC in xAPIC mode.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Read(u32),
    Write(u32, u32),
    Count,
    Take,
}

/// Bits of the local vector table that the kernel and the manual agree on. Vectors are from 0x20 on.
fn table_write() -> impl Strategy<Value = Step> {
    let entry = prop::sample::select(vec![0x320, 0x330, 0x340, 0x350, 0x360, 0x370]);
    (entry, 0x20u32..0x100, any::<u32>()).prop_map(|(offset, vector, bits)| {
        // Read-only bits, and for the timer the reserved mode, are left out.
        let unused = 1 << 12 | 1 << 14 | if offset == LVT_TIMER { 1 << 18 } else { 0 };
        Step::Write(offset, bits & !0xff & !unused | vector)
    })
}

fn step() -> impl Strategy<Value = Step> {
    let all = [
        vec![0x20, 0x30, TPR, PPR, LDR, DFR, SVR, ICR, ICR_HIGH, INITIAL_COUNT, DIVIDE],
        (0x100..0x280).step_by(16).collect(),
        (0x320..0x380).step_by(16).collect(),
    ]
    .concat();
    let write = |offset, values: BoxedStrategy<u32>| values.prop_map(move |value| Step::Write(offset, value));
    // So long that no timer expires during a program.
    let count = prop_oneof![Just(0), 0xc000_0000..=u32::MAX].boxed();
    prop_oneof![
        3 => prop::sample::select(all).prop_map(Step::Read),
        6 => (0x20u32..0x100).prop_map(|vector| Step::Write(ICR, 0x4_4000 | vector)),
        // To itself by its number, by all numbers, and to nobody.
        2 => prop::sample::select(vec![0, 0xff, 5]).prop_map(|id: u32| Step::Write(ICR_HIGH, id << 24)),
        3 => (0x20u32..0x100, any::<bool>()).prop_map(|(vector, lowest)| Step::Write(ICR, 0x4000 | u32::from(lowest) << 8 | vector)),
        3 => write(TPR, any::<u32>().boxed()),
        1 => write(TPR, Just(0).boxed()),
        5 => write(EOI, any::<u32>().boxed()),
        1 => write(LDR, any::<u32>().boxed()),
        1 => write(DFR, any::<u32>().boxed()),
        1 => write(SVR, (0x100u32..0x400).boxed()),
        1 => write(SVR, (0x1f0u32..0x200).boxed()),
        2 => write(INITIAL_COUNT, count),
        2 => write(DIVIDE, any::<u32>().boxed()),
        2 => Just(Step::Count),
        3 => table_write(),
        6 => Just(Step::Take),
    ]
}

fn run(program: &[Step]) -> Result<(), TestCaseError> {
    let mut both = Both::with_interrupts_in_service(1);
    both.write(0, APIC + SVR, 0x1ff);
    for step in program {
        match *step {
            Step::Read(offset) => {
                let (kernel, own) = both.read(0, APIC + offset);
                prop_assert_eq!(kernel, own, "register {:#x}", offset);
            }
            Step::Write(offset, value) => both.write(0, APIC + offset, value),
            Step::Count => {
                let counts = both.read(0, APIC + CURRENT_COUNT);
                both.check_count(counts)?;
            }
            Step::Take => {
                let (kernel, own) = both.take(0);
                prop_assert_eq!(kernel, own, "interrupt");
            }
        }
    }
    both.check_interrupts(0)
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_local_apic_answers_as_the_kernels_does() {
    run_programs(100, &prop::collection::vec(step(), 1..150), |program| run(&program));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn registers_after_reset_are_the_kernels() {
    let mut both = Both::new(2);
    let compared = (0x20..0x400).step_by(16).filter(|offset| {
        // Reserved registers, and the arbitration priority, which the kernel does not have.
        !matches!(offset, 0x40..=0x70 | 0x90 | 0xc0 | 0x290..=0x2f0 | 0x3a0..=0x3d0 | 0x3f0)
    });
    for offset in compared.filter(|offset| *offset != EOI) {
        for cpu in 0..2 {
            let (kernel, own) = both.read(cpu, APIC + offset);
            assert_eq!(kernel, own, "APIC {cpu} register {offset:#x}");
        }
    }
}
