//! `[registers]` and `expect.registers`: each register at most once, with values of the mode's width.

use vmm_core::spec::Register;

use super::Context;
use crate::config::problem::ConfigProblem;
use crate::config::values::RegisterValues;

/// Lowers `[registers]`.
pub(super) fn presets(cx: &mut Context<'_>) -> Vec<(Register, u64)> {
    let Some(table) = &cx.document.registers else { return Vec::new() };
    for (name, _) in &table.value.0 {
        let stack = cx.document.guest.as_ref().and_then(|guest| guest.value.stack.as_ref());
        if name.value.register == Register::Rip {
            let message = format!("`{}` is set by the entry of the guest", name.value.name);
            cx.problem(ConfigProblem::new(&name.span, message).help("use `guest.entry`"));
        } else if name.value.register == Register::Rsp
            && let Some(stack) = stack
        {
            let problem = ConfigProblem::new(&name.span, "the stack pointer is set twice");
            cx.problem(
                problem.related(&stack.span, "`guest.stack` sets it too").help("leave one of them out"),
            );
        }
    }
    values(cx, &table.value)
}

/// Lowers a table of registers.
pub(super) fn values(cx: &mut Context<'_>, table: &RegisterValues) -> Vec<(Register, u64)> {
    let mut seen: Vec<(Register, u64)> = Vec::new();
    for (index, (name, word)) in table.0.iter().enumerate() {
        let register = name.value.register;
        let earlier = table.0.iter().take(index).find(|(other, _)| other.value.register == register);
        if let Some((other, _)) = earlier {
            let message = format!("`{}` and `{}` are one register", other.value.name, name.value.name);
            let problem = ConfigProblem::new(&name.span, message).related(&other.span, "first named here");
            cx.problem(problem.help("leave one of them out"));
            continue;
        }
        if let Some(mode) = cx.mode
            && !mode.is_long()
        {
            if is_extended(register) {
                let message = format!("{mode} mode has no register `{}`", name.value.name);
                cx.problem(ConfigProblem::new(&name.span, message).help("r8 to r15 are there in long mode"));
                continue;
            }
            if word.value.0 > u64::from(u32::MAX) {
                let message = format!("{:#x} does not fit in a register of {mode} mode", word.value.0);
                cx.problem(ConfigProblem::new(&word.span, message).help("its registers have 32 bits"));
            }
        }
        seen.push((register, word.value.0));
    }
    seen
}

/// Returns true for registers that need a REX prefix, which exists in 64-bit code only.
const fn is_extended(register: Register) -> bool {
    match register {
        Register::R8
        | Register::R9
        | Register::R10
        | Register::R11
        | Register::R12
        | Register::R13
        | Register::R14
        | Register::R15 => true,
        Register::Rax
        | Register::Rbx
        | Register::Rcx
        | Register::Rdx
        | Register::Rsi
        | Register::Rdi
        | Register::Rbp
        | Register::Rsp
        | Register::Rip
        | Register::Rflags => false,
    }
}
