//! Step 9: `KVM_RUN` (api.rst 4.10). The guest runs until something needs user space, which is returned as an [`Exit`].
//!
//! An exit that asks for input (a port or MMIO read) is answered with [`Vcpu::complete_io`] before the next run; the kernel
//! completes the instruction then. Signals end `KVM_RUN` too, with EINTR: see `kick.rs`.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::{fmt, io};

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Error, Result, call_failed};
use crate::exit::{Exit, PendingReply};
use crate::kick::RunScope;

/// `_IO(KVMIO, 0x80)` of linux/kvm.h.
const KVM_RUN: libc::Ioctl = 0xae80;
const KVM_EXIT_MEMORY_FAULT: u32 = kvm_bindings::KVM_EXIT_MEMORY_FAULT;

impl Vcpu {
    /// Runs the guest until the next exit (`KVM_RUN`, api.rst 4.10).
    ///
    /// # Errors
    /// [`Error::Call`] where the kernel could not run the vCPU, [`Error::FileChanged`] where it could not because a file in guest
    /// memory lost pages, [`Error::Released`]. Whatever the guest did is an [`Exit`].
    pub fn run(&mut self) -> Result<Exit> {
        self.check_owns_vm()?;
        if let Some(exit) = self.next_deferred() {
            return Ok(exit);
        }
        let exit = self.run_once();
        #[cfg(debug_assertions)]
        crate::sandbox_probe::fire(self.vm().kvm().fd());
        if self.vm().has_coalesced_pio() { Ok(self.defer_after_coalesced(exit?)) } else { exit }
    }

    #[inline]
    fn run_once(&mut self) -> Result<Exit> {
        self.pending_reply = PendingReply::None;
        // The kernel writes this field whenever KVM_RUN gets as far as the guest; with EFAULT only sometimes.
        self.area.run_mut().exit_reason = u32::MAX;
        self.request_sync_regs();
        let Some(scope) = RunScope::enter(&self.kick, self.area.immediate_exit()) else {
            return Ok(Exit::Interrupted);
        };
        let result = self.call_run(format_args!(""));
        drop(scope);
        match result {
            Ok(_) => Ok(self.decode()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {
                    self.kick.clear_requests();
                    Ok(Exit::Interrupted)
                }
                Some(libc::EAGAIN) => Ok(Exit::Retry),
                Some(libc::EFAULT | libc::EHWPOISON) => {
                    // KVM could not access a page. A mapped file that lost it explains everything else.
                    self.vm().check_mapped_files()?;
                    if self.exit_reason() == KVM_EXIT_MEMORY_FAULT {
                        return Ok(Exit::decode(&self.area).0);
                    }
                    Err(call_failed(Call::Run, format!("vCPU {}", self.id()))(error))
                }
                _ => Err(call_failed(Call::Run, format!("vCPU {}", self.id()))(error)),
            },
        }
    }

    /// Completes the instruction that led to the last exit, and nothing more (`KVM_RUN` with `immediate_exit` set): input goes into
    /// its register, and RIP moves on. Until then the registers show an instruction that is half done (api.rst, section 5, on
    /// `immediate_exit` and on KVM_EXIT_IO). Some instructions take several exits: then the next one is returned.
    ///
    /// # Errors
    /// [`Error::Call`] where the kernel could not run the vCPU, [`Error::Released`].
    pub fn finish_instruction(&mut self) -> Result<Option<Exit>> {
        self.check_owns_vm()?;
        if let Some(exit) = self.next_deferred() {
            return Ok(Some(exit));
        }
        self.pending_reply = PendingReply::None;
        // A kick during this call is kept for the next run; the call returns at once anyway.
        self.area.immediate_exit().store(1, Ordering::Relaxed);
        self.request_sync_regs();
        let result = self.call_run(format_args!("complete"));
        self.area.immediate_exit().store(0, Ordering::Relaxed);
        match result {
            Ok(_) => Ok(Some(self.decode())),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {
                self.completion_pending = false;
                Ok(None)
            }
            Err(error) => Err(call_failed(Call::Run, format!("vCPU {}", self.id()))(error)),
        }
    }

    /// Stores the input for the last exit, an [`Exit::PioIn`] or [`Exit::MmioRead`], in the `kvm_run` area. `bytes` must have
    /// exactly the length that the exit asked for. Makes no call: the next `KVM_RUN` takes the input.
    ///
    /// # Errors
    /// [`Error::Reply`] where the length is wrong or the last exit asked for nothing.
    pub fn complete_io(&mut self, bytes: &[u8]) -> Result<()> {
        let expected = self.pending_reply.length();
        let wrong = Error::Reply { expected, given: bytes.len() };
        if bytes.len() != expected || expected == 0 {
            return Err(wrong);
        }
        let offset = self.pending_reply.offset();
        let target = self.area.bytes_mut(offset, expected).ok_or(wrong)?;
        match (target, bytes) {
            // The usual case, without the call of memcpy.
            ([target], [byte]) => *target = *byte,
            (target, bytes) => target.copy_from_slice(bytes),
        }
        Ok(())
    }

    /// Makes the access of the last exit, an [`Exit::ReadMsr`] or [`Exit::WriteMsr`], fail with #GP (`kvm_run.msr.error`, api.rst,
    /// section 5). Without it a read returns 0 and a write has no effect.
    ///
    /// # Errors
    /// [`Error::Reply`] where the last exit was something else.
    pub fn inject_msr_fault(&mut self) -> Result<()> {
        if self.pending_reply != PendingReply::Msr {
            return Err(Error::Reply { expected: 0, given: 1 });
        }
        // Writing a member of a union that is plain data is safe; the kernel reads this one after an MSR exit.
        self.area.run_mut().__bindgen_anon_1.msr.error = 1;
        Ok(())
    }

    /// Gives the value to the guest's read of an MSR, the last exit, an [`Exit::ReadMsr`] (`kvm_run.msr.data`, api.rst, section 5).
    ///
    /// # Errors
    /// [`Error::Reply`] where the last exit was something else.
    pub fn complete_msr(&mut self, value: u64) -> Result<()> {
        if self.pending_reply != PendingReply::Msr {
            return Err(Error::Reply { expected: 0, given: 8 });
        }
        // Writing a member of a union that is plain data is safe; the kernel reads this one after an MSR exit.
        self.area.run_mut().__bindgen_anon_1.msr.data = value;
        Ok(())
    }

    /// Returns true if the instruction of the last exit may be half done, or if more exits of the last `KVM_RUN` wait: then
    /// [`Vcpu::finish_instruction`] has something to do. False after HLT, which is complete when it exits.
    #[must_use]
    pub const fn has_pending_completion(&self) -> bool {
        self.completion_pending || self.deferred.is_some()
    }

    /// Fails if the kernel's VM is that of another machine: the vCPU would run in its memory.
    #[inline]
    fn check_owns_vm(&self) -> Result<()> {
        if self.vm().is_released() { Err(Error::Released { vcpu: self.id() }) } else { Ok(()) }
    }

    fn request_sync_regs(&mut self) {
        let sregs = self.wants_sregs.load(Ordering::Relaxed);
        self.area.request_sync_regs(sregs, self.has_dirty_regs.load(Ordering::Relaxed));
    }

    /// `KVM_RUN` itself.
    fn call_run(&self, arguments: fmt::Arguments<'_>) -> io::Result<libc::c_int> {
        let fd = self.fd.as_raw_fd();
        let result = self.dispatcher().call(Call::Run, arguments, || {
            // SAFETY: KVM_RUN takes no argument. It changes the kvm_run area and guest memory: no reference into the area
            // lives (the callers have `&mut Vcpu`), guest memory is only ever accessed as volatile.
            let result = unsafe { libc::ioctl(fd, KVM_RUN, 0) };
            if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
        });
        // The kernel has taken the stored registers.
        self.has_dirty_regs.store(false, Ordering::Relaxed);
        result
    }

    fn decode(&mut self) -> Exit {
        let (exit, pending_reply) = Exit::decode(&self.area);
        self.pending_reply = pending_reply;
        self.completion_pending = exit != Exit::Hlt;
        exit
    }

    fn exit_reason(&self) -> u32 {
        self.area.run().exit_reason
    }
}
