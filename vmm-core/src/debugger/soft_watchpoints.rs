//! Software watchpoints: memory is compared after each single step.
//!
//! They find only writes that change something, and are slow. But they work on every host and for any address.

use kvm_sys_wrap::{Breakpoint, BreakpointCondition};

use super::debug_target::DebugStop;
use super::linear_memory::LinearMemory;
use crate::machine::Machine;
use crate::machine::error::Error;

/// Largest length of a range in bytes.
const MAX_LENGTH: u8 = 64;
/// Largest number of ranges.
const MAX_WATCHPOINTS: usize = 16;
/// Number of debug registers.
const REGISTERS: usize = 4;

/// Memory of all watchpoints at one time.
pub(super) struct SoftWatchpoints(Vec<(Breakpoint, Vec<u8>)>);

impl SoftWatchpoints {
    pub(super) fn new(machine: &Machine, watchpoints: &[Breakpoint]) -> Result<Self, Error> {
        if watchpoints.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let memory = LinearMemory::from_machine(machine)?;
        Ok(Self(watchpoints.iter().map(|watchpoint| (*watchpoint, content(&memory, *watchpoint))).collect()))
    }

    /// First watchpoint whose memory has changed.
    pub(super) fn changed(&self, machine: &Machine) -> Result<Option<Breakpoint>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let memory = LinearMemory::from_machine(machine)?;
        let changed = self.0.iter().find(|(watchpoint, before)| content(&memory, *watchpoint) != *before);
        Ok(changed.map(|(watchpoint, _)| *watchpoint))
    }

    /// Replaces [`DebugStop::Step`] by [`DebugStop::Watchpoint`] if the step changed watched memory.
    pub(super) fn check_step(&self, stop: DebugStop, machine: &Machine) -> Result<DebugStop, Error> {
        if stop != DebugStop::Step {
            return Ok(stop);
        }
        Ok(self.changed(machine)?.map_or(stop, DebugStop::Watchpoint))
    }
}

/// Bytes of a watchpoint, as far as memory is mapped.
fn content(memory: &LinearMemory<'_>, watchpoint: Breakpoint) -> Vec<u8> {
    let mut bytes = vec![0; size(watchpoint).into()];
    let read = memory.read(watchpoint.address, &mut bytes);
    bytes.truncate(read);
    bytes
}

const fn size(watchpoint: Breakpoint) -> u8 {
    match watchpoint.condition {
        BreakpointCondition::Execute => 0,
        BreakpointCondition::Write(size) | BreakpointCondition::Access(size) => size,
    }
}

/// Returns true if the debug registers can hold all of these watchpoints: each register can watch 1, 2, 4 or 8 bytes at a multiple of their number
/// (SDM vol. 3, 17.2.5).
pub(super) fn fit_registers(watchpoints: &[Breakpoint]) -> bool {
    watchpoints.len() <= REGISTERS
        && watchpoints.iter().all(|watchpoint| {
            let size = size(*watchpoint);
            matches!(size, 1 | 2 | 4 | 8) && watchpoint.address.is_aligned(size.into())
        })
}

/// Removes a watchpoint. Returns false if there is none like it.
pub(super) fn remove(watchpoints: &mut Vec<Breakpoint>, watchpoint: Breakpoint) -> bool {
    let found = watchpoints.iter().position(|known| *known == watchpoint);
    found.map(|index| watchpoints.remove(index)).is_some()
}

/// Returns true if all of these can be watched by comparing memory.
pub(super) fn can_be_compared(watchpoints: &[Breakpoint]) -> bool {
    watchpoints.len() <= MAX_WATCHPOINTS
        && watchpoints
            .iter()
            .all(|watchpoint| matches!(watchpoint.condition, BreakpointCondition::Write(1..=MAX_LENGTH)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gva;

    #[test]
    fn registers_are_for_few_and_aligned_pieces() {
        let at = |address, watch| Breakpoint { address: Gva(address), condition: watch };
        assert!(fit_registers(&[
            at(8, BreakpointCondition::Write(8)),
            at(5, BreakpointCondition::Access(1))
        ]));
        for wrong in [
            at(4, BreakpointCondition::Write(8)),
            at(0, BreakpointCondition::Write(3)),
            at(0, BreakpointCondition::Write(0)),
        ] {
            assert!(!fit_registers(&[wrong]), "{wrong:?}");
        }
        assert!(!fit_registers(&[at(0, BreakpointCondition::Write(1)); 5]));
    }

    #[test]
    fn comparing_sees_writes_alone_and_has_bounds() {
        let at = |watch| Breakpoint { address: Gva(3), condition: watch };
        assert!(can_be_compared(&[at(BreakpointCondition::Write(64)); 16]));
        for wrong in [
            BreakpointCondition::Access(4),
            BreakpointCondition::Execute,
            BreakpointCondition::Write(0),
            BreakpointCondition::Write(65),
        ] {
            assert!(!can_be_compared(&[at(wrong)]), "{wrong:?}");
        }
        assert!(!can_be_compared(&[at(BreakpointCondition::Write(1)); 17]));
    }
}
