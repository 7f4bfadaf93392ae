//! From a configuration to a machine's description and a guest image: everything that can be done without KVM.
//!
//! The guest's files are read and planned, the entry is found, the layout is computed. `check` stops here; `run` goes on
//! to build the machine. Each mistake points at the line of the TOML file that led to it.

use std::fs;
use std::io::Read;
use std::path::Path;

use vm_memory::GuestAddress;
use vmm_cli::config::{Config, EntryChoice, Expect, File, FileKind, MemoryPlace};
use vmm_cli::diagnostic::{Diagnostic, Diagnostics};
use vmm_cli::status::Status;
use vmm_core::image::GuestImage;
use vmm_core::layout::{self, Layout, Occupied};
use vmm_core::mode::Mode;
use vmm_core::span::Span;
use vmm_core::spec::{Entry, MachineSpec};
use vmm_core::{Gpa, Gva};
use vmm_loader::{Bss, ElfClass, ElfOptions, LoadPlan, VirtAddr, elf, flat};

use crate::problems;
use crate::source_lines::SourceLines;

/// A machine to be, and the files for its memory.
pub(crate) struct Prepared {
    /// The machine, with its entry.
    pub(crate) machine: MachineSpec,
    /// What lies where.
    pub(crate) layout: Layout,
    /// The guest, and what is loaded beside it.
    pub(crate) files: Files,
}

/// The guest's file first, then the others.
pub(crate) struct Files(Vec<Loaded>);

/// A file and its plan.
struct Loaded {
    name: String,
    bytes: Vec<u8>,
    plan: LoadPlan,
    lines: SourceLines,
}

impl Prepared {
    /// Reads the files and makes sure that they fit.
    ///
    /// # Errors
    /// All mistakes that can be found at once: files first, then where they lie.
    pub(crate) fn new(config: &Config) -> Result<Self, Diagnostics> {
        let mut problems = Vec::new();
        let mut files = Vec::new();
        for file in std::iter::once(&config.guest).chain(&config.loads) {
            match load(config, file) {
                Ok(loaded) => files.push(loaded),
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(Diagnostics(problems));
        }
        let files = Files(files);
        let mut machine = config.machine.clone();
        match files.entry(config) {
            Ok(entry) => machine.boot.entry = entry,
            Err(problem) => problems.push(problem),
        }
        problems.extend(files.check(config));
        let layout = layout::compute(&machine, &files.occupied());
        match layout {
            Ok(layout) if problems.is_empty() => Ok(Self { machine, layout, files }),
            Ok(_) => Err(Diagnostics(problems)),
            Err(error) => {
                problems.extend(problems::locate(config, &error));
                Err(Diagnostics(problems))
            }
        }
    }
}

impl Files {
    /// Each file's name and plan, the guest first.
    pub(crate) fn plans(&self) -> impl Iterator<Item = (&str, &LoadPlan)> {
        self.0.iter().map(|file| (file.name.as_str(), &file.plan))
    }

    /// Each file's bytes and plan, the guest first.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (&[u8], &LoadPlan)> {
        self.0.iter().map(|file| (file.bytes.as_slice(), &file.plan))
    }

    /// The plan of the guest itself.
    pub(crate) fn guest(&self) -> Option<&LoadPlan> {
        self.0.first().map(|loaded| &loaded.plan)
    }

    /// The symbol that a virtual address belongs to, as `name` or `name+0x12`.
    pub(crate) fn symbol_at(&self, address: u64) -> Option<String> {
        let (symbol, offset) = self.0.iter().find_map(|file| file.plan.symbol_at(VirtAddr(address)))?;
        Some(if offset == 0 { symbol.name.clone() } else { format!("{}+{offset:#x}", symbol.name) })
    }

    /// Where an instruction begins for sure, at or before a virtual address: at its symbol, or at the file's segment.
    pub(crate) fn code_start(&self, address: u64) -> Option<u64> {
        let address = VirtAddr(address);
        let file = self.0.iter().find(|file| file.plan.segment_at(address).is_some())?;
        let segment = file.plan.segment_at(address)?;
        Some(file.plan.symbol_at(address).map_or(segment.virt.0, |(symbol, _)| symbol.address.0))
    }

    /// The source line that the code at a virtual address was compiled from, as `hello.c:12`.
    pub(crate) fn line_at(&self, address: u64) -> Option<String> {
        let file = self.0.iter().find(|file| file.plan.segment_at(VirtAddr(address)).is_some())?;
        file.lines.at(&file.bytes, &file.plan, address)
    }

    /// Symbol and source line of an address: `main+0x10 (hello.c:12)`; `None` where neither is known.
    pub(crate) fn describe(&self, address: u64) -> Option<String> {
        match (self.symbol_at(address), self.line_at(address)) {
            (Some(symbol), Some(line)) => Some(format!("{symbol} ({line})")),
            (symbol, line) => symbol.or(line),
        }
    }

    /// Where in physical memory a symbol of the guest lies.
    pub(crate) fn symbol(&self, name: &str) -> Result<Gpa, vmm_loader::SymbolError> {
        let Some(plan) = self.guest() else { return Ok(Gpa(0)) };
        let address = plan.symbols().lookup(name)?.address;
        // A symbol outside of all segments, such as one that the linker script computed, is taken as it is.
        Ok(plan.virt_to_phys(address).map_or(Gpa(address.0), Gpa::from))
    }

    fn entry(&self, config: &Config) -> Result<Entry, Diagnostic> {
        let choice = match &config.entry {
            EntryChoice::Segmented { segment, offset } => {
                return Ok(Entry::Segmented { segment: *segment, offset: *offset });
            }
            EntryChoice::FromFile => vmm_loader::EntryChoice::File,
            EntryChoice::Symbol(name) => vmm_loader::EntryChoice::Symbol(name.clone()),
            EntryChoice::Address(address) => vmm_loader::EntryChoice::Address(VirtAddr(address.0)),
        };
        let Some(plan) = self.guest() else { return Ok(Entry::Address(Gva(0))) };
        let entry = plan
            .resolve_entry(&choice)
            .map_err(|error| config.error_at("guest.entry", error.to_string()).with_help(error.help()))?;
        if config.mode() == Mode::Real && entry.0 >= 1 << 20 {
            let message = format!("the entry {entry} is out of reach in real mode, which ends at 1 MiB");
            return Err(config
                .error_at("guest.entry", message)
                .with_help(Some("link the guest below 0x100000")));
        }
        Ok(Entry::Address(Gva(entry.0)))
    }

    /// What can be said once all files are there.
    fn check(&self, config: &Config) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        let plans: Vec<(&str, &LoadPlan)> = self.plans().collect();
        if let Err(error) = vmm_loader::check_overlap(&plans) {
            problems.push(config.error_at("load", error.to_string()).with_help(error.help()));
        }
        let symbols = config.expect.as_ref().map(expected_symbols).unwrap_or_default();
        for (index, name) in symbols {
            if let Err(error) = self.symbol(name) {
                let key = format!("expect.memory.{index}.symbol");
                problems.push(config.error_at(&key, error.to_string()).with_help(error.help()));
            }
        }
        problems
    }
}

fn expected_symbols(expect: &Expect) -> Vec<(usize, &str)> {
    expect
        .memory
        .iter()
        .enumerate()
        .filter_map(|(index, expected)| match &expected.place {
            MemoryPlace::Symbol(name) => Some((index, name.as_str())),
            MemoryPlace::Address(_) => None,
        })
        .collect()
}

impl GuestImage for Files {
    fn occupied(&self) -> Vec<Occupied> {
        let named = self.0.iter().flat_map(|file| {
            file.plan
                .ranges()
                .into_iter()
                .map(move |range| (format!("{} {}", file.name, range.name), range.range))
        });
        named
            .filter_map(|(name, range)| {
                Some(Occupied { name, range: Span::between(range.start.into(), range.end.into())? })
            })
            .collect()
    }

    fn place(
        &self,
        memory: &kvm_sys_wrap::GuestMemory,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for file in &self.0 {
            file.plan.place(&file.bytes, memory, Bss::AlreadyZero)?;
        }
        Ok(())
    }
}

/// Reads and plans one file.
fn load(config: &Config, file: &File) -> Result<Loaded, Diagnostic> {
    let name =
        file.path.file_name().map_or_else(|| file.path.display().to_string(), |n| n.to_string_lossy().into());
    let bytes = read(&file.path).map_err(|error| unreadable(config, file, &error))?;
    let plan = match file.kind {
        FileKind::Elf { base } => elf::plan(&bytes, &ElfOptions { base: base.map(GuestAddress::from) }),
        FileKind::Flat { address } => flat::plan(&bytes, address.into()),
    };
    let plan = plan.map_err(|error| {
        let message = format!("{}: {error}", file.path.display());
        config.error_at(&file.key, message).with_help(error.help())
    })?;
    check_class(config, file, plan.class())?;
    Ok(Loaded { name, bytes, plan, lines: SourceLines::default() })
}

/// The whole file. Only a regular one: a device or a pipe may never end.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable(config: &Config, File { path, key, .. }: &File, error: &std::io::Error) -> Diagnostic {
    let shown = path.display();
    if error.kind() != std::io::ErrorKind::NotFound {
        let problem = config.error_at(key, format!("cannot read {shown}: {error}"));
        return Diagnostic { status: Status::Host, ..problem };
    }
    let built_here = path.parent().is_some_and(|directory| directory.ends_with("guests/build"));
    let siblings = siblings(path, config.mode());
    let help = match (siblings.is_empty(), built_here) {
        (false, _) => format!("there is {}", siblings.join(", ")),
        (true, true) => "build it: `cargo xtask guests`".to_owned(),
        (true, false) => "build the guest first, or correct the path".to_owned(),
    };
    config.error_at(key, format!("the guest file {shown} does not exist")).with_help(Some(help))
}

/// An ELF file must have the width of the mode's code.
fn check_class(
    config: &Config,
    File { path, key, .. }: &File,
    class: Option<ElfClass>,
) -> Result<(), Diagnostic> {
    let mode = config.mode();
    let Some(class) = class else { return Ok(()) };
    let fits = match class {
        ElfClass::Elf32 => mode.bits() <= 32,
        ElfClass::Elf64 => mode.bits() == 64,
    };
    if fits {
        return Ok(());
    }
    let (has, flag) = match class {
        ElfClass::Elf32 => ("32-bit", "mode = \"protected\" (or real, paged, pae)"),
        ElfClass::Elf64 => ("64-bit", "mode = \"long\""),
    };
    let message = format!("{} holds {has} code, which cannot run in mode {mode}", path.display());
    let siblings = siblings(path, mode);
    let help = if siblings.is_empty() {
        let bits = if mode.bits() == 64 { "-m64" } else { "-m32" };
        format!("use {flag}, or build the guest with {bits}")
    } else {
        format!("for this mode there is {}", siblings.join(", "))
    };
    Err(config.error_at(key, message).with_help(Some(help)))
}

/// Builds of the same guest for the given mode, beside a file: for `hello-long.elf`, `hello-pae.elf` if it exists; if
/// there are none for the mode, those for other modes.
fn siblings(path: &Path, mode: Mode) -> Vec<String> {
    let Some((stem, extension)) = path.file_stem().zip(path.extension()) else { return Vec::new() };
    let (stem, extension) = (stem.to_string_lossy(), extension.to_string_lossy());
    let base =
        Mode::ALL.iter().find_map(|mode| stem.strip_suffix(mode.name())?.strip_suffix('-')).unwrap_or(&stem);
    let build = |mode: Mode| path.with_file_name(format!("{base}-{mode}.{extension}"));
    let existing = |modes: &[Mode]| -> Vec<String> {
        let files = modes.iter().map(|mode| build(*mode)).filter(|file| file != path && file.exists());
        files.map(|file| file.display().to_string()).collect()
    };
    let own = existing(&[mode]);
    if own.is_empty() { existing(&Mode::ALL) } else { own }
}
