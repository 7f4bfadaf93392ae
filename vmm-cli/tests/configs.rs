//! Every configuration in `configs/`, and the one that `init` writes, is without mistakes.

#![expect(clippy::expect_used, reason = "the helpers of tests are tests")]

use std::path::{Path, PathBuf};

use vmm_cli::config::{Config, EntryChoice, Overrides, template};
use vmm_core::mode::Mode;

fn configs() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let entries = std::fs::read_dir(&directory).expect("configs/ is there");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("configs/ can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_shipped_configuration_is_good() {
    let paths = configs();
    assert!(paths.len() >= 20, "only {} configurations", paths.len());
    for path in paths {
        if let Err(mistakes) = Config::load(&path, &Overrides::new()) {
            panic!("{mistakes}");
        }
    }
}

#[test]
fn the_template_is_good() {
    let config = Config::from_text(template::text(), Path::new("vm.toml"), &Overrides::new()).unwrap();
    assert_eq!(config.mode(), Mode::Long);
    assert_eq!(config.guest.path, Path::new("guest-long.elf"));
    assert_eq!(config.entry, EntryChoice::FromFile);
}
