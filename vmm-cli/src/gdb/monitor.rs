//! `monitor` commands, for information that gdb has no command for.

use std::fmt::Write as _;

use vmm_core::cpu::control_regs::{Cr0, Efer};
use vmm_core::cpu::cpu_state::{OperandWidth, operand_width};
use vmm_core::debugger::DebugTarget;
use vmm_core::kvm_sys_wrap::MpState;
use vmm_core::machine::Machine;
use vmm_core::machine::error::Error;
use vmm_core::paging::merge::mappings;

use crate::mapping_table;
use crate::prepare::Files;

const HELP: &str = "\
monitor where    the vCPUs: place in the source, mode, how far the run is
monitor exits    how many exits the guest has made, by type
monitor pages    all that its page tables map now
monitor explain  what lies where in its memory
monitor host     which means of debugging work on this host
";

/// Returns the answer to a command, with a final line break.
pub(super) fn answer(debugger: &dyn DebugTarget, files: &Files, command: &str) -> Result<String, Error> {
    Ok(match command.trim() {
        "" | "help" => HELP.to_owned(),
        "where" => place(debugger, files)?,
        "exits" => {
            let exits = debugger.machine().exits();
            format!("{exits}total {}\n", exits.total())
        }
        "pages" => pages(debugger.machine())?,
        "explain" => format!("{}\n", debugger.machine().layout()),
        "host" => format!("{}\n", debugger.capabilities()),
        other => format!("no command `{other}`\n{HELP}"),
    })
}

fn place(debugger: &dyn DebugTarget, files: &Files) -> Result<String, Error> {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for number in 0..debugger.vcpu_count() {
        let pc = debugger.pc(number)?.0;
        let symbol = files.describe(pc).map(|text| format!(" {text}")).unwrap_or_default();
        let words = if debugger.is_recorded() { mode(debugger, number)? } else { vcpu(debugger, number)? };
        let _ = writeln!(text, "{pc:#x}{symbol}\n{words}");
    }
    let exits = debugger.exits();
    let plural = if exits == 1 { "" } else { "s" };
    let _ = write!(text, "after {exits} exit{plural}");
    if debugger.is_in_past() {
        text.push_str(", in the past: `continue` leads to the present");
    }
    if let Some(end) = debugger.end() {
        let _ = write!(text, "\nthe run ended: {end}");
    }
    text.push('\n');
    Ok(text)
}

/// Describes the state and mode of a vCPU.
pub(super) fn vcpu(debugger: &dyn DebugTarget, number: usize) -> Result<String, Error> {
    let doing = match debugger.mp_state(number)? {
        None => "",
        Some(MpState::Uninitialized) => return Ok(format!("vCPU {number}, waits for INIT")),
        Some(MpState::InitReceived) => return Ok(format!("vCPU {number}, waits for SIPI")),
        Some(MpState::Runnable | MpState::SipiReceived) => "runs, ",
        Some(MpState::Halted) => "halted, ",
        Some(MpState::Other(_)) => "in a state without a name here, ",
    };
    Ok(format!("vCPU {number}, {doing}{}", mode(debugger, number)?))
}

/// Describes the mode of a vCPU.
fn mode(debugger: &dyn DebugTarget, number: usize) -> Result<String, Error> {
    let sregs = debugger.registers(number)?.sregs;
    let (cr0, efer) = (Cr0::from_bits_retain(sregs.cr0), Efer::from_bits_retain(sregs.efer));
    let mode = if !cr0.contains(Cr0::PE) {
        "real mode"
    } else if efer.contains(Efer::LMA) {
        "long mode"
    } else if cr0.contains(Cr0::PG) {
        "protected mode with paging"
    } else {
        "protected mode"
    };
    let width = match operand_width(&sregs) {
        OperandWidth::Bits16 => 16,
        OperandWidth::Bits32 => 32,
        OperandWidth::Bits64 => 64,
    };
    Ok(format!("{mode}, {width}-bit code, ring {}", sregs.ss.dpl))
}

fn pages(machine: &Machine) -> Result<String, Error> {
    let walker = machine.walker()?;
    let Some(scheme) = walker.scheme else {
        return Ok("no paging: each address is its own physical address\n".to_owned());
    };
    let mappings = mappings(&walker, machine.memory());
    let mut text = format!("{}, root table at {}\n", scheme.name(), walker.root);
    mapping_table::append(&mut text, &mappings.ranges, mappings.truncated);
    Ok(text)
}
