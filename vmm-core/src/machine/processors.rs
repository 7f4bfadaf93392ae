//! The processors of a machine: the bootstrap processor (BSP), which executes the first instruction, and the application
//! processors (APs), which wait for INIT and SIPI (SDM vol. 3, 9.4).

use crate::machine::processor::Processor;

/// All processors of a machine, by number: the BSP is number 0.
#[derive(Debug)]
pub(crate) struct Processors {
    bsp: Processor,
    aps: Vec<Processor>,
}

impl Processors {
    pub(crate) const fn new(bsp: Processor, aps: Vec<Processor>) -> Self {
        Self { bsp, aps }
    }

    /// Bootstrap processor.
    #[inline]
    pub(crate) const fn bsp(&self) -> &Processor {
        &self.bsp
    }

    #[inline]
    pub(crate) const fn bsp_mut(&mut self) -> &mut Processor {
        &mut self.bsp
    }

    /// Application processors, from number 1 on.
    pub(crate) fn aps(&self) -> &[Processor] {
        &self.aps
    }

    /// Processor with this number.
    pub(crate) fn get(&self, number: usize) -> Option<&Processor> {
        match number.checked_sub(1) {
            None => Some(&self.bsp),
            Some(index) => self.aps.get(index),
        }
    }

    /// Processor with this number; the BSP if there is none.
    pub(crate) fn get_mut(&mut self, number: usize) -> &mut Processor {
        let ap = number.checked_sub(1).and_then(|index| self.aps.get_mut(index));
        ap.unwrap_or(&mut self.bsp)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Processor> {
        std::iter::once(&self.bsp).chain(&self.aps)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Processor> {
        std::iter::once(&mut self.bsp).chain(&mut self.aps)
    }

    /// Splits off the BSP, which runs on the caller's thread, from the APs, which have a thread each.
    pub(crate) fn split_mut(&mut self) -> (&mut Processor, &mut [Processor]) {
        (&mut self.bsp, &mut self.aps)
    }
}
