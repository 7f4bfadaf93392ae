//! Registers and interrupts of one local APIC in x2APIC mode.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Read(u32),
    Write(u32, u64),
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    // All registers and reserved ones, without the error status and the current count.
    let all: Vec<_> = (0x800..0x840).filter(|msr| ![0x828, 0x839].contains(msr)).collect();
    // Writing these raises #GP whatever the value is.
    let read_only =
        [0x802, 0x803, 0x804, 0x809, 0x80a, 0x80d, 0x80e, 0x810, 0x81f, 0x827, 0x831, 0x839, 0x83a];
    let vector = 0x20u64..0x100;
    let write = |msr, values: BoxedStrategy<u64>| values.prop_map(move |value| Step::Write(msr, value));
    // The first number is this APIC's own.
    let ids = [0, 1, 0xff, 0xffff_ffff, 0x1_0000];
    let message = (prop::sample::select(ids.to_vec()), vector.clone(), any::<bool>());
    prop_oneof![
        6 => prop::sample::select(all).prop_map(Step::Read),
        1 => prop::sample::select(read_only.to_vec()).prop_map(|msr| Step::Write(msr, 0)),
        4 => write(0x83f, vector.clone().boxed()),
        1 => write(0x83f, (0x100u64..0x1_0000).boxed()),
        1 => (0x808u32..0x83f, 1u64 << 32..).prop_filter("the only register with 64 bits", |(msr, _)| *msr != 0x830)
            .prop_map(|(msr, value)| Step::Write(msr, value)),
        3 => message.prop_map(|(id, vector, logical)| {
            Step::Write(0x830, id << 32 | u64::from(logical) << 11 | 0x4000 | vector)
        }),
        3 => write(0x808, (0u64..0x100).boxed()),
        4 => write(0x80b, Just(0).boxed()),
        1 => write(0x80f, (0x1f0u64..0x200).boxed()),
        1 => write(0x828, (0u64..2).boxed()),
        1 => (0x832u32..0x838, vector).prop_map(|(msr, vector)| Step::Write(msr, vector | 1 << 16)),
        4 => Just(Step::Take),
    ]
}

fn run(program: &[Step]) -> Result<(), TestCaseError> {
    let mut both = Both::with_interrupts_in_service(1);
    both.at_both(KernelChips::set_x2apic, |own, _| own.set_x2apic());
    both.write_msr(0x80f, 0x1ff);
    for step in program {
        match *step {
            Step::Read(msr) => {
                let (kernel, own) = both.read_msr(msr);
                prop_assert_eq!(kernel, own, "MSR {:#x}", msr);
            }
            Step::Write(msr, value) => {
                let (kernel, own) = both.write_msr(msr, value);
                prop_assert_eq!(kernel, own, "MSR {:#x} = {:#x}", msr, value);
            }
            Step::Take => {
                let (kernel, own) = both.take(0);
                prop_assert_eq!(kernel, own, "interrupt");
            }
        }
    }
    for msr in 0x810..0x828 {
        let (kernel, own) = both.read_msr(msr);
        prop_assert_eq!(kernel, own, "MSR {:#x}", msr);
    }
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_local_apic_answers_as_the_kernels_does_in_x2apic_mode() {
    run_programs(60, &prop::collection::vec(step(), 1..150), |program| run(&program));
}
