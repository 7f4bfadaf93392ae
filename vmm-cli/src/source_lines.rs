//! Looks up the source line of an address.
//!
//! addr2line reads the DWARF tables of a guest built with `-g`. They are parsed at the first lookup, so that a run that
//! shows no addresses does not pay for them. A file without tables, or with damaged or compressed ones, has no lines.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use addr2line::Context;
use gimli::{Dwarf, EndianArcSlice, LittleEndian};
use object::{Object, ObjectSection, ObjectSegment};
use vmm_loader::LoadPlan;

type SectionBytes = EndianArcSlice<LittleEndian>;

/// Line tables of one guest file, read at the first lookup.
#[derive(Default)]
pub(crate) struct SourceLines(Mutex<LineTableState>);

/// State of the line tables.
#[derive(Default)]
enum LineTableState {
    #[default]
    Unread,
    None,
    Read(LineTables),
}

struct LineTables {
    context: Context<SectionBytes>,
    /// Distance between load and link address, for a static PIE.
    slide: u64,
}

impl SourceLines {
    /// Returns the source line of a virtual address, such as `hello.c:12`. `file` and `plan` are those that the guest
    /// was loaded from, and must be the same at each call.
    pub(crate) fn at(&self, file: &[u8], plan: &LoadPlan, address: u64) -> Option<String> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let LineTableState::Unread = *lines {
            *lines = LineTables::read(file, plan).map_or(LineTableState::None, LineTableState::Read);
        }
        let LineTableState::Read(tables) = &*lines else { return None };
        // addr2line adds 1 to the address.
        let linked = Some(address.wrapping_sub(tables.slide)).filter(|linked| *linked < u64::MAX)?;
        let location = tables.context.find_location(linked).ok()??;
        let name = Path::new(location.file?).file_name()?.to_string_lossy();
        // Control characters in a file name would be interpreted by the terminal.
        let name = name.replace(char::is_control, "?");
        Some(location.line.map_or_else(|| name.clone(), |line| format!("{name}:{line}")))
    }
}

impl LineTables {
    fn read(file: &[u8], plan: &LoadPlan) -> Option<Self> {
        let object = object::File::parse(file).ok()?;
        let dwarf: Dwarf<SectionBytes> = Dwarf::load(|id| {
            let section = object.section_by_name(id.name());
            let data = section.and_then(|section| section.data().ok()).unwrap_or_default();
            Ok::<_, gimli::Error>(SectionBytes::new(Arc::from(data), LittleEndian))
        })
        .ok()?;
        let linked = object.segments().filter(|segment| segment.size() > 0).map(|s| s.address()).min()?;
        let runs = plan.segments().iter().map(|segment| segment.virt.0).min()?;
        Some(Self { context: Context::from_dwarf(dwarf).ok()?, slide: runs.wrapping_sub(linked) })
    }
}

#[cfg(test)]
mod tests {
    use vmm_loader::{ElfOptions, elf};

    use super::*;

    /// Returns a guest of the repository; `None` where the guests are not built.
    fn guest(name: &str, base: Option<u64>) -> Option<(Vec<u8>, LoadPlan)> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/build").join(name);
        let Ok(file) = std::fs::read(&path) else {
            println!("skipped: {} is not built", path.display());
            return None;
        };
        let options = ElfOptions::default().with_base(base.map(vm_memory::GuestAddress));
        let plan = elf::plan(&file, &options).unwrap();
        Some((file, plan))
    }

    #[test]
    fn an_entry_has_its_line_wherever_the_file_was_moved() {
        let guests = [
            ("page-fault.elf", None, "page-fault.c:"),
            ("static-pie.elf", None, "static-pie.c:"),
            ("static-pie.elf", Some(0x18_0000), "static-pie.c:"),
        ];
        for (name, base, source) in guests {
            let Some((file, plan)) = guest(name, base) else { return };
            let line = SourceLines::default().at(&file, &plan, plan.entry().unwrap().0).unwrap();
            assert!(line.starts_with(source), "{name}: {line}");
        }
    }

    #[test]
    fn what_has_no_tables_has_no_lines() {
        let flat = vmm_loader::flat::plan(&[0xf4], vm_memory::GuestAddress(0x8000)).unwrap();
        assert_eq!(SourceLines::default().at(&[0xf4], &flat, 0x8000), None);
        let Some((mut file, plan)) = guest("hello-long.elf", None) else { return };
        for address in [0xdead_0000, u64::MAX] {
            assert_eq!(SourceLines::default().at(&file, &plan, address), None);
        }
        // Every other byte after the headers is wrong: nothing must panic.
        file.iter_mut().skip(0x2000).step_by(2).for_each(|byte| *byte ^= 0x55);
        let _ = SourceLines::default().at(&file, &plan, plan.entry().unwrap().0);
    }
}
