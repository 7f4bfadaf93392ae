//! Packets of gdb's remote protocol.

/// Returns a packet: `$`, the content, `#`, and the sum of its bytes as two hexadecimal digits.
pub(crate) fn packet(content: &str) -> Vec<u8> {
    let sum = content.bytes().fold(0_u8, u8::wrapping_add);
    format!("${content}#{sum:02x}").into_bytes()
}

/// Returns true if bytes end with a packet: `#` and two digits of its checksum.
pub(crate) fn is_complete(bytes: &[u8]) -> bool {
    matches!(bytes, [.., b'#', _, _])
}

#[test]
fn a_packet_ends_with_its_checksum() {
    assert!(is_complete(b"+$OK#9a"));
    assert!(!is_complete(b"+$OK#9"));
    assert!(!is_complete(b"+"));
}
