//! Step 9: `KVM_RUN`. The guest runs until something needs user space; what that is comes back as an [`Exit`].
//!
//! An exit that asks for input (a port or MMIO read) is answered with [`Vcpu::reply`] before the next run; the kernel
//! completes the instruction then. Signals end `KVM_RUN` too, with EINTR: see `kick.rs`.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::{fmt, io};

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Error, Result, call_failed};
use crate::exit::{Exit, Pending};
use crate::kick::Running;

/// `_IO(KVMIO, 0x80)` of linux/kvm.h.
const KVM_RUN: libc::Ioctl = 0xae80;
const KVM_EXIT_MEMORY_FAULT: u32 = kvm_bindings::KVM_EXIT_MEMORY_FAULT;

impl Vcpu {
    /// Runs the guest until the next exit (api.rst 4.10).
    ///
    /// # Errors
    /// [`Error::Call`] where the kernel could not run it; what the guest did is always an [`Exit`].
    pub fn run(&mut self) -> Result<Exit> {
        if let Some(exit) = self.deferred() {
            return Ok(exit);
        }
        let exit = self.enter();
        if self.vm().collects() { Ok(self.after_coalesced(exit?)) } else { exit }
    }

    #[inline]
    fn enter(&mut self) -> Result<Exit> {
        self.pending = Pending::None;
        // The kernel writes this field whenever KVM_RUN gets as far as the guest; with EFAULT only sometimes.
        self.area.run_mut().exit_reason = u32::MAX;
        self.prepare();
        let Some(running) = Running::enter(&self.kick, self.area.immediate_exit()) else {
            return Ok(Exit::Interrupted);
        };
        let result = self.enter_guest(format_args!(""));
        drop(running);
        match result {
            Ok(_) => Ok(self.decode()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {
                    self.kick.heard();
                    Ok(Exit::Interrupted)
                }
                Some(libc::EAGAIN) => Ok(Exit::Retry),
                Some(libc::EFAULT | libc::EHWPOISON) => {
                    // A page that KVM could not have. If a mapped file lost it, that says it all.
                    self.vm().check_files()?;
                    if self.exit_reason() == KVM_EXIT_MEMORY_FAULT {
                        return Ok(Exit::decode(&self.area).0);
                    }
                    Err(call_failed(Call::Run, format!("vCPU {}", self.id()))(error))
                }
                _ => Err(call_failed(Call::Run, format!("vCPU {}", self.id()))(error)),
            },
        }
    }

    /// Lets the kernel finish the instruction that led to the last exit, and nothing more: what was read goes into its
    /// register, and RIP moves on. Until then that instruction is half done, and the registers show it (api.rst,
    /// section 5, on `immediate_exit` and on KVM_EXIT_IO). Some instructions take several exits: then the next one
    /// is returned.
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    pub fn finish_instruction(&mut self) -> Result<Option<Exit>> {
        if let Some(exit) = self.deferred() {
            return Ok(Some(exit));
        }
        self.pending = Pending::None;
        // A kick that comes now is not lost: this call returns at once, and the next run hears it.
        self.area.immediate_exit().store(1, Ordering::Relaxed);
        self.prepare();
        let result = self.enter_guest(format_args!("complete"));
        self.area.immediate_exit().store(0, Ordering::Relaxed);
        match result {
            Ok(_) => Ok(Some(self.decode())),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {
                self.is_unfinished = false;
                Ok(None)
            }
            Err(error) => Err(call_failed(Call::Run, format!("vCPU {}", self.id()))(error)),
        }
    }

    /// Answers the last exit, a [`Exit::PioIn`] or [`Exit::MmioRead`], with exactly as many bytes as it asked for.
    ///
    /// # Errors
    /// [`Error::Reply`] where the length is wrong or nothing was asked.
    pub fn complete_io(&mut self, bytes: &[u8]) -> Result<()> {
        let expected = self.pending.length();
        let wrong = Error::Reply { expected, given: bytes.len() };
        if bytes.len() != expected || expected == 0 {
            return Err(wrong);
        }
        let offset = self.pending.offset();
        let place = self.area.bytes_mut(offset, expected).ok_or(wrong)?;
        match (place, bytes) {
            // Nearly always, and then no call is worth it.
            ([place], [byte]) => *place = *byte,
            (place, bytes) => place.copy_from_slice(bytes),
        }
        Ok(())
    }

    /// Answers the last exit, an [`Exit::ReadMsr`] or [`Exit::WriteMsr`], with #GP: there is no such MSR. (Without an answer
    /// a read gives 0 and a write goes nowhere.)
    ///
    /// # Errors
    /// [`Error::Reply`] where nothing of the kind was asked.
    pub fn inject_msr_fault(&mut self) -> Result<()> {
        if self.pending != Pending::Msr {
            return Err(Error::Reply { expected: 0, given: 1 });
        }
        // Writing a member of a union that is plain data is safe; the kernel reads this one after an MSR exit.
        self.area.run_mut().__bindgen_anon_1.msr.error = 1;
        Ok(())
    }

    /// Whether something came with the last exit that [`Vcpu::complete`] would bring to an end. A HLT leaves nothing behind.
    #[must_use]
    pub const fn has_pending_completion(&self) -> bool {
        self.is_unfinished || self.deferred.is_some()
    }

    fn prepare(&mut self) {
        let special = self.sregs_wanted.load(Ordering::Relaxed);
        self.area.want_registers(special, self.staged.load(Ordering::Relaxed));
    }

    /// The call itself.
    fn enter_guest(&self, words: fmt::Arguments<'_>) -> io::Result<libc::c_int> {
        let fd = self.fd.as_raw_fd();
        let result = self.observed().call(Call::Run, words, || {
            // SAFETY: KVM_RUN takes no argument. It changes the kvm_run area and guest memory: the area is borrowed by nobody
            // (the callers have `&mut Vcpu`), guest memory is only ever accessed as volatile.
            let result = unsafe { libc::ioctl(fd, KVM_RUN, 0) };
            if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
        });
        // What waited there has been taken.
        self.staged.store(false, Ordering::Relaxed);
        result
    }

    fn decode(&mut self) -> Exit {
        let (exit, pending) = Exit::decode(&self.area);
        self.pending = pending;
        self.is_unfinished = exit != Exit::Hlt;
        exit
    }

    fn exit_reason(&self) -> u32 {
        self.area.run().exit_reason
    }
}
