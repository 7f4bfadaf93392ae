//! Hands the linker script to the linker, by its full path, for the kernel and for every test.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-link-arg=-T{folder}/kernel.ld");
    println!("cargo::rerun-if-changed=kernel.ld");
}
