//! Advice on boot errors in terms of options and configuration keys, which vmm-loader does not know.

use vmm_loader::boot::{BootError, BootSectorError, FileCategory};

/// Advice by the category of a file that is not a kernel.
const BY_CATEGORY: [(FileCategory, &str); 4] = [
    (FileCategory::Initramfs, "an initramfs goes with a kernel: `--initrd FILE`"),
    (
        FileCategory::BootableDisk,
        "give the kernel's own file; or `--boot flat --set guest.address=0x7c00`, if all of it is code that needs no BIOS",
    ),
    (FileCategory::Text, "a configuration's name ends in `.toml`"),
    (
        FileCategory::Unknown,
        "to run bytes as they are, say where they go: `--boot flat --set guest.address=0x100000`, and a `--mode`",
    ),
];

/// Returns the text of the `help:` line for a boot error. Falls back to the advice of vmm-loader.
pub(super) fn help(error: &BootError) -> Option<String> {
    let text = if let BootError::NotAKernel(file) = error {
        BY_CATEGORY.iter().find(|(category, _)| *category == file.category).map(|(_, text)| *text)
    } else if let BootError::UserProgram = error {
        Some("build it for bare x86 with `-ffreestanding -nostdlib`; or name a `mode` to run it as it is")
    } else if let BootError::BootSector(BootSectorError::Signature) = error {
        Some("to run bytes as they are, use `boot = \"flat\"` with an address")
    } else if let BootError::BootSector(BootSectorError::Size(_)) = error {
        Some("there is no BIOS here; to load all of it, use `boot = \"flat\"` with `address = 0x7c00`")
    } else {
        None
    };
    text.map(str::to_owned).or_else(|| error.help())
}
