//! Hands the template's linker script to the linker.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-link-arg=-T{folder}/../template-kernel/kernel.ld");
    println!("cargo::rerun-if-changed=../template-kernel/kernel.ld");
}
