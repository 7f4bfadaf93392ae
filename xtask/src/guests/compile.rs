//! Builds guests in C and assembly with gcc, ld and objcopy.
//!
//! Debian's gcc and binutils build 16-, 32- and 64-bit guests without multilib packages, because guests link no library.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::manifest::{CodeWidth, LinkedGuest};
use crate::failure::{Failure, Result};

/// Flags of gcc. A guest has no C library and no loader. Its interrupt handlers save no vector registers, and a KVM that
/// interprets ring 0 has no SSE or x87. 64-bit guests have no red zone, which an interrupt would overwrite.
const COMPILER_FLAGS: &str = "-ffreestanding -nostdlib -fno-pie -no-pie -fno-stack-protector \
    -fcf-protection=none -mno-sse -mno-mmx -mno-80387 -mgeneral-regs-only -fno-asynchronous-unwind-tables -O2 -g \
    -Wall -Wextra -Werror -Wno-array-bounds -I ../include";

/// Flags of ld. Segments start at page boundaries, and nothing is added for Linux.
const LINKER_FLAGS: &str = "-nostdlib -static --build-id=none -z noexecstack -z max-page-size=0x1000";

/// Compiles and links a guest in `folder`, with intermediate files in `scratch`. Returns the path of the ELF file.
pub(super) fn elf(linked: &LinkedGuest, folder: &Path, scratch: &Path) -> Result<PathBuf> {
    let mut link = Command::new("ld");
    let elf = scratch.join("guest.elf");
    let emulation = if linked.bits == CodeWidth::Bits64 { "elf_x86_64" } else { "elf_i386" };
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
            CodeWidth::Bits16 => ["-m16"].as_slice(),
            CodeWidth::Bits32 => &["-m32"],
            CodeWidth::Bits64 => &["-m64", "-mno-red-zone"],
        });
        compile.args(COMPILER_FLAGS.split_whitespace()).args(&linked.cflags).args(["-c", source, "-o"]);
        run(compile.arg(&object), folder)?;
        link.arg(&object);
    }
    run(&mut link, folder)?;
    Ok(elf)
}

/// Builds a guest as flat binary. Returns its path.
pub(super) fn flat(linked: &LinkedGuest, folder: &Path, scratch: &Path) -> Result<PathBuf> {
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
