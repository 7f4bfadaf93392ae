//! Binary encoding of saved state: [postcard](https://postcard.jamesmunns.com), without names and without types.
//!
//! The bytes do not describe themselves, so the decoder has to be of the version that wrote them
//! ([`crate::snapshot::STATE_VERSION`]). Bytes that are left over mean that it is not, and are refused.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are not the saved form of a value ([`from_bytes`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end early, or a value among them is invalid.
    #[error("the bytes are not those of such a value")]
    Invalid,
    /// Bytes follow the end of the value.
    #[error("bytes follow the value: {0} of them")]
    Trailing(usize),
}

/// Value that has no saved form: it holds a sequence that does not say how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value has a part of unknown length")]
pub struct EncodeError;

/// Returns the saved form of `value`: its fields in binary, without names.
///
/// # Errors
/// [`EncodeError`]; not for types that derive `Serialize`.
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EncodeError> {
    postcard::to_allocvec(value).map_err(|_| EncodeError)
}

/// Returns the value whose saved form is all of `bytes`.
///
/// # Errors
/// [`DecodeError`]: the bytes are not those of one `T`, or others follow it.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match split_from_bytes(bytes)? {
        (value, []) => Ok(value),
        (_, rest) => Err(DecodeError::Trailing(rest.len())),
    }
}

/// Returns the value at the start of `bytes`, and the bytes that follow it.
pub(crate) fn split_from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), DecodeError> {
    postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_and_missing_bytes_are_refused() {
        let bytes = to_bytes(&(1_u8, "text")).unwrap();
        assert_eq!(from_bytes::<(u8, String)>(&bytes), Ok((1, "text".to_owned())));
        let more = [&bytes[..], &[0, 0]].concat();
        assert_eq!(from_bytes::<(u8, String)>(&more), Err(DecodeError::Trailing(2)));
        assert_eq!(from_bytes::<(u8, String)>(&bytes[..bytes.len() - 1]), Err(DecodeError::Invalid));
        assert_eq!(split_from_bytes::<(u8, String)>(&more).unwrap().1, [0, 0]);
    }
}
