//! Builds and runs the sample guest of README.md from the code blocks of that page.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Returns the code blocks of README.md in a language, in order.
fn blocks(readme: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    readme.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_sample_of_the_readme_runs() {
    let cli = Path::new(env!("CARGO_BIN_EXE_vmm-cli"));
    if !cli.exists() || Command::new("gcc").arg("--version").output().is_err() {
        println!("skipped: this host has no gcc or no vmm-cli");
        return;
    }
    let readme = include_str!("../../README.md");
    let (assembly, machines, scripts) = (blocks(readme, "asm"), blocks(readme, "toml"), blocks(readme, "sh"));
    let machine = machines.iter().find(|block| block.contains("mine.elf")).unwrap();
    let script = scripts.iter().find(|block| block.contains("mine.elf")).unwrap();
    // The sample stays short enough to type.
    assert!(assembly[0].lines().count() + machine.lines().count() <= 32);

    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("mine.S"), &assembly[0]).unwrap();
    fs::write(directory.path().join("mine.toml"), machine).unwrap();
    let path = format!("{}:{}", cli.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let run = Command::new("sh")
        .args(["-e", "-c", script])
        .env("PATH", path)
        .current_dir(&directory)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&run.stderr), "");
    assert_eq!(String::from_utf8_lossy(&run.stdout), "My own guest\n");
    assert!(run.status.success());
}
