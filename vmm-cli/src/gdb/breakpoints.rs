//! Breakpoints and watchpoints. The debugger chooses how it stops the guest. gdb has to be told the kind that it set.

use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint, SwBreakpointOps,
    WatchKind,
};
use gdbstub::target::{TargetError, TargetResult};
use vmm_core::Gva;
use vmm_core::kvm_sys_wrap::{Breakpoint, BreakpointCondition};

use super::target::Session;
use crate::stderr;

impl Breakpoints for Session<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    /// gdb requests only these, and refuses to continue if they are not supported.
    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Session<'_> {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let added = self.debugger.add_breakpoint(Gva(address)).map_err(TargetError::Fatal)?;
        if added {
            self.soft.insert(address);
        }
        Ok(added)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let known = self.soft.remove(&address);
        if known && !self.hard.contains(&address) {
            self.debugger.remove_breakpoint(Gva(address));
        }
        Ok(known)
    }
}

impl HwBreakpoint for Session<'_> {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let added = self.debugger.add_breakpoint(Gva(address)).map_err(TargetError::Fatal)?;
        if added {
            self.hard.insert(address);
        }
        Ok(added)
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        let known = self.hard.remove(&address);
        if known && !self.soft.contains(&address) {
            self.debugger.remove_breakpoint(Gva(address));
        }
        Ok(known)
    }
}

impl HwWatchpoint for Session<'_> {
    fn add_hw_watchpoint(&mut self, address: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let Some(watchpoint) = watchpoint(address, length, kind) else { return Ok(false) };
        let added = self.debugger.add_watchpoint(watchpoint).map_err(TargetError::Fatal)?;
        if added {
            self.watched.push((watchpoint, kind));
        } else if !self.debugger.is_recorded() {
            stderr::print_line(format_args!(
                "gdb: no debug register that would do: {}",
                self.debugger.capabilities()
            ));
        } else if kind == WatchKind::Write {
            stderr::print_line(format_args!("gdb: too many watchpoints, or too much memory"));
        } else if !self.debugger.capabilities().watchpoints {
            stderr::print_line(format_args!(
                "gdb: this host's KVM reports no reads; `watch` stops at writes"
            ));
        }
        Ok(added)
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let Some(watchpoint) = watchpoint(address, length, kind) else { return Ok(false) };
        let Some(index) = self.watched.iter().position(|known| *known == (watchpoint, kind)) else {
            return Ok(false);
        };
        self.watched.remove(index);
        Ok(self.debugger.remove_watchpoint(watchpoint))
    }
}

/// Converts gdb's kinds. x86 has no watchpoints for reads alone, so those also stop at writes.
fn watchpoint(address: u64, length: u64, kind: WatchKind) -> Option<Breakpoint> {
    let length = u8::try_from(length).ok()?;
    let watch = match kind {
        WatchKind::Write => BreakpointCondition::Write(length),
        WatchKind::Read | WatchKind::ReadWrite => BreakpointCondition::Access(length),
    };
    Some(Breakpoint { address: Gva(address), condition: watch })
}
