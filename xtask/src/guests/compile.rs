//! Guests in C and assembly: gcc for each source, one link, and objcopy for flat binaries.
//!
//! Debian's gcc and binutils do all widths without multilib packages, because a guest links with no library.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::manifest::{Bits, Linked};
use crate::failure::{Failure, Result};

/// A guest has no C library, no loader and no signal frame below its stack (the red zone would be overwritten by an
/// interrupt); its interrupt handlers save no vector registers, and a KVM that interprets ring 0 has no SSE or x87.
const COMPILER_FLAGS: &str = "-ffreestanding -nostdlib -fno-pie -no-pie -fno-stack-protector \
    -fcf-protection=none -mno-sse -mno-mmx -mno-80387 -mgeneral-regs-only -fno-asynchronous-unwind-tables -O2 -g \
    -Wall -Wextra -Werror -Wno-array-bounds -I ../include";

/// Segments start at page boundaries, and what linkers add for Linux stays out.
const LINKER_FLAGS: &str = "-nostdlib -static --build-id=none -z noexecstack -z max-page-size=0x1000";

/// Compiles and links a guest from its `folder`, with all files it makes in `scratch`; returns the ELF.
pub(super) fn elf(linked: &Linked, folder: &Path, scratch: &Path) -> Result<PathBuf> {
    let mut link = Command::new("ld");
    let elf = scratch.join("guest.elf");
    let emulation = if linked.bits == Bits::B64 { "elf_x86_64" } else { "elf_i386" };
    link.args(["-m", emulation]).args(LINKER_FLAGS.split_whitespace()).args(["-e", &linked.entry]);
    if let Some(text) = linked.text {
        link.arg(format!("--defsym=text_address={text:#x}")).args(["-T", "../include/guest.ld"]);
    } else if let Some(script) = &linked.script {
        link.args(["-T", script]);
    }
    link.args(&linked.ldflags).arg("-o").arg(&elf);
    for (number, source) in linked.sources.iter().enumerate() {
        let object = scratch.join(format!("{number}.o"));
        let mut compile = Command::new("gcc");
        compile.args(match linked.bits {
            Bits::B16 => ["-m16"].as_slice(),
            Bits::B32 => &["-m32"],
            Bits::B64 => &["-m64", "-mno-red-zone"],
        });
        compile.args(COMPILER_FLAGS.split_whitespace()).args(&linked.cflags).args(["-c", source, "-o"]);
        run(compile.arg(&object), folder)?;
        link.arg(&object);
    }
    run(&mut link, folder)?;
    Ok(elf)
}

/// The same as bytes alone.
pub(super) fn flat(linked: &Linked, folder: &Path, scratch: &Path) -> Result<PathBuf> {
    let elf = elf(linked, folder, scratch)?;
    let flat = scratch.join("guest.bin");
    run(Command::new("objcopy").args(["-O", "binary"]).args([&elf, &flat]), folder)?;
    Ok(flat)
}

fn run(command: &mut Command, folder: &Path) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.current_dir(folder).output().map_err(|error| {
        Failure::new(format!(
            "cannot start {program}: {error}; guests need Debian's packages gcc and binutils"
        ))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!(
        "{program} in {} ended with {}\n{}",
        folder.display(),
        output.status,
        errors.trim_end()
    )))
}
