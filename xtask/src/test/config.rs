//! A configuration as a test: its name in the report, and what a host must be able to do for it.
//!
//! Whether it went as it should is vmm-cli's to say (`suite.rs`); here is what vmm-cli cannot know: which hosts may say no.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result, While};

/// One configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConfigTest {
    /// The file's name without `.toml`; before it `crash/` for a crashing guest.
    pub(super) name: String,
    /// The file.
    pub(super) config: PathBuf,
    /// What the host must be able to do.
    pub(super) mode: String,
    /// The page size in `[paging]`, as written.
    pub(super) page_size: String,
    /// Five-level paging.
    pub(super) five_level: bool,
    /// The file it runs.
    pub(super) guest: String,
}

impl ConfigTest {
    /// Reads a configuration; what is wrong in it vmm-cli will say.
    pub(super) fn read(config: &Path) -> Result<Self> {
        let text = fs::read_to_string(config).while_doing("read", config)?;
        let table: toml::Table =
            text.parse().map_err(|error| Failure::new(format!("{}: {error}", config.display())))?;
        let mode = table.get("mode").and_then(toml::Value::as_str).unwrap_or_default();
        let guest = crate::references::named_files(&table).into_iter().next().unwrap_or_default();
        let paging = |key| table.get("paging").and_then(|paging| paging.get(key));
        Ok(Self {
            name: name_of(config),
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

    /// The configuration that is inside of this guest. It asks for nothing that a host may lack.
    pub(super) fn inside(guest: PathBuf) -> Self {
        let name = guest.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (mode, page_size, five_level) = Default::default();
        Self { config: guest, guest: name.clone(), name, mode, page_size, five_level }
    }
}

/// The path below `configs/`, without `.toml`.
fn name_of(config: &Path) -> String {
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
        assert_eq!(name_of(Path::new("/x/configs/long.toml")), "long");
        assert_eq!(name_of(Path::new("/x/configs/crash/bad-msr.toml")), "crash/bad-msr");
    }

    #[test]
    fn what_a_host_must_be_able_to_do_is_read() {
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
