//! Probe of the CPU modes that work on this host: a guest of two instructions runs in each.
//!
//! KVM's capabilities do not say this: a host may accept a mode and drop a bit of it, or accept it and fail at the guest's
//! first instruction.

use std::io;
use std::time::Duration;

use kvm_sys_wrap::Kvm;

use crate::devices::console::Console;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::image::FlatImage;
use crate::spec::mode::{Mode, PageSize, Ring};
use crate::spec::{EntryPoint, MachineSpec};
use crate::{Gpa, Gva};

/// `out %al, $0xf4; hlt`: the same bytes in 16-, 32- and 64-bit code. AL is 0, which the exit port takes as success.
const GUEST: [u8; 3] = [0xe6, 0xf4, 0xf4];
const GUEST_ADDRESS: u64 = 0x8000;
const MEMORY: u64 = 2 << 20;

/// Test of one CPU mode on this host with a small guest.
#[derive(Debug, Clone)]
pub struct ModeProbe {
    /// CPU mode that is tested.
    pub mode: Mode,
    /// Ring that the guest runs in.
    pub ring: Ring,
    /// Feature of the mode that is tested, such as `1 GiB pages`.
    pub extra: Option<&'static str>,
    spec: MachineSpec,
}

/// Result of a test of one CPU mode: it works, it fails, or the host refuses it.
#[derive(Debug)]
pub enum ProbeResult {
    /// The guest ran in the mode and ended as expected.
    Works,
    /// The host refused to set up the mode.
    Refused(Error),
    /// The guest was started in the mode and did not end as expected.
    Failed(End),
}

impl ModeProbe {
    /// Returns all probes: each mode in each of its rings, and the optional page sizes and depths of long mode.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let new = |mode, ring, extra| {
            let mut spec = MachineSpec::new(mode, MEMORY, EntryPoint::Address(Gva(GUEST_ADDRESS)));
            spec.boot.ring = ring;
            spec.limits.time = Some(Duration::from_secs(2));
            Self { mode, ring, extra, spec }
        };
        let mut probes: Vec<Self> = Mode::ALL.into_iter().map(|mode| new(mode, Ring::Kernel, None)).collect();
        let with_ring_3 = Mode::ALL.into_iter().filter(|mode| mode.is_protected());
        probes.extend(with_ring_3.map(|mode| new(mode, Ring::User, None)));
        let mut large = new(Mode::Long, Ring::Kernel, Some("1 GiB pages"));
        large.spec.boot.paging.page_size = Some(PageSize::Size1G);
        // A page of this size is used only where it is filled; untouched memory costs nothing.
        for region in &mut large.spec.memory {
            region.size = 1 << 30;
        }
        let mut deep = new(Mode::Long, Ring::Kernel, Some("five-level paging"));
        deep.spec.boot.paging.five_level = true;
        probes.extend([large, deep]);
        probes
    }

    /// Builds a machine in the mode and runs the small guest.
    #[must_use]
    pub fn run(&self, kvm: &Kvm) -> ProbeResult {
        let guest = FlatImage { address: Gpa(GUEST_ADDRESS), bytes: &GUEST };
        let built = Machine::build(kvm, self.spec.clone(), &guest, Console::with_output(io::sink()));
        match built.and_then(|mut machine| machine.run()) {
            Ok(outcome) if outcome.end == (End::Exit { code: 0 }) => ProbeResult::Works,
            Ok(outcome) => ProbeResult::Failed(outcome.end),
            Err(error) => ProbeResult::Refused(error),
        }
    }
}
