//! IOAPIC with one local APIC. The inputs are those that the PICs do not have.

use proptest::prelude::*;

use super::*;

const SELECT: u32 = IOAPIC;
const WINDOW: u32 = IOAPIC + 0x10;

#[derive(Debug, Clone)]
enum Step {
    Read(u32),
    Write(u32, u32),
    SetLine(u8, bool),
    Take,
    End,
    TaskPriority(u32),
    SelfIpi(u32),
}

fn step() -> impl Strategy<Value = Step> {
    // Few inputs and vectors, so that inputs share them.
    let (input, vector) = (16u8..20, 0x20u32..0x50);
    let register = |input: u8| 0x10 + u32::from(input) * 2;
    // Vector, lowest priority, polarity, trigger mode and mask; remote IRR cannot be written.
    let low = (vector.clone(), any::<[bool; 5]>()).prop_map(
        |(vector, [lowest, low_active, remote, level, masked])| {
            vector
                | u32::from(lowest) << 8
                | u32::from(low_active) << 13
                | u32::from(remote) << 14
                | u32::from(level) << 15
                | u32::from(masked) << 16
        },
    );
    // This APIC, all, and nobody.
    let high = prop::sample::select(vec![0, 0, 0, 0xff, 7]).prop_map(|id: u32| id << 24);
    prop_oneof![
        3 => any::<u8>().prop_map(|register| Step::Read(register.into())),
        3 => input.clone().prop_map(move |input| Step::Read(register(input))),
        6 => (input.clone(), low).prop_map(move |(input, low)| Step::Write(register(input), low)),
        1 => (input.clone(), high).prop_map(move |(input, high)| Step::Write(register(input) + 1, high)),
        1 => prop_oneof![0u32..0x10, 0x40u32..0x100].prop_flat_map(|register| any::<u32>().prop_map(move |value| Step::Write(register, value))),
        8 => (input, any::<bool>()).prop_map(|(input, level)| Step::SetLine(input, level)),
        6 => Just(Step::Take),
        5 => Just(Step::End),
        1 => (0u32..0x60).prop_map(Step::TaskPriority),
        1 => vector.prop_map(Step::SelfIpi),
    ]
}

fn run(program: &[Step]) -> Result<(), TestCaseError> {
    let mut both = Both::new(1);
    both.write(0, APIC + SVR, 0x1ff);
    for step in program {
        match *step {
            Step::Read(register) => {
                both.write(0, SELECT, register);
                let (kernel, own) = both.read(0, WINDOW);
                prop_assert_eq!(kernel, own, "register {:#x}", register);
            }
            Step::Write(register, value) => {
                both.write(0, SELECT, register);
                both.write(0, WINDOW, value);
            }
            Step::SetLine(input, level) => both.set_line(input, level),
            Step::Take => {
                let (kernel, own) = both.take(0);
                prop_assert_eq!(kernel, own, "interrupt");
            }
            Step::End => both.write(0, APIC + EOI, 0),
            Step::TaskPriority(value) => both.write(0, APIC + TPR, value),
            Step::SelfIpi(vector) => both.write(0, APIC + ICR, 0x4_4000 | vector),
        }
    }
    for register in 0..0x48 {
        both.write(0, SELECT, register);
        let (kernel, own) = both.read(0, WINDOW);
        prop_assert_eq!(kernel, own, "register {:#x}", register);
    }
    both.check_interrupts(0)
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_ioapic_sends_what_the_kernels_does() {
    run_programs(100, &prop::collection::vec(step(), 1..150), |program| run(&program));
}
