//! A configuration as a test: its name in the report, and the features that a host may lack for it.
//!
//! vmm-cli decides if a configuration passes (`suite.rs`).

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, FileContext, Result};

/// Configuration to run as a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConfigTest {
    /// File name without `.toml`, with the prefix `crash/` for a crashing guest.
    pub(super) name: String,
    /// Path of the configuration.
    pub(super) config: PathBuf,
    /// CPU mode.
    pub(super) mode: String,
    /// `paging.page-size`, as written.
    pub(super) page_size: String,
    /// True for five-level paging.
    pub(super) five_level: bool,
    /// File name of the guest.
    pub(super) guest: String,
}

impl ConfigTest {
    /// Reads a configuration. Only TOML syntax errors are reported; vmm-cli reports the others.
    pub(super) fn read(config: &Path) -> Result<Self> {
        let text = fs::read_to_string(config).while_doing("read", config)?;
        let table: toml::Table =
            text.parse().map_err(|error| Failure::new(format!("{}: {error}", config.display())))?;
        let mode = table.get("mode").and_then(toml::Value::as_str).unwrap_or_default();
        let guest = crate::config_files::named_files(&table).into_iter().next().unwrap_or_default();
        let paging = |key| table.get("paging").and_then(|paging| paging.get(key));
        Ok(Self {
            name: config_name(config),
            config: config.to_owned(),
            mode: mode.to_owned(),
            page_size: paging("page-size").and_then(toml::Value::as_str).unwrap_or_default().to_owned(),
            five_level: paging("five-level").and_then(toml::Value::as_bool).unwrap_or_default(),
            guest: Path::new(&guest.replace("{mode}", mode))
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        })
    }

    /// Returns the test for a guest with its configuration in an ELF note. It uses no feature that a host may lack.
    pub(super) fn from_elf_note(guest: PathBuf) -> Self {
        let name = guest.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (mode, page_size, five_level) = Default::default();
        Self { config: guest, guest: name.clone(), name, mode, page_size, five_level }
    }
}

/// Returns the path relative to `configs/`, without `.toml`.
fn config_name(config: &Path) -> String {
    let stem = config.file_stem().unwrap_or_default().to_string_lossy();
    match config.parent().and_then(Path::file_name) {
        Some(folder) if folder == "crash" => format!("crash/{stem}"),
        Some(_) | None => stem.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crashing_guest_is_named_with_its_folder() {
        assert_eq!(config_name(Path::new("/x/configs/long.toml")), "long");
        assert_eq!(config_name(Path::new("/x/configs/crash/bad-msr.toml")), "crash/bad-msr");
    }

    #[test]
    fn required_host_features_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("a.toml");
        let text =
            "mode = \"pae\"\npaging.page-size = \"4KiB\"\n[guest]\nelf = \"../build/hello-{mode}.elf\"\n";
        fs::write(&config, text).unwrap();
        let test = ConfigTest::read(&config).unwrap();
        assert_eq!((test.mode.as_str(), test.page_size.as_str(), test.five_level), ("pae", "4KiB", false));
        assert_eq!(test.guest, "hello-pae.elf");
    }
}
