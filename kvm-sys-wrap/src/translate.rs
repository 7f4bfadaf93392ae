//! `KVM_TRANSLATE`: guest-virtual to guest-physical, as the vCPU would translate now.

use crate::address::{Gpa, Gva};
use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Result, call_failed};

impl Vcpu {
    /// Translates a guest-virtual address (api.rst 4.15); `None` where nothing is mapped there.
    ///
    /// The kernel answers with permissions too, but fixed ones on x86 (always writable, never user): for those, walk
    /// the page tables.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn translate(&self, address: Gva) -> Result<Option<Gpa>> {
        let answer = self
            .observed()
            .call(Call::Translate, format_args!("{address}"), || {
                self.flush_sync_regs()?.translate_gva(address.0)
            })
            .map_err(call_failed(Call::Translate, format!("address {address}")))?;
        Ok((answer.valid != 0).then_some(Gpa(answer.physical_address)))
    }
}
