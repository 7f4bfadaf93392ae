//! Reads `guests/*/guest.toml`, the build manifests of guests. `guests/README.md` describes the format.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::{Failure, FileContext, Result};

/// A folder of guest sources and its outputs.
pub(super) struct Guest {
    pub(super) folder: PathBuf,
    pub(super) outputs: Vec<GuestOutput>,
}

/// Content of `guest.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// Description of the guest. Required, but not used.
    #[serde(rename = "about")]
    _about: String,
    #[serde(rename = "output")]
    outputs: Vec<GuestOutput>,
}

/// An output file in `guests/build/`.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum GuestOutput {
    /// 32-bit ELF file with 16- or 32-bit code.
    Elf32(LinkedGuest),
    /// 64-bit ELF file.
    Elf64(LinkedGuest),
    /// Flat binary.
    Flat(LinkedGuest),
    /// Cargo package for `x86_64-unknown-none`.
    Rust(CargoGuest),
}

/// Output of gcc and ld.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkedGuest {
    /// File name in `guests/build/`.
    pub(super) file: String,
    pub(super) bits: CodeWidth,
    /// Source files, relative to the guest's folder.
    pub(super) sources: Vec<String>,
    /// Address of the code, with the common linker script `include/guest.ld`.
    pub(super) text: Option<u64>,
    /// Linker script, relative to the guest's folder.
    pub(super) script: Option<String>,
    #[serde(default)]
    pub(super) cflags: Vec<String>,
    #[serde(default)]
    pub(super) ldflags: Vec<String>,
    #[serde(default = "default_entry")]
    pub(super) entry: String,
}

/// Output of cargo.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CargoGuest {
    /// File name in `guests/build/`.
    pub(super) file: String,
    /// Folder of the package, relative to the guest's folder.
    #[serde(rename = "crate")]
    pub(super) folder: String,
    /// Name of the package and of its program.
    #[serde(rename = "package")]
    pub(super) name: String,
}

/// Width of the code in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u8")]
pub(super) enum CodeWidth {
    Bits16,
    Bits32,
    Bits64,
}

impl TryFrom<u8> for CodeWidth {
    type Error = String;

    fn try_from(bits: u8) -> std::result::Result<Self, String> {
        match bits {
            16 => Ok(Self::Bits16),
            32 => Ok(Self::Bits32),
            64 => Ok(Self::Bits64),
            _ => Err(format!("bits is 16, 32 or 64, not {bits}")),
        }
    }
}

/// Returns the default of `entry`.
fn default_entry() -> String {
    "_start".to_owned()
}

impl GuestOutput {
    /// Returns the file name in `guests/build/`.
    pub(super) fn file(&self) -> &str {
        match self {
            Self::Elf32(linked) | Self::Elf64(linked) | Self::Flat(linked) => &linked.file,
            Self::Rust(package) => &package.file,
        }
    }

    /// Checks what serde does not: the file name, and which keys fit together.
    fn check(&self) -> std::result::Result<(), String> {
        if Path::new(self.file()).components().count() != 1 || self.file().starts_with('.') {
            return Err(format!("\"{}\" is not the plain name of a file", self.file()));
        }
        let (linked, fits) = match self {
            Self::Elf32(linked) => (linked, linked.bits != CodeWidth::Bits64),
            Self::Elf64(linked) => (linked, linked.bits == CodeWidth::Bits64),
            Self::Flat(linked) => (linked, true),
            Self::Rust(_) => return Ok(()),
        };
        if !fits {
            return Err(format!("{}: these bits do not fit this kind", linked.file));
        }
        if linked.text.is_some() && linked.script.is_some() {
            return Err(format!(
                "{}: text belongs to the common linker script; leave out one of the two",
                linked.file
            ));
        }
        Ok(())
    }
}

/// Reads all manifests in `guests`, sorted by folder.
pub(super) fn read_all(guests: &Path) -> Result<Vec<Guest>> {
    let mut found = Vec::new();
    for entry in guests.read_dir().while_doing("list", guests)? {
        let folder = entry.while_doing("list", guests)?.path();
        let file = folder.join("guest.toml");
        if file.is_file() {
            let outputs = parse(&fs::read_to_string(&file).while_doing("read", &file)?);
            let outputs = outputs.map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
            found.push(Guest { folder, outputs });
        }
    }
    found.sort_by(|a, b| a.folder.cmp(&b.folder));
    Ok(found)
}

fn parse(text: &str) -> std::result::Result<Vec<GuestOutput>, String> {
    let manifest: Manifest = toml::from_str(text).map_err(|error| error.to_string())?;
    manifest.outputs.iter().try_for_each(GuestOutput::check)?;
    Ok(manifest.outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(lines: &str) -> std::result::Result<Vec<GuestOutput>, String> {
        parse(&format!("about = \"x\"\n[[output]]\nfile = \"a.elf\"\n{lines}"))
    }

    #[test]
    fn defaults() {
        let outputs = output("kind = \"elf32\"\nbits = 16\nsources = [\"a.c\"]\n").unwrap();
        let [GuestOutput::Elf32(linked)] = outputs.as_slice() else { panic!("{outputs:?}") };
        assert_eq!((linked.entry.as_str(), linked.bits, linked.text), ("_start", CodeWidth::Bits16, None));
        assert!(linked.cflags.is_empty() && linked.ldflags.is_empty());
    }

    #[test]
    fn mistakes_are_refused() {
        let sources = "sources = [\"a.c\"]\n";
        for (lines, text) in [
            ("kind = \"elf33\"\nbits = 16\n", "unknown variant `elf33`"),
            ("kind = \"elf32\"\nbits = 31\n", "bits is 16, 32 or 64, not 31"),
            ("kind = \"elf32\"\nbits = 64\n", "do not fit"),
            ("kind = \"elf64\"\nbits = 32\n", "do not fit"),
            ("kind = \"flat\"\nbits = 16\nlang = \"c\"\n", "unknown field `lang`"),
            ("kind = \"flat\"\nbits = 16\ntext = 0\nscript = \"a.ld\"\n", "leave out one"),
            ("kind = \"rust\"\ncrate = \".\"\npackage = \"a\"\n", "unknown field `sources`"),
            ("kind = \"flat\"\n", "missing field `bits`"),
        ] {
            let error = output(&format!("{lines}{sources}")).unwrap_err();
            assert!(error.contains(text), "{lines}: {error}");
        }
        let outside = "about = \"\"\n[[output]]\nfile = \"../a\"\nkind = \"flat\"\nbits = 16\nsources = []";
        assert!(parse(outside).unwrap_err().contains("plain name"));
    }
}
