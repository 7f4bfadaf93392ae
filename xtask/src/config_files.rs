//! Files that a configuration refers to, for copying them to the nested host.
//!
//! Errors in a configuration are reported by vmm-cli. Here an invalid one refers to no file.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{FileContext, Result};
use crate::workspace::plain_path;

/// CPU modes: the values of `{mode}` in a path.
const MODES: [&str; 5] = ["real", "protected", "paged", "pae", "long"];

/// Returns the paths of a configuration and of the files it names, for all CPU modes, since `--mode` may select any.
pub(crate) fn referenced_by(config: &Path) -> Result<Vec<PathBuf>> {
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

/// Returns the file names in a configuration as written: guest, initial ramdisk, modules, disks and `[[load]]` files.
///
/// The guest's file is the first.
pub(crate) fn named_files(config: &toml::Table) -> Vec<String> {
    let guest = config.get("guest");
    let under = |table: Option<&'_ toml::Value>, key| table.and_then(|table| table.get(key)).cloned();
    let lists = [under(guest, "module"), under(config.get("devices"), "virtio"), config.get("load").cloned()];
    let rest = lists.into_iter().flatten();
    let rest = rest.flat_map(|list| list.as_array().cloned().unwrap_or_else(|| vec![list]));
    let tables: Vec<_> = guest.cloned().into_iter().chain(rest).collect();
    let names = tables.iter().flat_map(|table| ["elf", "flat", "file", "initrd"].map(|key| table.get(key)));
    names.flatten().filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_for_each_mode_and_a_loaded_file() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("a.toml");
        fs::write(&config, "[guest]\nelf = \"../g-{mode}.elf\"\n[[load]]\nfile = \"b.bin\"\naddress = 1\n")
            .unwrap();
        let files = referenced_by(&config).unwrap();
        let above = directory.path().parent().unwrap();
        for name in ["g-real.elf", "g-long.elf"] {
            assert!(files.contains(&above.join(name)), "{files:?}");
        }
        assert!(files.contains(&directory.path().join("b.bin")) && files.contains(&config));
    }

    #[test]
    fn files_of_a_kernel() {
        let text = "[guest]\nfile = \"k\"\ninitrd = \"i\"\n[[guest.module]]\nfile = \"m\"\n\
                    [devices.virtio]\ntype = \"block\"\nfile = \"d\"\n[load]\nelf = \"l\"\n";
        assert_eq!(named_files(&text.parse().unwrap()), ["k", "i", "m", "d", "l"]);
    }

    #[test]
    fn a_broken_configuration_names_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("a.toml");
        fs::write(&config, "[guest\n").unwrap();
        assert_eq!(referenced_by(&config).unwrap(), [config]);
    }
}
