//! Sequence of KVM calls as rows: file descriptor, argument and result of each.

use serde::Serialize;
use vmm_core::explain::call_sequence::{
    self, Argument, ArgumentDirection, CallAction, CallFrequency, SequenceStep, Value,
};
use vmm_core::kvm_sys_wrap::{Call, FdKind};

/// Row of the call sequence.
#[derive(Debug, Serialize)]
pub(super) struct CallRow {
    /// Position in the sequence, counted from 1.
    pub(super) number: usize,
    /// File descriptor that the call is made on.
    pub(super) on: &'static str,
    /// Name of the call.
    pub(super) call: &'static str,
    /// Documentation of the call; empty for steps that are no calls.
    pub(super) source: String,
    /// Direction of the argument: `none`, `in`, `out` or `in and out` of the kernel.
    pub(super) direction: &'static str,
    #[serde(skip)]
    pub(super) arrow: &'static str,
    /// Name of the structure that is the argument.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) structure: Option<&'static str>,
    /// Argument: one value, or the fields of the structure.
    pub(super) argument: Vec<ArgumentField>,
    /// Result.
    pub(super) returns: String,
    /// Frequency: `once`, `until the guest ends`, `whenever ...`.
    pub(super) times: String,
    /// Purpose.
    pub(super) why: String,
}

/// Field of a structure, or the whole argument if it has no name.
#[derive(Debug, Serialize)]
pub(super) struct ArgumentField {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'static str>,
    pub(super) value: String,
}

/// Returns the rows of a run. `checks_registers`: `[expect]` names registers, which are read after the end.
pub(super) fn rows(steps: &[SequenceStep], checks_registers: bool) -> Vec<CallRow> {
    let checked = checks_registers.then(|| SequenceStep {
        act: CallAction::Call(Call::GetRegs),
        argument: Argument::Struct {
            name: "kvm_regs",
            fields: vec![call_sequence::Field {
                name: "...",
                value: Value::Words("as the guest left them".to_owned()),
            }],
        },
        direction: ArgumentDirection::OutOf,
        returns: "0".into(),
        why: "[expect] names registers: they are compared when the guest has ended".into(),
        times: CallFrequency::Once,
    });
    steps.iter().chain(&checked).zip(1..).map(|(step, number)| row(number, step)).collect()
}

fn row(number: usize, step: &SequenceStep) -> CallRow {
    let (structure, argument) = match &step.argument {
        Argument::None => (None, Vec::new()),
        Argument::Value(value) | Argument::Later(value) => {
            (None, vec![ArgumentField { name: None, value: value.clone() }])
        }
        Argument::Struct { name, fields } => {
            let field = |field: &call_sequence::Field| ArgumentField {
                // Three dots stand for all fields that are not named.
                name: (field.name != "...").then_some(field.name),
                value: field.value.to_string(),
            };
            (Some(*name), fields.iter().map(field).collect())
        }
    };
    CallRow {
        number,
        on: descriptor(step.act),
        call: step.act.name(),
        source: step.act.source(),
        direction: step.direction.name(),
        arrow: step.direction.arrow(),
        structure,
        argument,
        returns: step.returns.clone().into_owned(),
        times: match step.times {
            CallFrequency::Once => "once".to_owned(),
            CallFrequency::UntilTheEnd => "until the guest ends".to_owned(),
            CallFrequency::Whenever(event) => format!("whenever {event}"),
        },
        why: step.why.clone().into_owned(),
    }
}

fn descriptor(act: CallAction) -> &'static str {
    match act {
        CallAction::Call(call) => match call.fd_kind() {
            FdKind::Kvm => "/dev/kvm",
            FdKind::Vm => "VM",
            FdKind::Vcpu => "vCPU",
            FdKind::Process => "process",
        },
        CallAction::WriteMemory => "memory",
        CallAction::SetTimer => "process",
    }
}
