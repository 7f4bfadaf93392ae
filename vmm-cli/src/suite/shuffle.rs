//! `--shuffle SEED`: runs the cases in another order, which the seed determines.
//!
//! Cases must not depend on each other. Other orders find dependencies through a file or the host.

use std::str::FromStr;

use super::partition::scale;

/// Seed of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) u64);

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "random" {
            let mut bytes = [0; 8];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
                .map_err(|error| format!("the host has no random number: {error}"))?;
            return Ok(Self(u64::from_le_bytes(bytes)));
        }
        text.parse().map(Self).map_err(|_| "expected a number, or `random`".to_owned())
    }
}

/// Fisher-Yates shuffle with SplitMix64. Implemented here, since the order of a seed must never change.
pub(crate) fn shuffle<T>(items: &mut [T], Seed(mut state): Seed) {
    for last in (1..items.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^= value >> 31;
        let choices = u64::try_from(last).unwrap_or(u64::MAX).saturating_add(1);
        // Smaller than `choices`, so it fits.
        items.swap(last, usize::try_from(scale(value, choices)).unwrap_or(last));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(count: u32, seed: u64) -> Vec<u32> {
        let mut items: Vec<u32> = (0..count).collect();
        shuffle(&mut items, Seed(seed));
        items
    }

    #[test]
    fn a_seed_stands_for_one_order_forever() {
        assert_eq!(order(8, 1), [0, 3, 7, 1, 2, 6, 5, 4]);
        assert_ne!(order(8, 1), order(8, 2));
    }

    #[test]
    fn seeds_are_numbers() {
        assert_eq!("7".parse(), Ok(Seed(7)));
        assert!("random".parse::<Seed>().is_ok());
        assert!("seven".parse::<Seed>().is_err());
    }

    proptest! {
        #[test]
        fn nothing_is_lost(count in 0_u32..200, seed: u64) {
            let mut items = order(count, seed);
            items.sort_unstable();
            prop_assert_eq!(items, (0..count).collect::<Vec<_>>());
        }
    }
}
