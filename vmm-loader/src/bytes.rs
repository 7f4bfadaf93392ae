//! Checked reads from a file at offsets that the file itself gives.
//!
//! Such an offset can have any value. All other modules read files through these functions only.

/// Returns the `size` bytes from `offset` on, or `None` if the file ends before.
pub(crate) fn slice(file: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(size)?).ok()?;
    file.get(start..end)
}

/// Converts a length to `u64`, the type of file offsets.
pub(crate) const fn length(bytes: usize) -> u64 {
    // usize has at most 64 bits on every target of Rust, so nothing is lost.
    bytes as u64
}

/// Reads a little-endian 16-bit number at `offset`.
pub(crate) fn u16_at(bytes: &[u8], offset: u64) -> Option<u16> {
    Some(u16::from_le_bytes(slice(bytes, offset, 2)?.try_into().ok()?))
}

/// Reads a little-endian 32-bit number at `offset`.
pub(crate) fn u32_at(bytes: &[u8], offset: u64) -> Option<u32> {
    Some(u32::from_le_bytes(slice(bytes, offset, 4)?.try_into().ok()?))
}

/// Returns the bytes from `offset` up to the next NUL, or `None` if there is no NUL in the next `limit` bytes.
pub(crate) fn c_string(bytes: &[u8], offset: u64, limit: usize) -> Option<&[u8]> {
    let from = bytes.get(usize::try_from(offset).ok()?..)?;
    let from = from.get(..limit).unwrap_or(from);
    let end = from.iter().position(|&byte| byte == 0)?;
    from.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_stay_in_the_file() {
        let file = [1, 2, 3];
        assert_eq!(slice(&file, 1, 2), Some(&file[1..]));
        assert_eq!(slice(&file, 3, 0), Some(&[][..]));
        assert_eq!(slice(&file, 4, 0), None);
        assert_eq!(slice(&file, 1, u64::MAX), None);
        assert_eq!(slice(&file, u64::MAX, 1), None);
    }

    #[test]
    fn strings_end_at_their_nul_or_are_none() {
        let bytes = b"ab\0cd";
        assert_eq!(c_string(bytes, 0, 16), Some(&b"ab"[..]));
        assert_eq!(c_string(bytes, 2, 16), Some(&b""[..]));
        assert_eq!(c_string(bytes, 3, 16), None);
        assert_eq!(c_string(bytes, 0, 2), None);
        assert_eq!(c_string(bytes, 99, 2), None);
    }
}
