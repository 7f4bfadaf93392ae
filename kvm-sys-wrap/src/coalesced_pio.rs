//! Writes to a port that the kernel collects, in place of an exit for each (`KVM_CAP_COALESCED_PIO`, api.rst 4.116).
//!
//! They wait in a ring, a page of the area that the kernel shares with the vCPU, until `KVM_RUN` returns for another reason
//! or the ring is full. [`Vcpu::run`] hands them out as the exits that they would have been, one after the other, and then
//! the exit that it came back with: whoever looks at exits sees the same as without, in the same order. Only the registers
//! are those of the last exit from the first on.
//!
//! The ring is the VM's, and this is for a VM with one vCPU: two would take entries from each other.

use std::sync::atomic::Ordering;

use kvm_bindings::{kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use kvm_ioctls::IoEventAddress;

use crate::address::Port;
use crate::call::Call;
use crate::capability::Capability;
use crate::create_vcpu::Vcpu;
use crate::create_vm::Vm;
use crate::error::{Result, call_failed};
use crate::exit::{Exit, Pending};
use crate::io_bytes::IoBytes;
use crate::kvm_run::RunArea;

/// The size of the port.
const BYTES: u32 = 1;
const PAGE: u64 = 4096;
const HEADER: u64 = size_of::<kvm_coalesced_mmio_ring>() as u64;
const ENTRY: usize = size_of::<kvm_coalesced_mmio>();
/// `KVM_COALESCED_MMIO_MAX` of linux/kvm.h: entries that fit in the page behind the header.
const ENTRIES: u64 = (PAGE - HEADER) / ENTRY as u64;

impl Vm {
    /// Has the kernel collect bytes that are written to `port`. Returns whether it can.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn register_coalesced_pio(&self, port: Port) -> Result<bool> {
        // The capability's value is the ring's page in the area of each vCPU.
        let page = self.kvm().capability(Capability::CoalescedMmio);
        let offset = u64::try_from(page).unwrap_or(0).saturating_mul(PAGE);
        if offset == 0 || self.kvm().capability(Capability::CoalescedPio) <= 0 {
            return Ok(false);
        }
        self.observed()
            .call(Call::RegisterCoalescedMmio, format_args!("port {port}, {BYTES} bytes"), || {
                self.fd().register_coalesced_mmio(IoEventAddress::Pio(port.0.into()), BYTES)
            })
            .map_err(call_failed(Call::RegisterCoalescedMmio, format!("port {port}")))?;
        self.ring().store(offset, Ordering::Relaxed);
        Ok(true)
    }

    /// Ends that. What has been collected is handed out still.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn unregister_coalesced_pio(&self, port: Port) -> Result<()> {
        self.observed()
            .call(Call::UnregisterCoalescedMmio, format_args!("port {port}, {BYTES} bytes"), || {
                self.fd().unregister_coalesced_mmio(IoEventAddress::Pio(port.0.into()), BYTES)
            })
            .map_err(call_failed(Call::UnregisterCoalescedMmio, format!("port {port}")))
    }
}

impl Vcpu {
    /// Puts an exit behind the writes that were collected before it, and gives the first of all.
    pub(crate) fn after_coalesced(&mut self, exit: Exit) -> Exit {
        let ring = self.vm().ring().load(Ordering::Relaxed);
        match pop(&self.area, ring) {
            None => exit,
            Some(write) => {
                self.deferred = Some((exit, std::mem::replace(&mut self.pending, Pending::None)));
                write
            }
        }
    }

    /// What `KVM_RUN` brought and has not been handed out yet.
    pub(crate) fn deferred(&mut self) -> Option<Exit> {
        self.deferred.as_ref()?;
        let ring = self.vm().ring().load(Ordering::Relaxed);
        pop(&self.area, ring).or_else(|| {
            let (exit, pending) = self.deferred.take()?;
            self.pending = pending;
            Some(exit)
        })
    }
}

/// Takes the oldest entry out of the ring.
fn pop(area: &RunArea, ring: u64) -> Option<Exit> {
    let (first, last) = (area.word(ring)?, area.word(ring + 4)?);
    let index = first.load(Ordering::Relaxed);
    let next = (u64::from(index) + 1) % ENTRIES;
    // The kernel writes an entry before it counts it.
    if index == last.load(Ordering::Acquire) || u64::from(index) >= ENTRIES {
        return None;
    }
    let entry = area.bytes(ring + HEADER + u64::from(index) * ENTRY as u64, ENTRY)?;
    let address = u64::from_le_bytes(*entry.first_chunk()?);
    let length = u32::from_le_bytes(*entry.get(8..)?.first_chunk()?);
    let (width, port) = (u8::try_from(length).ok()?, u16::try_from(address).ok()?);
    let data = IoBytes::of_eight(*entry.get(16..)?.first_chunk()?, width.into());
    // It may be used again from here on.
    first.store(u32::try_from(next).ok()?, Ordering::Release);
    Some(Exit::PioOut { port: Port(port), width, count: 1, data })
}
