//! Coalesced PIO: writes to a port that the kernel collects instead of exiting for each (`KVM_REGISTER_COALESCED_MMIO`, api.rst
//! 4.116; `KVM_CAP_COALESCED_PIO`, Linux 4.20).
//!
//! They wait in a ring, a page of the area that the kernel shares with each vCPU, until `KVM_RUN` returns for another reason
//! or the ring is full. [`Vcpu::run`] then returns them one after the other as [`Exit::PioOut`], and after them the exit for which
//! `KVM_RUN` returned: exits come in the same order as without coalescing. Only the registers are those of the last exit from
//! the first on.
//!
//! The ring belongs to the VM. With several vCPUs each entry is still returned once, by whichever vCPU returns from `KVM_RUN` first,
//! so the order between vCPUs is lost; use it for VMs with one vCPU.
//!
//! kvm-ioctls 0.25 has `map_coalesced_mmio_ring` and `coalesced_mmio_read`. They are not used: that mapping is one more `mmap` at
//! the start of each vCPU, the index from shared memory is not checked against the ring's size, `last` is read without acquire
//! ordering before the entry, and `&mut` to the page is a data race while another vCPU of the VM runs.

use std::sync::atomic::Ordering;

use kvm_bindings::{kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use kvm_ioctls::IoEventAddress;

use crate::address::{PAGE_SIZE, Port};
use crate::call::Call;
use crate::capability::Capability;
use crate::create_vcpu::Vcpu;
use crate::create_vm::Vm;
use crate::error::{Result, call_failed};
use crate::exit::{Exit, PendingReply};
use crate::io_bytes::IoBytes;
use crate::kvm_run::RunArea;
use crate::vm_pool::COALESCED_WIDTH as WIDTH;

const HEADER_SIZE: u64 = size_of::<kvm_coalesced_mmio_ring>() as u64;
const ENTRY_SIZE: u64 = size_of::<kvm_coalesced_mmio>() as u64;
/// `KVM_COALESCED_MMIO_MAX` of linux/kvm.h: entries that fit in the page after the header.
const MAX_ENTRIES: u64 = (PAGE_SIZE - HEADER_SIZE) / ENTRY_SIZE;

impl Vm {
    /// Registers a port whose 1-byte writes the kernel coalesces (`KVM_REGISTER_COALESCED_MMIO`, api.rst 4.116). Returns false,
    /// and does nothing, on a host without `KVM_CAP_COALESCED_PIO`.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn register_coalesced_pio(&self, port: Port) -> Result<bool> {
        // The capability's value is the ring's page in the area of each vCPU.
        let page = self.kvm().capability(Capability::CoalescedMmio);
        let offset = u64::try_from(page).unwrap_or(0).saturating_mul(PAGE_SIZE);
        if offset == 0 || self.kvm().capability(Capability::CoalescedPio) <= 0 {
            return Ok(false);
        }
        self.dispatcher()
            .call(Call::RegisterCoalescedMmio, format_args!("port {port}, {WIDTH} bytes"), || {
                self.fd()?.register_coalesced_mmio(IoEventAddress::Pio(port.0.into()), WIDTH)
            })
            .map_err(call_failed(Call::RegisterCoalescedMmio, format!("port {port}")))?;
        self.coalesced_ring_offset().store(offset, Ordering::Relaxed);
        self.kernel().lock().coalesced_ring = offset;
        self.lock_coalesced_ports().push(port);
        Ok(true)
    }

    /// Stops the coalescing of writes to a port (`KVM_UNREGISTER_COALESCED_MMIO`, api.rst 4.116). Already coalesced writes are
    /// still returned by [`Vcpu::run`](crate::Vcpu::run).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn unregister_coalesced_pio(&self, port: Port) -> Result<()> {
        self.dispatcher()
            .call(Call::UnregisterCoalescedMmio, format_args!("port {port}, {WIDTH} bytes"), || {
                self.fd()?.unregister_coalesced_mmio(IoEventAddress::Pio(port.0.into()), WIDTH)
            })
            .map_err(call_failed(Call::UnregisterCoalescedMmio, format!("port {port}")))?;
        self.lock_coalesced_ports().retain(|registered| *registered != port);
        Ok(())
    }
}

impl Vcpu {
    /// Returns the oldest coalesced write and keeps `exit` for after the last; without coalesced writes, returns `exit`.
    pub(crate) fn defer_after_coalesced(&mut self, exit: Exit) -> Exit {
        let ring = self.vm().coalesced_ring_offset().load(Ordering::Relaxed);
        match pop(&self.area, ring) {
            None => exit,
            Some(write) => {
                self.deferred = Some((exit, std::mem::replace(&mut self.pending_reply, PendingReply::None)));
                write
            }
        }
    }

    /// Discards all coalesced writes. `ring` is the offset of the ring, or 0.
    pub(crate) fn discard_coalesced(&self, ring: u64) {
        while ring != 0 && pop(&self.area, ring).is_some() {}
    }

    /// Returns the next coalesced write, then the deferred exit; `None` if `KVM_RUN` has to be called.
    pub(crate) fn next_deferred(&mut self) -> Option<Exit> {
        self.deferred.as_ref()?;
        let ring = self.vm().coalesced_ring_offset().load(Ordering::Relaxed);
        pop(&self.area, ring).or_else(|| {
            let (exit, pending_reply) = self.deferred.take()?;
            self.pending_reply = pending_reply;
            Some(exit)
        })
    }
}

/// Takes the oldest entry out of the ring (`struct kvm_coalesced_mmio_ring`).
///
/// Every access is atomic: the kernel, and other vCPUs' threads, may change the page at any time.
fn pop(area: &RunArea, ring: u64) -> Option<Exit> {
    let (first, last) = (area.atomic_u32(ring)?, area.atomic_u32(ring + 4)?);
    loop {
        let index = first.load(Ordering::Acquire);
        // The kernel writes an entry before it counts it.
        if index == last.load(Ordering::Acquire) || u64::from(index) >= MAX_ENTRIES {
            return None;
        }
        // phys_addr (u64); len and pio (u32 each); data (8 bytes).
        let entry = ring + HEADER_SIZE + u64::from(index) * ENTRY_SIZE;
        let word = |offset| Some(area.atomic_u64(entry + offset)?.load(Ordering::Relaxed));
        let (address, length, data) = (word(0)?, word(8)? & u64::from(u32::MAX), word(16)?);
        let next = u32::try_from((u64::from(index) + 1) % MAX_ENTRIES).ok()?;
        // From here on the kernel may use the entry again. Fails if another vCPU's thread took it.
        if first.compare_exchange(index, next, Ordering::Release, Ordering::Relaxed).is_err() {
            continue;
        }
        let (width, port) = (u8::try_from(length).ok()?, u16::try_from(address).ok()?);
        let data = IoBytes::from_array(data.to_le_bytes(), width.into());
        return Some(Exit::PioOut { port: Port(port), width, count: 1, data });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::thread;

    use super::*;

    /// Offset of the ring in the area.
    const RING: u64 = 0x2000;

    fn index(area: &RunArea, offset: u64) -> &AtomicU32 {
        area.atomic_u32(RING + offset).unwrap()
    }

    /// Adds a write as the kernel does: the entry first, then its number.
    fn push(area: &RunArea, port: u64, length: u64, data: u64) {
        let last = index(area, 4).load(Ordering::Relaxed);
        let entry = RING + HEADER_SIZE + u64::from(last) * ENTRY_SIZE;
        for (offset, value) in [(0, port), (8, length), (16, data)] {
            area.atomic_u64(entry + offset).unwrap().store(value, Ordering::Relaxed);
        }
        let next = (u64::from(last) + 1) % MAX_ENTRIES;
        index(area, 4).store(u32::try_from(next).unwrap(), Ordering::Release);
    }

    fn byte(area: &RunArea) -> Option<u8> {
        let exit = pop(area, RING)?;
        let Exit::PioOut { port: Port(0x3f8), width: 1, count: 1, data } = &exit else { panic!("{exit:?}") };
        data.first().copied()
    }

    #[test]
    fn writes_come_in_order_and_around_the_end_of_the_ring() {
        let area = RunArea::for_test(0);
        let start = u32::try_from(MAX_ENTRIES).unwrap() - 2;
        for offset in [0, 4] {
            index(&area, offset).store(start, Ordering::Relaxed);
        }
        for data in 0..5 {
            push(&area, 0x3f8, 1, data);
        }
        let bytes: Vec<u8> = std::iter::from_fn(|| byte(&area)).collect();
        assert_eq!(bytes, [0, 1, 2, 3, 4]);
        assert_eq!(index(&area, 0).load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_ring_of_any_bytes_is_read_within_the_area() {
        for fill in [0, 0x01, 0xff] {
            let area = RunArea::for_test(fill);
            assert!(pop(&area, RING).is_none());
            assert!(pop(&area, 0x3000).is_none() && pop(&area, u64::MAX - 8).is_none());
        }
        let area = RunArea::for_test(0);
        push(&area, 0x1_0000, 1, 0);
        assert!(pop(&area, RING).is_none());
        push(&area, 0x3f8, u64::MAX, 0);
        assert!(pop(&area, RING).is_none());
        push(&area, 0x3f8, 200, 7);
        let Some(Exit::PioOut { data, .. }) = pop(&area, RING) else { panic!() };
        assert_eq!(data.len(), 8);
    }

    #[test]
    fn two_threads_get_each_write_once() {
        const WRITES: u64 = 40;
        let area = RunArea::for_test(0);
        let take = || {
            let mut bytes = Vec::new();
            while u64::from(index(&area, 0).load(Ordering::Relaxed)) != WRITES {
                bytes.extend(byte(&area));
                thread::yield_now();
            }
            bytes
        };
        let mut bytes = thread::scope(|scope| {
            let takers = [scope.spawn(take), scope.spawn(take)];
            for data in 0..WRITES {
                push(&area, 0x3f8, 1, data);
            }
            takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect::<Vec<_>>()
        });
        bytes.sort_unstable();
        assert_eq!(bytes, (0..40).collect::<Vec<_>>());
    }
}
