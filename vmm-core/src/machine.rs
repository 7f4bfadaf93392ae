//! A machine: the whole flow, from `/dev/kvm` to a vCPU that is about to execute its first instruction.
//!
//! [`Machine::build`] is the figure of every KVM course as one function. Each line is a call that kvm-sys-wrap has a
//! file for; what the calls are given was computed before the first of them, without KVM ([`crate::layout`]), or is a
//! pure function of it ([`crate::state`]).

use std::sync::{Arc, Mutex};

use kvm_sys_wrap::{Advice, Gpa, GuestMemory, Kvm, Slot, SlotFlags, TssAddress, Vcpu, Vm};
use vm_memory::Bytes;

use crate::bus::{Bus, SharedDevice};
use crate::console::{Console, Input, NoInput, Output};
use crate::devices::{DebugConsole, DebugExit, Hypercall, Serial};
use crate::error::Error;
use crate::exit_counts::ExitCounts;
use crate::host;
use crate::image::GuestImage;
use crate::landing::Landing;
use crate::layout::{self, Layout};
use crate::paging::walk::Walker;
use crate::span::Span;
use crate::spec::{DeviceAddress, MachineSpec, MemoryRegion};
use crate::state::{InitialState, initial_state};
use crate::verify;

/// A machine, ready to run.
#[derive(Debug)]
pub struct Machine {
    pub(crate) spec: MachineSpec,
    pub(crate) layout: Layout,
    pub(crate) vcpu: Vcpu,
    pub(crate) memory: GuestMemory,
    pub(crate) read_only: Vec<Span>,
    pub(crate) ports: Bus,
    pub(crate) mmio: Bus,
    pub(crate) output: Output,
    pub(crate) landing: Option<Landing>,
    /// What the CPU is in the guest's eyes.
    pub(crate) cpu: host::CpuTraits,
    pub(crate) exits: ExitCounts,
    /// What the guest reads next: one buffer for all exits.
    pub(crate) answer: Vec<u8>,
}

impl Machine {
    /// Builds the machine that `spec` describes, with `guest` in its memory, up to the first `KVM_RUN`.
    ///
    /// # Errors
    /// [`Error`]; its [`blame`](Error::blame) says whose fault it is. A host that cannot do the mode is found out here.
    pub fn build(
        kvm: &Kvm,
        spec: MachineSpec,
        guest: &dyn GuestImage,
        console: Console,
    ) -> Result<Self, Error> {
        let layout = layout::compute(&spec, &guest.occupied())?;

        let vm = kvm.create_vm()?;
        vm.set_tss_addr(TssAddress::new(spec.tss_address)?)?;
        for (number, region) in (0..).zip(&spec.memory) {
            vm.add_slot(slot(number, region))?;
        }
        let memory = vm.memory();
        guest.place(&memory).map_err(Error::Image)?;

        let vcpu = vm.create_vcpu(0)?;
        let state = initial_state(&vcpu.sregs()?, &spec, &layout, host::quirks(&spec))?;
        for image in &state.images {
            let written = memory.write_slice(&image.bytes, image.gpa.into());
            written.map_err(|source| Error::Table { what: image.name, source })?;
        }
        let cpuid = host::cpuid(kvm, &spec, &state.needs)?;
        if let Some(cpuid) = &cpuid {
            vcpu.set_cpuid(cpuid)?;
        }
        let cpu = host::CpuTraits::of(cpuid.as_ref());
        enter_mode(&vcpu, &spec, &state)?;
        vcpu.set_regs(&state.regs)?;

        let (ports, mmio, output) = devices(&vm, &spec, console)?;
        let landing = state.landing;
        let read_only =
            layout.memory().iter().filter(|region| region.read_only).map(|region| region.range).collect();
        let (exits, answer) = Default::default();
        Ok(Self { spec, layout, vcpu, memory, read_only, ports, mmio, output, landing, cpu, exits, answer })
    }

    /// What the machine was built from.
    #[must_use]
    pub fn spec(&self) -> &MachineSpec {
        &self.spec
    }

    /// What lies where in its memory.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Its devices: those at ports, and those at addresses.
    #[must_use]
    pub fn buses(&self) -> (&Bus, &Bus) {
        (&self.ports, &self.mmio)
    }

    /// Its vCPU, stopped.
    #[must_use]
    pub fn vcpu(&self) -> &Vcpu {
        &self.vcpu
    }

    /// The exits so far.
    #[must_use]
    pub fn exits(&self) -> &ExitCounts {
        &self.exits
    }

    /// A page walker with the vCPU's eyes, as they are now.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn walker(&self) -> Result<Walker, Error> {
        let host::CpuTraits { physical_bits, amd } = self.cpu;
        Ok(Walker { physical_bits, amd, ..Walker::of_sregs(&self.vcpu.sregs()?) })
    }
}

/// Writes the special registers and reads them back: a host that cannot do the mode either refuses them, or takes them
/// and drops a bit without a word.
fn enter_mode(vcpu: &Vcpu, spec: &MachineSpec, state: &InitialState) -> Result<(), Error> {
    let mode = spec.boot.mode;
    vcpu.set_sregs(&state.sregs)
        .map_err(|source| Error::ModeRefused { feature: host::feature_name(spec), source })?;
    let differences = verify::compare(&state.sregs, &vcpu.sregs()?);
    if differences.is_empty() { Ok(()) } else { Err(Error::ModeDropped { mode, differences }) }
}

fn slot(number: u32, region: &MemoryRegion) -> Slot {
    let MemoryRegion { address, size, read_only, huge_pages, mergeable } = *region;
    Slot {
        number,
        address,
        size,
        flags: SlotFlags { read_only, log_dirty: false },
        advice: Advice { mergeable, huge_pages },
    }
}

/// Puts the devices on the two buses, and tells the VM which addresses they take.
fn devices(vm: &Vm, spec: &MachineSpec, console: Console) -> Result<(Bus, Bus, Output), Error> {
    let Console { output, input } = console;
    let (mut ports, mut mmio) = (Bus::default(), Bus::default());
    let mut attach =
        |name: &'static str, at: DeviceAddress, length: u64, device: SharedDevice| -> Result<(), Error> {
            match at {
                DeviceAddress::Port(port) => ports.insert(name, port.0.into(), u16::MAX.into(), device)?,
                DeviceAddress::Mmio(start) => {
                    mmio.insert(name, start.0, u64::MAX, device)?;
                    let end = Gpa(start.0.saturating_add(length));
                    vm.reserve_mmio(name, start..end)?;
                }
            }
            Ok(())
        };
    use crate::devices::length;
    let specs = &spec.devices;
    if let Some(at) = specs.debug_console {
        let device = Arc::new(Mutex::new(DebugConsole::new(output.clone())));
        attach("debug-console", at, length::DEBUG_CONSOLE, device)?;
    }
    if let Some(serial) = specs.serial {
        let input: Box<dyn Input> = if serial.input { input } else { Box::new(NoInput) };
        let device = Arc::new(Mutex::new(Serial::new(output.clone(), input)));
        attach("serial", serial.at, length::SERIAL, device)?;
    }
    if let Some(exit) = &specs.debug_exit {
        let device = Arc::new(Mutex::new(DebugExit::new(exit.success.clone())));
        attach("debug-exit", exit.at, length::DEBUG_EXIT, device)?;
    }
    if let Some(at) = specs.hypercall {
        let device = Arc::new(Mutex::new(Hypercall::new(output.clone(), &spec.arguments)));
        attach("hypercall", at, length::HYPERCALL, device)?;
    }
    Ok((ports, mmio, output))
}
