//! Messages between two local APICs: destinations and shorthands.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Send { cpu: usize, id: u32, command: u32 },
    Logical { cpu: usize, id: u32, is_flat: bool },
    Take(usize),
    End(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let id = prop_oneof![0u32..8, Just(0xff), any::<u8>().prop_map(u32::from)];
    let command = (0x20u32..0x100, any::<bool>(), 0u32..4);
    let command = command.prop_map(|(vector, logical, shorthand)| {
        0x4000 | vector | u32::from(logical) << 11 | shorthand << 18
    });
    let logical = prop_oneof![0u32..8, any::<u8>().prop_map(u32::from)];
    prop_oneof![
        6 => (0usize..2, id, command).prop_map(|(cpu, id, command)| Step::Send { cpu, id, command }),
        1 => (0usize..2, logical, any::<bool>()).prop_map(|(cpu, id, is_flat)| Step::Logical { cpu, id, is_flat }),
        3 => (0usize..2).prop_map(Step::Take),
        2 => (0usize..2).prop_map(Step::End),
    ]
}

fn run(program: &[Step]) -> Result<(), TestCaseError> {
    let mut both = Both::with_interrupts_in_service(2);
    for cpu in 0..2 {
        both.write(cpu, APIC + SVR, 0x1ff);
    }
    for step in program {
        match *step {
            Step::Send { cpu, id, command } => {
                both.write(cpu, APIC + ICR_HIGH, id << 24);
                both.write(cpu, APIC + ICR, command);
            }
            Step::Logical { cpu, id, is_flat } => {
                both.write(cpu, APIC + LDR, id << 24);
                both.write(cpu, APIC + DFR, if is_flat { u32::MAX } else { 0x0fff_ffff });
            }
            Step::Take(cpu) => {
                let (kernel, own) = both.take(cpu);
                prop_assert_eq!(kernel, own, "interrupt of {}", cpu);
            }
            Step::End(cpu) => both.write(cpu, APIC + EOI, 0),
        }
        both.check_interrupts(0)?;
        both.check_interrupts(1)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm"]
fn messages_reach_the_same_apics_as_the_kernels_do() {
    run_programs(60, &prop::collection::vec(step(), 1..30), |program| run(&program));
}
