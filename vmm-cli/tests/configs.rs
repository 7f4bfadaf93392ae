//! Checks that all configurations in `configs/` and `configs/crash/`, and the template of `init`, are valid.

#![expect(clippy::expect_used, reason = "the helpers of tests are tests")]

use std::path::{Path, PathBuf};

use vmm_cli::config::{Config, Overrides, template};
use vmm_core::spec::mode::Mode;

fn configs() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let entries = |directory: &Path| std::fs::read_dir(directory).expect("configs/ is there");
    let mut paths: Vec<PathBuf> = entries(&directory)
        .chain(entries(&directory.join("crash")))
        .map(|entry| entry.expect("configs/ can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_shipped_configuration_is_valid() {
    let paths = configs();
    assert!(!paths.is_empty());
    for path in paths {
        if let Err(mistakes) = Config::load(&path, &Overrides::new()) {
            panic!("{mistakes}");
        }
    }
}

/// A crashing guest tests the autopsy only if the report is compared with the true cause.
#[test]
fn every_crash_configuration_expects_an_end_and_a_cause() {
    let paths: Vec<PathBuf> =
        configs().into_iter().filter(|path| path.parent().expect("a folder").ends_with("crash")).collect();
    assert!(!paths.is_empty());
    for path in paths {
        let Ok(config) = Config::load(&path, &Overrides::new()) else { panic!("{}", path.display()) };
        let expect = config.expect.expect("an [expect]");
        assert!(expect.end.is_some(), "{}: no end", path.display());
        assert!(!expect.cause.is_empty(), "{}: no cause", path.display());
    }
}

/// The expected phrases are specific to a guest. Two configurations share them only if one guest is built for two modes, or if
/// two guests crash with the same fault at the same address.
#[test]
fn most_crash_configurations_have_a_distinct_cause() {
    let causes = configs().into_iter().filter_map(|path| {
        let config = Config::load(&path, &Overrides::new()).ok()?;
        config.expect.map(|expect| expect.cause).filter(|cause| !cause.is_empty())
    });
    let mut causes: Vec<Vec<String>> = causes.collect();
    let count = causes.len();
    causes.sort();
    causes.dedup();
    assert!(causes.len() * 10 >= count * 8, "{count} guests, but only {} causes", causes.len());
}

#[test]
fn the_template_is_valid() {
    let config = Config::from_text(template::text(), Path::new("vm.toml"), &Overrides::new()).unwrap();
    assert_eq!(config.start.mode, Some(Mode::Long));
    assert_eq!(config.guest.path.as_path(), Path::new("guest-long.elf"));
    let machine = config.machine(config.start.complete().unwrap()).unwrap();
    assert_eq!(machine.boot.entry, None);
}
