//! Position of a machine in the recorded run that it follows.

use kvm_sys_wrap::Exit;

use crate::record::{Divergence, Recording, Signature};

/// Number of exits and bytes of answers that a machine has behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RecordPosition {
    /// Exits served.
    pub(crate) exits: u64,
    /// Bytes of answers given.
    pub(crate) answers: usize,
}

impl RecordPosition {
    /// Compares the next exit with the record; `Some` if they differ. An exit beyond the end of the record differs from
    /// nothing.
    pub(crate) fn divergence(&self, recording: &Recording, exit: &Exit) -> Option<Divergence> {
        let recorded = recording.signature(self.exits)?;
        let found = Signature::from_exit(exit);
        (recorded != found).then_some(Divergence { exit: self.exits, recorded, found })
    }

    /// Replaces an answer by the recorded one, if there is one.
    pub(crate) fn replay_answer(&self, recording: &Recording, answer: &mut [u8]) {
        if let Some(recorded) = recording.answer(self.answers, answer.len()) {
            answer.copy_from_slice(recorded);
        }
    }

    /// Moves on by one exit and the bytes of its answer.
    pub(crate) fn advance(&mut self, answer: &[u8]) {
        self.exits = self.exits.wrapping_add(1);
        self.answers = self.answers.saturating_add(answer.len());
    }
}
