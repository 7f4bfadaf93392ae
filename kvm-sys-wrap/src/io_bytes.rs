//! Bytes of one PIO or MMIO access. Accesses of up to 8 bytes, nearly all, need no allocation; string instructions have more.

use std::fmt;
use std::ops::Deref;

const MAX_INLINE: usize = 8;

/// Bytes that the guest wrote with one access to a port or to MMIO. Dereferences to a slice.
#[derive(Clone)]
pub struct IoBytes(Repr);

#[derive(Clone)]
enum Repr {
    Short([u8; MAX_INLINE], usize),
    Long(Box<[u8]>),
}

impl IoBytes {
    /// Creates a copy of the bytes of an access.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut short = [0; MAX_INLINE];
        match short.get_mut(..bytes.len()) {
            Some(inline) => {
                inline.copy_from_slice(bytes);
                Self(Repr::Short(short, bytes.len()))
            }
            None => Self(Repr::Long(bytes.into())),
        }
    }

    /// Takes the first `length` of eight bytes. A copy of all eight is cheaper than one of a variable length.
    pub(crate) fn from_array(bytes: [u8; MAX_INLINE], length: usize) -> Self {
        Self(Repr::Short(bytes, length.min(MAX_INLINE)))
    }
}

impl Deref for IoBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Short(bytes, length) => bytes.get(..*length).unwrap_or_default(),
            Repr::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for IoBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for IoBytes {}

impl fmt::Debug for IoBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_is_kept() {
        for length in [0, 1, 8, 9, 4096] {
            let bytes: Vec<u8> = (0..length).map(|i: usize| i.to_le_bytes()[0]).collect();
            assert_eq!(*IoBytes::new(&bytes), *bytes);
        }
    }
}
