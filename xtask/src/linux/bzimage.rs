//! Extracts the ELF file from a bzImage.
//!
//! Offset and length of the compressed payload are in the setup header (Documentation/arch/x86/boot.rst). The payload's
//! first bytes identify its compression. Some decompressors report an error about the size field after the payload, so
//! success is judged by the ELF magic of the output.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{Failure, FileContext, Result};

/// Offsets in the setup header.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// Compressions: magic bytes, decompressor and its Debian package.
const DECOMPRESSORS: [(&[u8], &str, &str); 4] = [
    (b"\x02\x21\x4c\x18", "lz4", "lz4"),
    (b"\xfd7zXZ\0", "xz", "xz-utils"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd"),
    (b"\x1f\x8b", "gzip", "gzip"),
];

/// Decompresses the ELF file in `image` to `path`.
pub(super) fn unpack(image: &[u8], path: &Path) -> Result<()> {
    let payload = payload(image).ok_or_else(|| Failure::new("the nested host's kernel is no bzImage"))?;
    let decompressor = DECOMPRESSORS.iter().find(|(magic, ..)| payload.starts_with(magic));
    let (_, program, package) =
        decompressor.ok_or_else(|| Failure::new("the nested host's kernel is packed in an unknown way"))?;
    let packed = path.with_extension("packed");
    fs::write(&packed, payload).while_doing("write", &packed)?;
    let input = File::open(&packed).while_doing("open", &packed)?;
    let output = File::create(path).while_doing("create", path)?;
    let unpacked =
        Command::new(program).args(["-d", "-c"]).stdin(input).stdout(output).stderr(Stdio::null()).status();
    unpacked.map_err(|_| {
        let text = format!("there is no {program}; try: apt-get install --no-install-recommends {package}");
        Failure::new(text).with_status(106)
    })?;
    fs::remove_file(&packed).while_doing("remove", &packed)?;
    match fs::read(path).while_doing("read", path)?.starts_with(b"\x7fELF") {
        true => Ok(()),
        false => Err(Failure::new(format!("{program} found no ELF file in the nested host's kernel"))),
    }
}

/// Returns the compressed kernel, or `None` if the header is not that of a bzImage or points outside of it.
fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(MAGIC..)?.get(..4)? != b"HdrS" {
        return None;
    }
    // boot.rst: 0 means 4, for compatibility with old loaders.
    let sectors = match *image.get(SETUP_SECTORS)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = sectors.checked_add(1)?.checked_mul(512)?.checked_add(read_u32(image, PAYLOAD_OFFSET)?)?;
    image.get(start..)?.get(..read_u32(image, PAYLOAD_LENGTH)?)
}

/// Reads a little-endian `u32`.
fn read_u32(image: &[u8], offset: usize) -> Option<usize> {
    let bytes = image.get(offset..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        let mut image = vec![0; 0x1000];
        image[SETUP_SECTORS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..][..4].copy_from_slice(&0x10_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..][..4].copy_from_slice(&3_u32.to_le_bytes());
        image[0x410..0x413].copy_from_slice(b"abc");
        image
    }

    #[test]
    fn the_payload_follows_the_setup_sectors() {
        assert_eq!(payload(&image()), Some(&b"abc"[..]));
    }

    #[test]
    fn a_header_that_points_outside_is_refused() {
        let mut far = image();
        far[PAYLOAD_OFFSET..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(payload(&far), None);
        let mut long = image();
        long[PAYLOAD_LENGTH..][..4].copy_from_slice(&0x1000_u32.to_le_bytes());
        assert_eq!(payload(&long), None);
        assert_eq!(payload(&[0; 0x1000]), None);
        assert_eq!(payload(b""), None);
    }

    #[test]
    fn a_packed_file_comes_out() {
        let directory = tempfile::tempdir().unwrap();
        let (elf, out) = (directory.path().join("elf"), directory.path().join("out"));
        fs::write(&elf, b"\x7fELF and more").unwrap();
        let packed = Command::new("gzip").arg("-c").arg(&elf).output().unwrap().stdout;
        let mut image = image();
        image[PAYLOAD_LENGTH..][..4].copy_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
        image.splice(0x410..0x410 + packed.len(), packed);
        unpack(&image, &out).unwrap();
        assert_eq!(fs::read(out).unwrap(), b"\x7fELF and more");
    }
}
