//! Random numbers from a seed, for sequences of accesses that are the same in each run.

/// SplitMix64.
pub(in super::super) struct Random(pub(in super::super) u64);

impl Random {
    /// Returns a number below `end`, which must not be 0.
    pub(in super::super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }

    pub(in super::super) fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// Returns one of these values.
    pub(in super::super) fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[usize::try_from(self.below(u64::try_from(values.len()).unwrap())).unwrap()]
    }
}
