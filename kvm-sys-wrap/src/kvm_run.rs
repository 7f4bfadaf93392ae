//! Step 6: the `kvm_run` area, `KVM_GET_VCPU_MMAP_SIZE` bytes that the kernel shares with us for each vCPU.
//!
//! It begins with `struct kvm_run` (why the last `KVM_RUN` returned) and goes on with data that the struct points into,
//! such as the bytes of a PIO exit (api.rst, section 5). kvm-ioctls maps it too, but hands out only the struct, and
//! PIO without its width and count; so it is mapped once more here, and read in full by `exit.rs`.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32};

use kvm_bindings::{KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, kvm_regs, kvm_run, kvm_sregs};

use crate::sync_regs;

/// The mapped area of one vCPU.
#[derive(Debug)]
pub(crate) struct RunArea {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: the area is plain shared memory that stays mapped as long as the value lives. `&RunArea` gives only an atomic
// to other threads; everything else wants `&mut RunArea`.
unsafe impl Send for RunArea {}
// SAFETY: see above.
unsafe impl Sync for RunArea {}

impl RunArea {
    /// Maps the area of the vCPU behind `fd`.
    pub(crate) fn map(fd: &kvm_ioctls::VcpuFd, size: usize) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        if size < size_of::<kvm_run>() {
            return Err(io::Error::other(format!("the area has {size} bytes, less than struct kvm_run")));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { start, size })
    }

    /// The struct at its start. The vCPU must not be inside `KVM_RUN`.
    pub(crate) fn run(&self) -> &kvm_run {
        // SAFETY: `map` made sure that the area is large enough; it is page-aligned; every bit pattern is a valid
        // `kvm_run`; and the kernel writes it only inside KVM_RUN, which takes `&mut` of the vCPU that owns `self`.
        // `immediate_exit`, which other threads may write, is never read through this reference.
        unsafe { self.start.cast::<kvm_run>().as_ref() }
    }

    /// The same, to write.
    pub(crate) fn run_mut(&mut self) -> &mut kvm_run {
        // SAFETY: as in `run`, and `&mut self` excludes other users.
        unsafe { self.start.cast::<kvm_run>().as_mut() }
    }

    /// Asks the kernel to leave the general registers here when `KVM_RUN` returns, and if wanted the special ones (api.rst,
    /// section 5, on `kvm_valid_regs`). Those of the last time are forgotten.
    ///
    /// With `staged`, the kernel takes what waits there first.
    pub(crate) fn want_registers(&mut self, special: bool, staged: bool) {
        let run = self.run_mut();
        // A kernel before 4.17 has only padding there, and leaves it alone.
        run.kvm_valid_regs = u64::from(KVM_SYNC_X86_REGS | if special { KVM_SYNC_X86_SREGS } else { 0 });
        run.kvm_dirty_regs = if staged { sync_regs::ALL_SYNC_REGS } else { 0 };
        if !staged {
            // Writing a member of a union that is plain data is safe.
            run.s.regs.regs.rflags = 0;
        }
    }

    /// The general registers that the kernel left; `None` where it did not.
    pub(crate) fn regs(&self) -> Option<kvm_regs> {
        // SAFETY: both members of the union are plain data.
        let regs = unsafe { self.run().s.regs }.regs;
        // Bit 1 of RFLAGS is always set (SDM vol. 1, 3.4.3): this is not the 0 of `want_registers`.
        (regs.rflags & 2 != 0).then_some(regs)
    }

    /// The special registers that the kernel left; `None` where it did not.
    pub(crate) fn sregs(&self) -> Option<kvm_sregs> {
        let wanted = self.run().kvm_valid_regs & u64::from(KVM_SYNC_X86_SREGS) != 0;
        self.regs().filter(|_| wanted)?;
        // SAFETY: as above; a kernel that leaves the one kind leaves the other too.
        Some(unsafe { self.run().s.regs }.sregs)
    }

    /// Where it is mapped. To show, not to use.
    pub(crate) fn address(&self) -> usize {
        self.start.addr().get()
    }

    /// `length` bytes at `offset` from the start; `None` where that leaves the area.
    pub(crate) fn bytes(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let offset = self.checked(offset, length)?;
        // SAFETY: `checked` keeps it inside the mapping; the kernel writes only inside KVM_RUN.
        let start = unsafe { self.start.add(offset) };
        // SAFETY: as above.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), length) })
    }

    /// The same, to write.
    pub(crate) fn bytes_mut(&mut self, offset: u64, length: usize) -> Option<&mut [u8]> {
        let offset = self.checked(offset, length)?;
        // SAFETY: `checked` keeps it inside the mapping; `&mut self` excludes other users.
        let start = unsafe { self.start.add(offset) };
        // SAFETY: as above.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) })
    }

    /// The byte that makes `KVM_RUN` return at once, as an atomic that a signal handler may set.
    pub(crate) fn immediate_exit(&self) -> &AtomicU8 {
        let offset = std::mem::offset_of!(kvm_run, immediate_exit);
        // SAFETY: the offset lies inside the struct, which lies inside the area.
        let byte = unsafe { self.start.add(offset) };
        // SAFETY: the byte stays mapped as long as `self`, and all accesses of ours to it are atomic.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }

    /// The 32 bits at `offset`, as an atomic that both sides count with; `None` where that leaves the area.
    pub(crate) fn word(&self, offset: u64) -> Option<&AtomicU32> {
        let offset = self.checked(offset, size_of::<u32>()).filter(|offset| offset.is_multiple_of(4))?;
        // SAFETY: `checked` keeps it inside the mapping.
        let word = unsafe { self.start.add(offset) }.cast::<u32>();
        // SAFETY: the area begins at a page, so the word is aligned; it stays mapped as long as `self`, and all accesses of
        // ours to it are atomic.
        Some(unsafe { AtomicU32::from_ptr(word.as_ptr()) })
    }

    fn checked(&self, offset: u64, length: usize) -> Option<usize> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(length)?;
        (end <= self.size).then_some(offset)
    }
}

impl Drop for RunArea {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this size, and nothing borrowed from it lives on.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}
