//! The files that a configuration refers to, for taking them along to another host.
//!
//! Whether the configuration is right is vmm-cli's to say; here a wrong one just refers to nothing.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Result, While};
use crate::workspace::plain_path;

/// The names of the CPU modes, which `{mode}` in a path stands for.
const MODES: [&str; 5] = ["real", "protected", "paged", "pae", "long"];

/// The configuration itself and the files it names; those for other modes too, as `--mode` may choose one.
pub(crate) fn of_config(config: &Path) -> Result<Vec<PathBuf>> {
    let config = plain_path(config)?;
    let text = fs::read_to_string(&config).while_doing("read", &config)?;
    let mut files = Vec::new();
    if let (Ok(table), Some(directory)) = (text.parse::<toml::Table>(), config.parent()) {
        for name in named_files(&table) {
            files.push(plain_path(&directory.join(&name))?);
            for mode in MODES.iter().filter(|_| name.contains("{mode}")) {
                files.push(plain_path(&directory.join(name.replace("{mode}", mode)))?);
            }
        }
    }
    files.push(config);
    Ok(files)
}

/// The guest's file and those to load beside it, as written.
pub(crate) fn named_files(config: &toml::Table) -> Vec<String> {
    let guest = config.get("guest").into_iter();
    let load = config.get("load").and_then(toml::Value::as_array).into_iter().flatten();
    let tables = guest.chain(load).filter_map(toml::Value::as_table);
    let names = tables.flat_map(|table| ["elf", "flat", "file"].map(|key| table.get(key)));
    names.flatten().filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_for_each_mode_and_what_is_loaded_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("a.toml");
        fs::write(&config, "[guest]\nelf = \"../g-{mode}.elf\"\n[[load]]\nfile = \"b.bin\"\naddress = 1\n")
            .unwrap();
        let files = of_config(&config).unwrap();
        let above = directory.path().parent().unwrap();
        for name in ["g-real.elf", "g-long.elf"] {
            assert!(files.contains(&above.join(name)), "{files:?}");
        }
        assert!(files.contains(&directory.path().join("b.bin")) && files.contains(&config));
    }

    #[test]
    fn a_broken_configuration_travels_alone() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("a.toml");
        fs::write(&config, "[guest\n").unwrap();
        assert_eq!(of_config(&config).unwrap(), [config]);
    }
}
