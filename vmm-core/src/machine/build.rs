//! The KVM flow of a machine, as one list of steps up to the first `KVM_RUN`.
//!
//! [`build`] is the list. [`BuildSteps`] carries the steps out: [`KvmSteps`] makes the calls, and
//! [`call_sequence`](crate::explain::call_sequence) describes them. A new step is a new method of the trait, so the compiler
//! asks for both.

use kvm_sys_wrap::{Gpa, Kvm, TssAddress, Vcpu, Vm};
use vm_memory::Bytes;

use super::error::Error;
use super::host;
use super::image::GuestImage;
use super::saved_machine::MachineConfig;
use super::{Machine, MachineParts};
use crate::cpu::sregs_diff;
use crate::devices::console::Console;
use crate::initial_state::{InitialState, initial_state};
use crate::spec::{Interrupts, MachineSpec, MemoryRegion};

/// Executor of the steps of [`build`].
pub(crate) trait BuildSteps {
    /// VM under construction.
    type Vm;
    /// vCPU of that VM.
    type Vcpu;
    /// Result of the build.
    type Machine;
    /// Error of a step.
    type Error;

    /// Description of the machine.
    fn spec(&self) -> &MachineSpec;

    /// Creates the VM (`KVM_CREATE_VM`).
    fn create_vm(&mut self) -> Result<Self::Vm, Self::Error>;

    /// Sets the address of KVM's TSS pages (`KVM_SET_TSS_ADDR`).
    fn set_tss_addr(&mut self, vm: &Self::Vm, address: Gpa) -> Result<(), Self::Error>;

    /// Adds a memory slot (`mmap`, `madvise`, `KVM_SET_USER_MEMORY_REGION`).
    fn add_slot(&mut self, vm: &Self::Vm, number: u32, region: &MemoryRegion) -> Result<(), Self::Error>;

    /// Maps large files of the guest over its memory (`mmap` with `MAP_FIXED`).
    fn map_files(&mut self, vm: &Self::Vm) -> Result<(), Self::Error>;

    /// Copies the rest of the guest's files into its memory.
    fn load_guest(&mut self, vm: &Self::Vm) -> Result<(), Self::Error>;

    /// Creates the interrupt controllers and the timer (`KVM_CREATE_IRQCHIP` and others). A vCPU gets its local APIC when it is
    /// created, so this step comes before the first vCPU.
    fn create_interrupt_controllers(&mut self, vm: &Self::Vm) -> Result<(), Self::Error>;

    /// Creates the first vCPU (`KVM_CREATE_VCPU`).
    fn create_bsp(&mut self, vm: &Self::Vm) -> Result<Self::Vcpu, Self::Error>;

    /// Reads the reset state of the vCPU (`KVM_GET_SREGS`) and computes its initial state.
    fn initial_state(&mut self, bsp: &Self::Vcpu) -> Result<InitialState, Self::Error>;

    /// Writes descriptor tables, page tables and firmware tables into guest memory.
    fn write_tables(&mut self, vm: &Self::Vm, state: &InitialState) -> Result<(), Self::Error>;

    /// Sets the CPUID of the first vCPU (`KVM_SET_CPUID2`).
    fn set_cpuid(&mut self, bsp: &Self::Vcpu, state: &InitialState) -> Result<(), Self::Error>;

    /// Sets the special registers and reads them back (`KVM_SET_SREGS`, `KVM_GET_SREGS`).
    fn enter_mode(&mut self, bsp: &Self::Vcpu, state: &InitialState) -> Result<(), Self::Error>;

    /// Sets the general registers (`KVM_SET_REGS`).
    fn set_regs(&mut self, bsp: &Self::Vcpu, state: &InitialState) -> Result<(), Self::Error>;

    /// Creates vCPU number `id`, an application processor that waits for INIT and SIPI.
    fn create_ap(&mut self, vm: &Self::Vm, id: u32, state: &InitialState) -> Result<Self::Vcpu, Self::Error>;

    /// Attaches the devices to the buses and interrupt lines (`KVM_IRQFD`), and completes the machine.
    fn attach_devices(
        self,
        vm: Self::Vm,
        bsp: Self::Vcpu,
        aps: Vec<Self::Vcpu>,
        state: InitialState,
    ) -> Result<Self::Machine, Self::Error>;
}

/// Builds a machine: each line is one step of the KVM flow.
pub(crate) fn build<S: BuildSteps>(mut steps: S) -> Result<S::Machine, S::Error> {
    let MachineSpec { tss_address, vcpus, ref memory, .. } = *steps.spec();
    let regions = memory.clone();

    let vm = steps.create_vm()?;
    steps.set_tss_addr(&vm, tss_address)?;
    for (number, region) in (0..).zip(&regions) {
        steps.add_slot(&vm, number, region)?;
    }
    steps.map_files(&vm)?;
    steps.load_guest(&vm)?;
    steps.create_interrupt_controllers(&vm)?;

    let bsp = steps.create_bsp(&vm)?;
    let state = steps.initial_state(&bsp)?;
    steps.write_tables(&vm, &state)?;
    steps.set_cpuid(&bsp, &state)?;
    steps.enter_mode(&bsp, &state)?;
    steps.set_regs(&bsp, &state)?;
    let aps = (1..vcpus).map(|id| steps.create_ap(&vm, id, &state)).collect::<Result<_, _>>()?;

    steps.attach_devices(vm, bsp, aps, state)
}

/// Executor that makes the calls to KVM.
pub(super) struct KvmSteps<'a> {
    pub(super) kvm: &'a Kvm,
    pub(super) guest: &'a dyn GuestImage,
    /// Parts of the machine; CPUID and trap page are set by their steps.
    pub(super) config: MachineConfig,
    pub(super) console: Console,
}

impl BuildSteps for KvmSteps<'_> {
    type Vm = Vm;
    type Vcpu = Vcpu;
    type Machine = Machine;
    type Error = Error;

    fn spec(&self) -> &MachineSpec {
        &self.config.spec
    }

    fn create_vm(&mut self) -> Result<Vm, Error> {
        Ok(self.kvm.create_vm_for(self.config.spec.kernel_irqchip() != Interrupts::None)?)
    }

    fn set_tss_addr(&mut self, vm: &Vm, address: Gpa) -> Result<(), Error> {
        Ok(vm.set_tss_addr(TssAddress::new(address)?)?)
    }

    fn add_slot(&mut self, vm: &Vm, number: u32, region: &MemoryRegion) -> Result<(), Error> {
        Ok(vm.add_slot(super::slot(number, region))?)
    }

    fn map_files(&mut self, vm: &Vm) -> Result<(), Error> {
        for (address, range) in self.guest.mapped() {
            // A backing that cannot show a file gets a copy.
            if !vm.map_file(address, &range)? {
                vm.copy_file(address, &range)?;
            }
        }
        Ok(())
    }

    fn load_guest(&mut self, vm: &Vm) -> Result<(), Error> {
        self.guest.place(&vm.memory()).map_err(Error::Image)?;
        Ok(vm.check_mapped_files()?)
    }

    fn create_interrupt_controllers(&mut self, vm: &Vm) -> Result<(), Error> {
        super::interrupt_controllers(vm, &self.config.spec)
    }

    fn create_bsp(&mut self, vm: &Vm) -> Result<Vcpu, Error> {
        Ok(vm.create_vcpu(0)?)
    }

    fn initial_state(&mut self, bsp: &Vcpu) -> Result<InitialState, Error> {
        let MachineConfig { spec, layout, .. } = &self.config;
        Ok(initial_state(&bsp.sregs()?, spec, layout, host::quirks(spec))?)
    }

    fn write_tables(&mut self, vm: &Vm, state: &InitialState) -> Result<(), Error> {
        let memory = vm.memory();
        for image in &state.images {
            let written = memory.write_slice(&image.bytes, image.gpa.into());
            written.map_err(|source| Error::Table { what: image.name, source })?;
        }
        Ok(())
    }

    fn set_cpuid(&mut self, bsp: &Vcpu, state: &InitialState) -> Result<(), Error> {
        self.config.cpuid = host::cpuid(self.kvm, &self.config.spec, &state.needs)?;
        super::set_cpuid(bsp, &self.config)
    }

    /// Sets the special registers and compares: a host that cannot do the mode either refuses them, or accepts them and
    /// silently clears a bit.
    fn enter_mode(&mut self, bsp: &Vcpu, state: &InitialState) -> Result<(), Error> {
        let spec = &self.config.spec;
        bsp.set_sregs(&state.sregs).map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) => Error::ModeRefused { feature: host::feature_name(spec), source },
            _ => Error::Kvm(source),
        })?;
        let differences = sregs_diff::compare(&state.sregs, &bsp.sregs()?);
        let mode = spec.boot.mode;
        if differences.is_empty() { Ok(()) } else { Err(Error::ModeDropped { mode, differences }) }
    }

    fn set_regs(&mut self, bsp: &Vcpu, state: &InitialState) -> Result<(), Error> {
        Ok(bsp.set_regs(&state.regs)?)
    }

    fn create_ap(&mut self, vm: &Vm, id: u32, _state: &InitialState) -> Result<Vcpu, Error> {
        super::create_vcpu(vm, id, &self.config)
    }

    fn attach_devices(
        self,
        vm: Vm,
        bsp: Vcpu,
        aps: Vec<Vcpu>,
        state: InitialState,
    ) -> Result<Machine, Error> {
        let Self { config, console, .. } = self;
        let config = MachineConfig { trap_page: state.trap_page, ..config };
        Machine::assemble(MachineParts { vm, bsp, aps, config, console, origin: None })
    }
}
