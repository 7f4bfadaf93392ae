//! Writes an initramfs archive: cpio in the "newc" format.
//!
//! Each entry has a header of 110 ASCII characters (magic, then 13 numbers of 8 hexadecimal digits), a NUL-terminated name,
//! and data. Name and data are padded to multiples of 4 bytes (Documentation/driver-api/early-userspace/
//! buffer-format.rst). Directories, regular files and symbolic links are supported. All entries belong to root.

use std::io::{self, Read, Write};

/// Archive writer. Entries are written to `sink` in the order in which they are added.
pub(crate) struct CpioArchive<W> {
    sink: W,
    entries: u32,
}

/// File type bits of `st_mode` (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

impl<W: Write> CpioArchive<W> {
    /// Creates an empty archive.
    pub(crate) fn new(sink: W) -> Self {
        Self { sink, entries: 0 }
    }

    /// Adds a directory. Its parents must have been added before.
    pub(crate) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, 0)
    }

    /// Adds a symbolic link to `target`.
    pub(crate) fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.file_of_type(name, LINK | 0o777, target.len().try_into().unwrap_or(u64::MAX), target.as_bytes())
    }

    /// Adds a file with `size` bytes from `data`.
    pub(crate) fn file(
        &mut self,
        name: &str,
        permissions: u32,
        size: u64,
        data: impl Read,
    ) -> io::Result<()> {
        self.file_of_type(name, REGULAR | (permissions & 0o777), size, data)
    }

    /// Writes the trailer and returns the sink.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, 0)?;
        self.sink.flush()?;
        Ok(self.sink)
    }

    fn file_of_type(&mut self, name: &str, mode: u32, size: u64, data: impl Read) -> io::Result<()> {
        let size =
            u32::try_from(size).map_err(|_| io::Error::other("4 GiB or more do not fit a cpio archive"))?;
        self.entry(name, mode, size)?;
        let copied = io::copy(&mut data.take(size.into()), &mut self.sink)?;
        if copied != u64::from(size) {
            return Err(io::Error::other(format!("{copied} bytes instead of {size}: it shrank meanwhile")));
        }
        self.pad(copied)
    }

    fn entry(&mut self, name: &str, mode: u32, size: u32) -> io::Result<()> {
        let name_size = u32::try_from(name.len().saturating_add(1))
            .map_err(|_| io::Error::other("a name of 4 GiB does not fit a cpio archive"))?;
        self.entries = self.entries.wrapping_add(1);
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device (2), device of a special file (2), name size, checksum.
        let numbers = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.sink.write_all(b"070701")?;
        for number in numbers {
            write!(self.sink, "{number:08x}")?;
        }
        self.sink.write_all(name.as_bytes())?;
        self.sink.write_all(&[0])?;
        self.pad(110_u64.saturating_add(name_size.into()))
    }

    fn pad(&mut self, written: u64) -> io::Result<()> {
        io::copy(&mut io::repeat(0).take(written.wrapping_neg() % 4), &mut self.sink).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_as_cpio_writes_it() {
        let mut archive = CpioArchive::new(Vec::new());
        archive.file("ab", 0o755, 5, &b"hello"[..]).unwrap();
        let bytes = archive.finish().unwrap();
        let expected = "070701\
            00000001000081ed00000000000000000000000100000000\
            0000000500000000000000000000000000000000\
            0000000300000000ab\0\0\0\0hello\0\0\0\
            070701\
            00000002000000000000000000000000000000010000000000000000\
            00000000000000000000000000000000\
            0000000b00000000TRAILER!!!\0\0\0\0";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn a_file_that_shrinks_is_refused() {
        let mut archive = CpioArchive::new(Vec::new());
        assert!(archive.file("a", 0o644, 6, &b"hello"[..]).is_err());
    }
}
