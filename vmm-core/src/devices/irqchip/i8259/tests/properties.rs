//! Laws that hold for any sequence of accesses, also from a hostile saved state.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{InitState, Pic, PicRegisters};
use super::*;
use crate::encoding::{from_bytes, to_bytes};

const PORTS: [u16; 6] = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];

#[derive(Debug, Clone)]
enum Step {
    Write(u16, u8),
    Read(u16),
    Input(u8, bool),
    Acknowledge,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let port = || prop::sample::select(PORTS.to_vec());
    let step = prop_oneof![
        3 => (port(), any::<u8>()).prop_map(|(port, value)| Step::Write(port, value)),
        1 => port().prop_map(Step::Read),
        4 => (0_u8..18, any::<bool>()).prop_map(|(irq, level)| Step::Input(irq, level)),
        2 => Just(Step::Acknowledge),
    ];
    vec(step, 0..60)
}

/// Returns chips with any state that can be saved, also such as accesses do not lead to.
fn hostile() -> impl Strategy<Value = PicPair> {
    let init = [InitState::PowerOn, InitState::Icw2, InitState::Icw3, InitState::Icw4, InitState::Ready];
    let init = prop::sample::select(init.to_vec());
    let pic = (any::<[u8; 7]>(), any::<Option<u8>>(), init, any::<[bool; 8]>()).prop_map(
        |([slaves, inputs, requests, elcr, imr, isr, first], vector_base, init, flags)| {
            let [single, needs_icw4, auto_eoi, rotate_in_auto_eoi, ..] = flags;
            let [.., special_fully_nested, special_mask, reads_isr, poll] = flags;
            Pic {
                slaves,
                inputs,
                requests,
                elcr,
                imr,
                isr,
                first,
                vector_base,
                init,
                single,
                needs_icw4,
                auto_eoi,
                rotate_in_auto_eoi,
                special_fully_nested,
                special_mask,
                reads_isr,
                poll,
            }
        },
    );
    (pic.clone(), pic).prop_map(|(master, slave)| PicPair { master, slave })
}

/// Makes a step, and checks what an acknowledge does.
fn make(pics: &mut PicPair, step: &Step) {
    match *step {
        Step::Write(port, value) => pics.write(port, value),
        Step::Read(port) => {
            pics.read(port);
        }
        Step::Input(irq, level) => pics.set_input(irq, level),
        Step::Acknowledge => {
            let (requested, before) = (pics.intr(), pics.clone());
            let vector = pics.acknowledge();
            if !requested {
                assert_eq!(vector & 7, 7, "spurious");
                assert_eq!(*pics, before);
            }
        }
    }
}

proptest! {
    #[test]
    fn an_interrupt_is_one_of_the_unmasked_requests(before in steps()) {
        let mut pics = pics();
        before.iter().for_each(|step| make(&mut pics, step));
        let [master, slave] = pics.registers();
        if pics.intr() {
            let vector = pics.acknowledge();
            let asks = |chip: &PicRegisters| {
                chip.vector_base == Some(vector & 0xf8) && (chip.irr & !chip.imr) >> (vector & 7) & 1 != 0
            };
            prop_assert!(asks(&master) || asks(&slave), "{vector:#x}: {master:?} {slave:?}");
        }
    }

    /// A guest that ends what it serves sees each request, and comes to an end.
    #[test]
    fn every_request_is_served_once(before in steps(), inputs in any::<u16>()) {
        let mut pics = pics();
        before.iter().for_each(|step| make(&mut pics, step));
        for irq in 0..16 {
            pics.set_input(irq, false);
        }
        write(&mut pics, &[(0x4d0, 0), (0x4d1, 0)]);
        write(&mut pics, &init(1, 1));
        let requested: Vec<u8> = (0..16).filter(|irq| *irq != 2 && inputs >> irq & 1 != 0).collect();
        pulse(&mut pics, &requested);
        let mut served = Vec::new();
        while pics.intr() {
            served.push(pics.acknowledge() - MASTER);
            write(&mut pics, &[(0xa0, 0x20), (0x20, 0x20)]);
            prop_assert!(served.len() <= 16);
        }
        served.sort_unstable();
        prop_assert_eq!(served, requested);
    }

    #[test]
    fn a_saved_state_goes_on_as_the_one_before(before in steps(), after in steps()) {
        let mut pics = PicPair::new();
        before.iter().for_each(|step| make(&mut pics, step));
        let mut restored: PicPair = from_bytes(&to_bytes(&pics).unwrap()).unwrap();
        for step in &after {
            make(&mut pics, step);
            make(&mut restored, step);
            prop_assert_eq!(&restored, &pics);
        }
    }

    #[test]
    fn no_saved_state_is_a_panic(pics in hostile(), steps in steps()) {
        let mut pics: PicPair = from_bytes(&to_bytes(&pics).unwrap()).unwrap();
        for step in &steps {
            if let Step::Acknowledge = step {
                pics.acknowledge();
            } else {
                make(&mut pics, step);
            }
        }
    }
}
