//! The files that go into guest memory, and what can be asked of them: symbols, source lines, where code begins.
//!
//! The guest's file comes first, then those of `[[load]]`, then what a boot protocol hands over: modules, and bytes that
//! were made for the kernel to read.

use vmm_core::Gpa;
use vmm_core::kvm_sys_wrap::FileRange;
use vmm_core::layout::LayoutEntry;
use vmm_core::machine::image::GuestImage;
use vmm_core::spec::gpa_range::GpaRange;
use vmm_core::spec::{MachineSpec, MemoryBacking, MemoryRegion};
use vmm_loader::{Bss, CopyReason, LoadMethod, LoadPlan, LoadPolicy, MappedPart, Segment, VirtAddr};

use super::file_bytes::FileBytes;
use crate::source_lines::SourceLines;

/// The guest's file first, then the others.
pub(crate) struct Files(Vec<LoadedFile>);

/// A file and its plan.
pub(super) struct LoadedFile {
    pub(super) name: String,
    pub(super) bytes: FileBytes,
    pub(super) plan: LoadPlan,
    pub(super) lines: SourceLines,
    /// Load method of each segment.
    pub(super) methods: Vec<LoadMethod>,
}

impl LoadedFile {
    pub(super) fn new(name: String, bytes: FileBytes, plan: LoadPlan) -> Self {
        Self { name, bytes, plan, lines: SourceLines::default(), methods: Vec::new() }
    }

    /// The parts that are mapped.
    fn mapped(&self) -> impl Iterator<Item = MappedPart> {
        self.methods.iter().filter_map(|method| match method {
            LoadMethod::Map(part) => Some(*part),
            LoadMethod::Copy(_) => None,
        })
    }
}

/// How a segment gets into the memory of a machine.
fn load_method(
    segment: &Segment,
    bytes: &FileBytes,
    loading: LoadPolicy,
    memory: &[MemoryRegion],
) -> LoadMethod {
    let method = segment.load_method(loading);
    let LoadMethod::Map(MappedPart { phys, size, .. }) = method else { return method };
    if bytes.mapped().is_none() {
        return LoadMethod::Copy(CopyReason::NoMapping);
    }
    let end = phys.0.saturating_add(size);
    let holds = |region: &&MemoryRegion| {
        region.address.0 <= phys.0 && end <= region.address.0.saturating_add(region.size)
    };
    match memory.iter().find(holds).map(|region| region.backing) {
        Some(MemoryBacking::Anonymous) => method,
        Some(MemoryBacking::Memfd | MemoryBacking::Hugetlb) => LoadMethod::Copy(CopyReason::Backing),
        None => LoadMethod::Copy(CopyReason::SeveralRegions),
    }
}

impl Files {
    /// Files for the memory of `machine`.
    pub(super) fn new(mut files: Vec<LoadedFile>, loading: LoadPolicy, machine: &MachineSpec) -> Self {
        for file in &mut files {
            let segments = file.plan.segments().iter();
            file.methods =
                segments.map(|segment| load_method(segment, &file.bytes, loading, &machine.memory)).collect();
        }
        Self(files)
    }

    /// For each file, how its segments get into memory.
    pub(crate) fn load_methods(&self) -> impl Iterator<Item = impl Iterator<Item = (&Segment, LoadMethod)>> {
        self.0.iter().map(|file| file.plan.segments().iter().zip(file.methods.iter().copied()))
    }

    /// Each file's name and plan, the guest first.
    pub(crate) fn plans(&self) -> impl Iterator<Item = (&str, &LoadPlan)> {
        self.0.iter().map(|file| (file.name.as_str(), &file.plan))
    }

    /// Each file's bytes and plan, the guest first.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (&[u8], &LoadPlan)> {
        self.0.iter().map(|file| (&*file.bytes, &file.plan))
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

    /// Returns the start of an instruction at or before a virtual address: its symbol, or its segment.
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

    /// Returns the physical address of a symbol of the guest.
    pub(crate) fn symbol(&self, name: &str) -> Result<Gpa, vmm_loader::SymbolError> {
        let Some(plan) = self.guest() else { return Ok(Gpa(0)) };
        let address = plan.symbols().lookup(name)?.address;
        // A symbol outside of all segments, such as one that the linker script computed, is taken as it is.
        Ok(plan.virt_to_phys(address).map_or(Gpa(address.0), Gpa::from))
    }
}

impl GuestImage for Files {
    fn occupied(&self) -> Vec<LayoutEntry> {
        let named = self.0.iter().flat_map(|file| {
            file.plan
                .ranges()
                .into_iter()
                .map(move |range| (format!("{} {}", file.name, range.name), range.range))
        });
        named
            .filter_map(|(name, range)| {
                Some(LayoutEntry::guest(name, GpaRange::between(range.start.into(), range.end.into())?))
            })
            .collect()
    }

    fn mapped(&self) -> Vec<(Gpa, FileRange)> {
        let parts = self.0.iter().flat_map(|file| file.mapped().map(move |part| (file, part)));
        parts
            .filter_map(|(file, MappedPart { phys, file_offset: offset, size, .. })| {
                Some((phys.into(), FileRange { file: file.bytes.mapped()?.clone(), offset, size }))
            })
            .collect()
    }

    fn place(
        &self,
        memory: &vmm_core::kvm_sys_wrap::GuestMemory,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for file in &self.0 {
            let mapped: Vec<MappedPart> = file.mapped().collect();
            file.plan.load_unmapped(&file.bytes, &mapped, memory, Bss::AlreadyZero)?;
            // What was copied out of a mapping is right only if the file was left alone.
            file.bytes.check()?;
        }
        Ok(())
    }
}
