//! `KVM_TRANSLATE` (api.rst 4.15): guest-virtual to guest-physical, with the vCPU's current control registers.

use crate::address::{Gpa, Gva};
use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Result, call_failed};

impl Vcpu {
    /// Translates a guest-virtual address with the current paging (`KVM_TRANSLATE`, api.rst 4.15). Returns `None` where nothing is
    /// mapped.
    ///
    /// The permissions in the kernel's answer are fixed on x86 (always writable, never user), so they are not returned.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call), EBADF where the VM was released.
    pub fn translate(&self, address: Gva) -> Result<Option<Gpa>> {
        let answer = self
            .dispatcher()
            .call(Call::Translate, format_args!("{address}"), || {
                // A released VM has the memory of another machine.
                self.vm().fd().and_then(|_| self.flush_sync_regs())?.translate_gva(address.0)
            })
            .map_err(call_failed(Call::Translate, format!("address {address}")))?;
        Ok((answer.valid != 0).then_some(Gpa(answer.physical_address)))
    }
}
