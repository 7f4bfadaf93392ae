//! Control registers bit by bit, and the initial general registers.

use serde::Serialize;
use vmm_core::explain::control_bits;
use vmm_core::initial_state::InitialState;
use vmm_core::layout::Layout;
use vmm_core::spec::{MachineSpec, Register, RegisterFile};

use super::{hex, is_user};
use crate::prepare::Boot;

/// Control register.
#[derive(Debug, Serialize)]
pub(super) struct ControlRegisterRow {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) after_reset: String,
    pub(super) bits: Vec<ControlBitRow>,
}

/// Bit of a control register.
#[derive(Debug, Serialize)]
pub(super) struct ControlBitRow {
    pub(super) number: u8,
    pub(super) name: &'static str,
    pub(super) set: bool,
    /// Effect of the bit when set.
    pub(super) meaning: &'static str,
    /// Reason for its value, if this machine has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<&'static str>,
}

impl ControlBitRow {
    /// Removes the word from the reason that repeats `set`.
    fn of(explained: control_bits::ExplainedBit) -> Self {
        let control_bits::ExplainedBit { bit, set, why } = explained;
        let why = why.map(|why| why.strip_prefix("clear: ").unwrap_or(why));
        Self { number: bit.number, name: bit.name, set, meaning: bit.meaning, why }
    }
}

/// Register without bits of its own.
#[derive(Debug, Serialize)]
pub(super) struct GeneralRegisterRow {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) why: String,
}

pub(super) fn control(spec: &MachineSpec, layout: &Layout, state: &InitialState) -> Vec<ControlRegisterRow> {
    let registers = control_bits::control_registers(spec, layout.paging(), &state.sregs, &state.regs);
    registers
        .into_iter()
        .map(|register| ControlRegisterRow {
            name: register.name,
            value: hex(register.value),
            after_reset: hex(register.after_reset),
            bits: register.bits.into_iter().map(ControlBitRow::of).collect(),
        })
        .collect()
}

pub(super) fn general(
    spec: &MachineSpec,
    layout: &Layout,
    state: &InitialState,
    boot: &Boot,
) -> Vec<GeneralRegisterRow> {
    let (sregs, regs) = (&state.sregs, &state.regs);
    let preset = |register: Register| spec.boot.registers.iter().any(|(preset, _)| *preset == register);
    let mut rows =
        vec![GeneralRegisterRow { name: "rip", value: hex(regs.rip), why: "the entry".to_owned() }];
    let stack = layout.stack_top().map_or(String::new(), |top| format!("the top of the stack, {top}"));
    let why = if preset(Register::Rsp) { "[registers]".to_owned() } else { stack };
    rows.push(GeneralRegisterRow { name: "rsp", value: hex(regs.rsp), why });
    for register in Register::ALL.iter().filter(|register| preset(**register)) {
        if !matches!(register, Register::Rsp | Register::Rip) {
            rows.push(GeneralRegisterRow {
                name: register.name(),
                value: hex(regs.get(*register)),
                why: if boot.registers.contains(register) {
                    format!("the boot protocol, {}", boot.protocol)
                } else {
                    "[registers]".to_owned()
                },
            });
        }
    }
    if layout.paging().is_some() {
        rows.push(GeneralRegisterRow {
            name: "cr3",
            value: hex(sregs.cr3),
            why: "the first page table".to_owned(),
        });
    }
    if let Some(trap_page) = state.trap_page.filter(|_| is_user(spec)) {
        let why = "the trap page: `int 0x80` ends the run there, any exception is reported".to_owned();
        rows.push(GeneralRegisterRow { name: "trap page", value: hex(trap_page.address.0), why });
    }
    rows
}
