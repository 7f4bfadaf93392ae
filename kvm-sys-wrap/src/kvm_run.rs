//! Step 6: the `kvm_run` area, `KVM_GET_VCPU_MMAP_SIZE` bytes (api.rst 4.5) that the kernel shares with each vCPU's owner.
//!
//! It begins with `struct kvm_run` (why the last `KVM_RUN` returned) and goes on with data that the struct points into,
//! such as the bytes of a PIO exit and the ring of coalesced writes (api.rst, section 5).
//!
//! kvm-ioctls 0.25 maps the area too. This second mapping (one `mmap` for each vCPU) is needed because
//! `VcpuFd::get_kvm_run` returns a reference to the struct alone: the data of a PIO exit lie behind it, where a pointer made
//! from that reference must not go, and the size of its mapping is private. `VcpuFd::run` has the data, but not the width
//! and count of a string instruction. `set_sync_valid_reg`, `set_sync_dirty_reg` and `sync_regs_mut` want `&mut VcpuFd`, while
//! registers have to be flushed by calls that read; `sync_regs` copies all three structures at each exit. On coalesced writes see
//! `coalesced_pio.rs`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use kvm_bindings::{
    KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, kvm_regs, kvm_run, kvm_sregs, kvm_vcpu_events,
};

/// The sets of registers that [`DirtyRegs`] holds: all that `KVM_CAP_SYNC_REGS` has on x86.
pub(crate) const ALL_SYNC_REGS: u64 = (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS) as u64;

/// Register values that the next `KVM_RUN` takes from the area (`kvm_dirty_regs`).
#[derive(Clone, Copy)]
pub(crate) struct DirtyRegs {
    pub(crate) regs: kvm_regs,
    pub(crate) sregs: kvm_sregs,
    pub(crate) events: kvm_vcpu_events,
}

/// The mapped area of one vCPU.
///
/// References into it follow one rule: the kernel writes the struct and the PIO page only inside `KVM_RUN` of this vCPU,
/// which takes `&mut Vcpu`, so `&self` and `&mut self` mean what they say. Exceptions are `immediate_exit`, which a signal
/// handler writes between the two ends of a `RunScope` (`kick.rs`; no reference to the struct lives then), and the ring of
/// coalesced writes, which the kernel fills whenever any vCPU of the VM runs. Both are accessed as atomics only.
#[derive(Debug)]
pub(crate) struct RunArea {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: the area is shared memory that stays mapped as long as the value lives, whichever thread uses it.
unsafe impl Send for RunArea {}
// SAFETY: `&RunArea` reads what only `&mut Vcpu` lets the kernel or us write, or gives atomics.
unsafe impl Sync for RunArea {}

impl RunArea {
    /// Maps the area of a vCPU.
    pub(crate) fn map(fd: &kvm_ioctls::VcpuFd, size: usize) -> io::Result<Self> {
        if size < size_of::<kvm_run>() {
            return Err(io::Error::other(format!("the area has {size} bytes, less than struct kvm_run")));
        }
        Self::map_memory(fd.as_raw_fd(), libc::MAP_SHARED, size)
    }

    fn map_memory(fd: RawFd, flags: libc::c_int, size: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { start, size })
    }

    /// The struct at the start of the area.
    pub(crate) fn run(&self) -> &kvm_run {
        // SAFETY: `map` made sure that the area is large enough; it is page-aligned; every bit pattern is a valid
        // `kvm_run`; nothing writes it while the reference lives (see the type).
        unsafe { self.start.cast::<kvm_run>().as_ref() }
    }

    /// The struct at the start of the area, to write.
    pub(crate) fn run_mut(&mut self) -> &mut kvm_run {
        // SAFETY: as in `run`, and `&mut self` excludes other references.
        unsafe { self.start.cast::<kvm_run>().as_mut() }
    }

    /// Clears the struct, as it is for a new vCPU.
    pub(crate) fn clear(&mut self) {
        *self.run_mut() = kvm_run::default();
    }

    /// Sets `kvm_valid_regs` and `kvm_dirty_regs` (api.rst, section 5): the general registers are in the area after the next
    /// `KVM_RUN`, with `sregs` the special registers too; with `dirty` that `KVM_RUN` first takes what [`RunArea::set_dirty_regs`]
    /// stored. Invalidates the registers of the last exit.
    pub(crate) fn request_sync_regs(&mut self, sregs: bool, dirty: bool) {
        let run = self.run_mut();
        // A kernel before 4.17 has only padding there and does not read it.
        run.kvm_valid_regs = u64::from(KVM_SYNC_X86_REGS | if sregs { KVM_SYNC_X86_SREGS } else { 0 });
        run.kvm_dirty_regs = if dirty { ALL_SYNC_REGS } else { 0 };
        if !dirty {
            // Writing a member of a union that is plain data is safe.
            run.s.regs.regs.rflags = 0;
        }
    }

    /// The general registers that the last `KVM_RUN` stored; `None` if the kernel does not do that.
    pub(crate) fn regs(&self) -> Option<kvm_regs> {
        // SAFETY: both members of the union are plain data.
        let regs = unsafe { self.run().s.regs }.regs;
        // Bit 1 of RFLAGS is always set (SDM vol. 1, 3.4.3): this is not the 0 of `request_sync_regs`.
        (regs.rflags & 2 != 0).then_some(regs)
    }

    /// The special registers that the last `KVM_RUN` stored; `None` if they were not requested or the kernel does not do that.
    pub(crate) fn sregs(&self) -> Option<kvm_sregs> {
        let requested = self.run().kvm_valid_regs & u64::from(KVM_SYNC_X86_SREGS) != 0;
        self.regs().filter(|_| requested)?;
        // SAFETY: both members of the union are plain data. A kernel that stores the general registers stores these too.
        Some(unsafe { self.run().s.regs }.sregs)
    }

    /// Stores registers for the next `KVM_RUN`.
    pub(crate) fn set_dirty_regs(&mut self, registers: &DirtyRegs) {
        let area = &mut self.run_mut().s;
        // SAFETY: both members of the union are plain data.
        let area = unsafe { &mut area.regs };
        (area.regs, area.sregs, area.events) = (registers.regs, registers.sregs, registers.events);
    }

    /// The registers that [`RunArea::set_dirty_regs`] stored.
    pub(crate) fn dirty_regs(&self) -> DirtyRegs {
        // SAFETY: both members of the union are plain data.
        let area = unsafe { self.run().s.regs };
        DirtyRegs { regs: area.regs, sregs: area.sregs, events: area.events }
    }

    /// Address of the mapping, to show.
    pub(crate) fn address(&self) -> usize {
        self.start.addr().get()
    }

    /// `length` bytes at `offset` from the start, inside the struct or the PIO page; `None` outside of the area.
    pub(crate) fn bytes(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let offset = self.checked(offset, length)?;
        // SAFETY: `checked` keeps it inside the mapping.
        let start = unsafe { self.start.add(offset) };
        // SAFETY: inside the mapping; callers pass offsets that the kernel gave for the data of this vCPU's exit, which
        // nothing writes while the reference lives (see the type).
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), length) })
    }

    /// `length` bytes at `offset` from the start, to write; `None` outside of the area.
    pub(crate) fn bytes_mut(&mut self, offset: u64, length: usize) -> Option<&mut [u8]> {
        let offset = self.checked(offset, length)?;
        // SAFETY: `checked` keeps it inside the mapping.
        let start = unsafe { self.start.add(offset) };
        // SAFETY: as in `bytes`, and `&mut self` excludes other references.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) })
    }

    /// `kvm_run.immediate_exit`: 1 makes `KVM_RUN` return at once.
    pub(crate) fn immediate_exit(&self) -> &AtomicU8 {
        let offset = std::mem::offset_of!(kvm_run, immediate_exit);
        // SAFETY: the offset lies inside the struct, which lies inside the area.
        let byte = unsafe { self.start.add(offset) };
        // SAFETY: the byte stays mapped as long as `self`; it is written through this atomic only, and no reference to the
        // struct lives while a signal handler may do so (see the type).
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }

    /// The 32 bits at `offset`, which the kernel may change at any time; `None` if not aligned or outside of the area.
    pub(crate) fn atomic_u32(&self, offset: u64) -> Option<&AtomicU32> {
        let offset = self.checked(offset, size_of::<u32>()).filter(|offset| offset.is_multiple_of(4))?;
        // SAFETY: `checked` keeps it inside the mapping.
        let word = unsafe { self.start.add(offset) }.cast::<u32>();
        // SAFETY: the area begins at a page, so the word is aligned; it stays mapped as long as `self`. It is used for the
        // ring of coalesced writes, which is accessed as atomics only.
        Some(unsafe { AtomicU32::from_ptr(word.as_ptr()) })
    }

    /// The 64 bits at `offset`, which the kernel may change at any time; `None` if not aligned or outside of the area.
    pub(crate) fn atomic_u64(&self, offset: u64) -> Option<&AtomicU64> {
        let offset = self.checked(offset, size_of::<u64>()).filter(|offset| offset.is_multiple_of(8))?;
        // SAFETY: `checked` keeps it inside the mapping.
        let word = unsafe { self.start.add(offset) }.cast::<u64>();
        // SAFETY: as in `atomic_u32`.
        Some(unsafe { AtomicU64::from_ptr(word.as_ptr()) })
    }

    fn checked(&self, offset: u64, length: usize) -> Option<usize> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(length)?;
        (end <= self.size).then_some(offset)
    }
}

impl Drop for RunArea {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map_memory` with this size, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    impl RunArea {
        /// Makes an area of three pages without a vCPU, as on x86: the struct, the PIO page, the ring of coalesced writes.
        pub(crate) fn for_test(fill: u8) -> Self {
            let size = 0x3000;
            let mut area = Self::map_memory(-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, size).unwrap();
            area.bytes_mut(0, size).unwrap().fill(fill);
            area
        }
    }

    #[test]
    fn nothing_outside_of_the_area_is_accessible() {
        let mut area = RunArea::for_test(0);
        for (offset, length) in [(0, 0x3000), (0x2fff, 1), (0x3000, 0)] {
            assert_eq!(area.bytes(offset, length).unwrap().len(), length);
            area.bytes_mut(offset, length).unwrap().fill(7);
        }
        for (offset, length) in [(0, 0x3001), (0x2fff, 2), (0x3001, 0), (u64::MAX, 1), (1, usize::MAX)] {
            assert!(area.bytes(offset, length).is_none() && area.bytes_mut(offset, length).is_none());
        }
        area.atomic_u32(0x2ffc).unwrap().store(0x0102_0304, Ordering::Relaxed);
        area.atomic_u64(0x2ff0).unwrap().store(5, Ordering::Relaxed);
        assert_eq!(area.bytes(0x2ff0, 16), Some(&[5, 0, 0, 0, 0, 0, 0, 0, 7, 7, 7, 7, 4, 3, 2, 1][..]));
        for offset in [0x2ffe, 0x3000, u64::MAX] {
            assert!(area.atomic_u32(offset).is_none() && area.atomic_u64(offset).is_none());
        }
        assert!(area.atomic_u64(0x2ffc).is_none());
    }

    #[test]
    fn registers_are_those_that_were_stored() {
        let mut area = RunArea::for_test(0xff);
        assert!(area.regs().is_some() && area.sregs().is_some());
        area.request_sync_regs(false, false);
        assert!(area.regs().is_none() && area.sregs().is_none());
        let regs = kvm_regs { rip: 0x1000, rflags: 2, ..kvm_regs::default() };
        let sregs = kvm_sregs { cr3: 0x2000, ..kvm_sregs::default() };
        area.set_dirty_regs(&DirtyRegs { regs, sregs, events: kvm_vcpu_events::default() });
        area.request_sync_regs(true, true);
        assert_eq!(area.run().kvm_dirty_regs, ALL_SYNC_REGS);
        assert_eq!((area.regs(), area.sregs()), (Some(regs), Some(sregs)));
        let dirty = area.dirty_regs();
        assert_eq!((dirty.regs, dirty.sregs), (regs, sregs));
        area.clear();
        assert_eq!((area.run().exit_reason, area.run().kvm_valid_regs), (0, 0));
    }

    #[test]
    fn immediate_exit_is_the_field_of_the_struct() {
        let mut area = RunArea::for_test(0);
        area.immediate_exit().store(1, Ordering::Relaxed);
        assert_eq!(area.run().immediate_exit, 1);
        area.run_mut().immediate_exit = 0;
        assert_eq!(area.immediate_exit().load(Ordering::Relaxed), 0);
        assert_eq!(area.address() % 4096, 0);
    }
}
