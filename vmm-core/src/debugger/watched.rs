//! Watchpoints by comparing: what lay in memory before, and what lies there now.
//!
//! It takes a single step after each instruction, and sees only writes that change something; but it works on every
//! host, for any address and for as many bytes as one likes to read that often.

use kvm_sys_wrap::{Breakpoint, Watch};

use super::Stop;
use super::memory::Linear;
use crate::error::Error;
use crate::machine::Machine;

/// The longest piece of memory that is compared.
const LONGEST: u8 = 64;
/// As many pieces as are compared at most.
const MOST: usize = 16;
/// Debug registers.
const REGISTERS: usize = 4;

/// The memory of all watchpoints at one time.
pub(super) struct Watched(Vec<(Breakpoint, Vec<u8>)>);

impl Watched {
    pub(super) fn of(machine: &Machine, watchpoints: &[Breakpoint]) -> Result<Self, Error> {
        if watchpoints.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let memory = Linear::of(machine)?;
        Ok(Self(watchpoints.iter().map(|watchpoint| (*watchpoint, content(&memory, *watchpoint))).collect()))
    }

    /// The first watchpoint that has something else in its memory now.
    pub(super) fn changed(&self, machine: &Machine) -> Result<Option<Breakpoint>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let memory = Linear::of(machine)?;
        let changed = self.0.iter().find(|(watchpoint, before)| content(&memory, *watchpoint) != *before);
        Ok(changed.map(|(watchpoint, _)| *watchpoint))
    }

    /// What a step has come to: [`Stop::Watchpoint`] if it changed something.
    pub(super) fn instead_of(&self, stop: Stop, machine: &Machine) -> Result<Stop, Error> {
        if stop != Stop::Step {
            return Ok(stop);
        }
        Ok(self.changed(machine)?.map_or(stop, Stop::Watchpoint))
    }
}

/// What lies there, as far as memory is there.
fn content(memory: &Linear<'_>, watchpoint: Breakpoint) -> Vec<u8> {
    let mut bytes = vec![0; size(watchpoint).into()];
    let read = memory.read(watchpoint.address, &mut bytes);
    bytes.truncate(read);
    bytes
}

const fn size(watchpoint: Breakpoint) -> u8 {
    match watchpoint.watch {
        Watch::Execute => 0,
        Watch::Write(size) | Watch::Access(size) => size,
    }
}

/// Whether the debug registers can hold all of these: each can watch 1, 2, 4 or 8 bytes at a multiple of their number
/// (SDM vol. 3, 17.2.5).
pub(super) fn fit_registers(watchpoints: &[Breakpoint]) -> bool {
    watchpoints.len() <= REGISTERS
        && watchpoints.iter().all(|watchpoint| {
            let size = size(*watchpoint);
            matches!(size, 1 | 2 | 4 | 8) && watchpoint.address.is_aligned(size.into())
        })
}

/// Whether all of these can be watched by comparing.
pub(super) fn can_be_compared(watchpoints: &[Breakpoint]) -> bool {
    watchpoints.len() <= MOST
        && watchpoints.iter().all(|watchpoint| matches!(watchpoint.watch, Watch::Write(1..=LONGEST)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gva;

    #[test]
    fn registers_are_for_few_and_aligned_pieces() {
        let at = |address, watch| Breakpoint { address: Gva(address), watch };
        assert!(fit_registers(&[at(8, Watch::Write(8)), at(5, Watch::Access(1))]));
        for wrong in [at(4, Watch::Write(8)), at(0, Watch::Write(3)), at(0, Watch::Write(0))] {
            assert!(!fit_registers(&[wrong]), "{wrong:?}");
        }
        assert!(!fit_registers(&[at(0, Watch::Write(1)); 5]));
    }

    #[test]
    fn comparing_sees_writes_alone_and_has_bounds() {
        let at = |watch| Breakpoint { address: Gva(3), watch };
        assert!(can_be_compared(&[at(Watch::Write(64)); 16]));
        for wrong in [Watch::Access(4), Watch::Execute, Watch::Write(0), Watch::Write(65)] {
            assert!(!can_be_compared(&[at(wrong)]), "{wrong:?}");
        }
        assert!(!can_be_compared(&[at(Watch::Write(1)); 17]));
    }
}
