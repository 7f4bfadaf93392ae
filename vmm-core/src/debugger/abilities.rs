//! What a debugger can use on this host, found out by trying it.
//!
//! Hosts differ more here than anywhere else, and none says so: breakpoints that never fire, single steps that go
//! astray. So a guest of a few instructions is run once for each means, in the mode and ring of the guest to be
//! debugged, and what came back is believed.

use std::fmt;
use std::io;
use std::time::Duration;

use kvm_sys_wrap::{Breakpoint, GuestDebug, Kvm, Watch};

use super::linear_pc;
use crate::console::Console;
use crate::end::End;
use crate::error::Error;
use crate::image::FlatImage;
use crate::limits::Limits;
use crate::machine::Machine;
use crate::mode::Mode;
use crate::run_loop::Turn;
use crate::spec::{self, Entry, MachineSpec};
use crate::{Gpa, Gva};

const GUEST_ADDRESS: u64 = 0x8000;
const MEMORY: u64 = 2 << 20;
/// `nop; nop; push %rax; nop; hlt`: the same bytes, with the same meaning, in 16-, 32- and 64-bit code.
const GUEST: [u8; 5] = [0x90, 0x90, 0x50, 0x90, 0xf4];
const SECOND: u64 = GUEST_ADDRESS + 1;
const PUSH: u64 = GUEST_ADDRESS + 2;
const BEHIND: u64 = GUEST_ADDRESS + 3;

/// What works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// A debug register stops the guest before an instruction.
    pub hardware_breakpoints: bool,
    /// A debug register stops the guest after a write.
    pub watchpoints: bool,
    /// One instruction can be executed alone.
    pub single_step: bool,
}

impl Abilities {
    /// Tries everything with a small machine of the mode, ring and paging of `spec`.
    ///
    /// # Errors
    /// Where no such machine can be built on this host.
    pub fn probe(kvm: &Kvm, spec: &MachineSpec) -> Result<Self, Error> {
        let probe = Probe { kvm, spec: small(spec) };
        Ok(Self {
            hardware_breakpoints: probe.hardware_breakpoint()?,
            watchpoints: probe.watchpoint()?,
            single_step: probe.single_step()?,
        })
    }
}

/// One line.
impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.hardware_breakpoints {
            "breakpoints by debug registers, beyond four of them by HLT bytes"
        } else {
            "breakpoints by HLT bytes"
        })?;
        f.write_str(if self.watchpoints { ", watchpoints" } else { ", no watchpoints" })?;
        f.write_str(if self.single_step { ", single steps" } else { ", single steps by breakpoints" })
    }
}

/// The machine to try things on: that of `spec`, without what is particular to its guest.
fn small(spec: &MachineSpec) -> MachineSpec {
    let mut small = MachineSpec::new(spec.boot.mode, MEMORY, Entry::Address(Gva(GUEST_ADDRESS)));
    small.boot.ring = spec.boot.ring;
    small.limits = spec::Limits { time: Some(Duration::from_secs(1)), exits: Some(100) };
    small
}

struct Probe<'a> {
    kvm: &'a Kvm,
    spec: MachineSpec,
}

impl Probe<'_> {
    fn machine(&self) -> Result<Machine, Error> {
        let guest = FlatImage { address: Gpa(GUEST_ADDRESS), bytes: &GUEST };
        Machine::build(self.kvm, self.spec.clone(), &guest, Console::to(io::sink()))
    }

    /// Runs up to the first debug event and gives the address where it left the guest.
    fn stop(&self, debug: impl FnOnce(&Machine) -> Result<GuestDebug, Error>) -> Result<Option<u64>, Error> {
        let mut machine = self.machine()?;
        let debug = debug(&machine)?;
        machine.vcpu.set_guest_debug(&debug)?;
        let mut limits = Limits::start(self.spec.limits)?;
        loop {
            match machine.turn(&mut limits, &mut [])? {
                Turn::Served => {}
                Turn::Debug(_) => return linear_pc(&machine).map(Some),
                Turn::Ended(_) => return Ok(None),
            }
        }
    }

    fn register(address: u64, watch: Watch) -> GuestDebug {
        let breakpoint = Some(Breakpoint { address: Gva(address), watch });
        GuestDebug { breakpoints: [breakpoint, None, None, None], ..GuestDebug::default() }
    }

    fn hardware_breakpoint(&self) -> Result<bool, Error> {
        let stopped = self.stop(|_| Ok(Self::register(SECOND, Watch::Execute)))?;
        Ok(stopped == Some(SECOND))
    }

    fn watchpoint(&self) -> Result<bool, Error> {
        let width = match self.spec.boot.mode {
            Mode::Real => 2,
            Mode::Protected | Mode::Paged | Mode::Pae => 4,
            Mode::Long => 8,
        };
        let stopped = self.stop(|machine| {
            let (regs, sregs) = (machine.vcpu.regs()?, machine.vcpu.sregs()?);
            let top = sregs.ss.base.wrapping_add(regs.rsp);
            Ok(Self::register(top.wrapping_sub(width.into()), Watch::Write(width)))
        })?;
        Ok(stopped == Some(BEHIND))
    }

    /// Three steps must be three instructions.
    fn single_step(&self) -> Result<bool, Error> {
        let mut machine = self.machine()?;
        let mut limits = Limits::start(self.spec.limits)?;
        for expected in [SECOND, PUSH, BEHIND] {
            let end: Option<End> = machine.step(&mut limits, &mut [])?;
            if end.is_some() || linear_pc(&machine)? != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
