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

/// The guest's file, first, and those that go with it, as written: initial ramdisk, modules, disks, more to load.
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
    fn what_a_kernel_is_given() {
        let text = "[guest]\nfile = \"k\"\ninitrd = \"i\"\n[[guest.module]]\nfile = \"m\"\n\
                    [devices.virtio]\ntype = \"block\"\nfile = \"d\"\n[load]\nelf = \"l\"\n";
        assert_eq!(named_files(&text.parse().unwrap()), ["k", "i", "m", "d", "l"]);
    }

    #[test]
    fn a_broken_configuration_travels_alone() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("a.toml");
        fs::write(&config, "[guest\n").unwrap();
        assert_eq!(of_config(&config).unwrap(), [config]);
    }
}
