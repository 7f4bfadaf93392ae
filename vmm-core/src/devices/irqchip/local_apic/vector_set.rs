//! Set of interrupt vectors: the 256 bits of IRR, ISR and TMR (SDM vol. 3, 11.8.4).

use serde::{Deserialize, Serialize};

/// Set of interrupt vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct VectorSet([u32; 8]);

impl VectorSet {
    pub(super) fn insert(&mut self, vector: u8) {
        self.change(vector, |word, bit| word | bit);
    }

    pub(super) fn remove(&mut self, vector: u8) {
        self.change(vector, |word, bit| word & !bit);
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.word(vector / 32) & bit(vector) != 0
    }

    /// Returns the vector with the highest priority.
    pub(super) fn highest(&self) -> Option<u8> {
        (0..8).rev().find_map(|number| {
            let top = self.word(number).checked_ilog2()?;
            Some(number * 32 + u8::try_from(top).ok()?)
        })
    }

    /// Returns a register of the set: vectors `number * 32` to `number * 32 + 31`.
    pub(super) fn word(&self, number: u8) -> u32 {
        self.0.get(usize::from(number)).copied().unwrap_or(0)
    }

    /// Returns the vectors in rising order.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(|vector| self.contains(*vector))
    }

    fn change(&mut self, vector: u8, change: impl FnOnce(u32, u32) -> u32) {
        if let Some(word) = self.0.get_mut(usize::from(vector / 32)) {
            *word = change(*word, bit(vector));
        }
    }
}

const fn bit(vector: u8) -> u32 {
    1 << (vector % 32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_vectors(changes in prop::collection::vec(any::<(u8, bool)>(), 0..100)) {
            let (mut set, mut model) = (VectorSet::default(), BTreeSet::new());
            for (vector, inserted) in changes {
                if inserted {
                    set.insert(vector);
                    model.insert(vector);
                } else {
                    set.remove(vector);
                    model.remove(&vector);
                }
                prop_assert_eq!(set.highest(), model.last().copied());
                prop_assert_eq!(set.contains(vector), inserted);
                prop_assert!(set.iter().eq(model.iter().copied()));
                let word = set.word(vector / 32);
                prop_assert_eq!(word >> (vector % 32) & 1 != 0, inserted);
            }
        }
    }
}
