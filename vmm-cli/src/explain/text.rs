//! Text form of an explanation.

use std::fmt;

use vmm_core::spec::gpa_range::ByteSize;

use super::memory::{Memory, Slot, size_words};
use super::registers::{ControlBitRow, ControlRegisterRow};
use super::steps::CallRow;
use super::tables::PagingSummary;
use super::{BootSummary, Explanation, ascii_map, loading};
use crate::table::{self, Align};
use crate::wrap::wrap;

/// Maximum width of lines, where words allow it.
const WIDTH: usize = 110;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.config, self.summary())?;
        for file in &self.files {
            writeln!(f, "\n{}: {}", file.name, file.plan)?;
            loading::lines(&file.loading).iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        if let Some(boot) = &self.boot {
            starting(f, boot)?;
        }
        writeln!(f, "\nFLOW OF CALLS\n")?;
        writeln!(
            f,
            "  ->  the argument goes into the kernel   <-  it comes out   <>  both   =  what is returned\n"
        )?;
        self.flow.iter().try_for_each(|row| step(f, row))?;
        writeln!(f, "\nMEMORY MAP\n")?;
        f.write_str(&ascii_map::draw(&self.memory))?;
        memory(f, &self.memory)?;
        writeln!(f, "\nPAGE TABLES\n")?;
        match &self.paging {
            Some(tables) => paging(f, tables)?,
            None => writeln!(f, "  none: a linear address is the physical address")?,
        }
        self.segments(f)?;
        writeln!(f, "\nCONTROL REGISTERS")?;
        self.control_registers.iter().try_for_each(|register| control(f, register))?;
        writeln!(f, "\nAT THE FIRST INSTRUCTION\n")?;
        for register in &self.registers {
            writeln!(f, "  {:<8} {:<20} {}", register.name, register.value, register.why)?;
        }
        writeln!(f, "  all other general registers are 0")?;
        writeln!(f, "\nSANDBOX\n")?;
        write!(f, "{}", self.sandbox)
    }
}

/// Writes the boot protocol: reason, alternatives, boot information.
fn starting(f: &mut fmt::Formatter<'_>, boot: &BootSummary) -> fmt::Result {
    let BootSummary { protocol, chosen, offers, told } = boot;
    writeln!(f, "\nBOOT PROTOCOL\n\n  {protocol}: {chosen}")?;
    for (title, lines) in [("the file offers, the best first", offers), ("the kernel is told", told)] {
        if !lines.is_empty() {
            writeln!(f, "  {title}:")?;
        }
        lines.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
    }
    Ok(())
}

/// Writes a call: name, argument line by line, result, purpose.
fn step(f: &mut fmt::Formatter<'_>, row: &CallRow) -> fmt::Result {
    let CallRow { number, on, call, source, arrow, structure, argument, returns, times, why, .. } = row;
    writeln!(f, "{}", format!("{number:>3}  {on:<9} {call:<40} {source}").trim_end())?;
    if times != "once" {
        writeln!(f, "{:15}*  {times}", "")?;
    }
    if let Some(name) = structure {
        writeln!(f, "{:15}{arrow} struct {name}", "")?;
        let width = argument.iter().filter_map(|field| field.name).map(str::len).max().unwrap_or(0);
        for field in argument {
            writeln!(f, "{:18}{:<width$}  {}", "", field.name.unwrap_or("..."), field.value)?;
        }
    } else {
        for field in argument {
            let mut mark = *arrow;
            for line in wrap(&field.value, WIDTH - 18) {
                writeln!(f, "{:15}{mark} {line}", "")?;
                mark = "  ";
            }
        }
    }
    if !returns.is_empty() {
        writeln!(f, "{:15}=  {returns}", "")?;
    }
    wrap(why, WIDTH - 18).iter().try_for_each(|line| writeln!(f, "{:18}{line}", ""))
}

fn memory(f: &mut fmt::Formatter<'_>, memory: &Memory) -> fmt::Result {
    writeln!(f)?;
    for slot in &memory.slots {
        let Slot { number, start, end, size, .. } = slot;
        writeln!(f, "  slot {number}: {start:#x}..{end:#x}, {}{}", ByteSize(*size), slot.words())?;
    }
    writeln!(f)?;
    for row in &memory.map {
        let slot = row.slot.map_or(String::new(), |slot| format!("slot {slot}"));
        let range = format!("{:#x}..{:#x}", row.start, row.end);
        writeln!(f, "  {range:<26} {:>12}  {slot:<7}  {}", size_words(row.size), row.what)?;
    }
    writeln!(f)?;
    for ports in &memory.ports {
        let range = if ports.first == ports.last {
            format!("port {}", ports.first)
        } else {
            format!("ports {}..={}", ports.first, ports.last)
        };
        writeln!(f, "  {range:<26} {:<14} {}", ports.device, ports.does)?;
    }
    Ok(())
}

fn paging(f: &mut fmt::Formatter<'_>, paging: &PagingSummary) -> fmt::Result {
    let PagingSummary { scheme, levels, address_bits, root, size, ranges, entry_walk } = paging;
    writeln!(f, "  {scheme}: {address_bits}-bit addresses, cut into {}, offset", levels.join(", "))?;
    writeln!(f, "  first table at {root}, {} of tables in all", ByteSize(*size))?;
    writeln!(f)?;
    let rows: Vec<[String; 6]> = ranges
        .iter()
        .map(|range| {
            [
                format!("{}..={}", range.start, range.last),
                format!("-> {}", range.physical),
                ByteSize(range.size).to_string(),
                format!("{} x {}", range.pages, range.page_size),
                range.access.clone(),
                range.shows.join(", "),
            ]
        })
        .collect();
    // Names of mapped ranges have lines of their own: with them, a line would be too long.
    let columns: Vec<&[String]> =
        rows.iter().map(|row| row.split_last().map_or(&[][..], |(_, cells)| cells)).collect();
    for (row, line) in rows.iter().zip(table::lines(&columns, Align::Left)) {
        writeln!(f, "  {line}")?;
        if let Some(shows) = row.last().filter(|shows| !shows.is_empty()) {
            wrap(shows, WIDTH - 6).iter().try_for_each(|line| writeln!(f, "      {line}"))?;
        }
    }
    writeln!(f, "\n  how the entry is found:")?;
    entry_walk.iter().try_for_each(|line| writeln!(f, "    {line}"))
}

impl Explanation {
    fn segments(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nSEGMENTS\n")?;
        for segment in &self.segments {
            let selector = segment.selector.as_deref().unwrap_or("");
            writeln!(f, "  {:<5} {selector:<7} {}", segment.register, segment.holds)?;
            writeln!(f, "  {:13} {}", "", segment.why)?;
        }
        if !self.gdt.is_empty() {
            writeln!(f, "\n  the GDT in memory")?;
        }
        for entry in &self.gdt {
            writeln!(f, "    {}  {}", entry.selector, entry.descriptor)?;
        }
        for (name, words) in [("IDT", &self.idt), ("TSS", &self.tss)] {
            if let Some(words) = words {
                writeln!(f, "  the {name} in memory: {words}")?;
            }
        }
        Ok(())
    }
}

/// Writes a control register: bits with a reason one by one, the others by name.
fn control(f: &mut fmt::Formatter<'_>, register: &ControlRegisterRow) -> fmt::Result {
    let ControlRegisterRow { name, value, after_reset, bits } = register;
    writeln!(f, "\n  {name} = {value} (after reset: {after_reset})")?;
    for ControlBitRow { number, name, set, meaning, why } in bits {
        if let Some(why) = why {
            writeln!(f, "    bit {number:<2} {name:<10} = {}  {meaning}", u8::from(*set))?;
            writeln!(f, "    {:23}{why}", "")?;
        }
    }
    let others: Vec<&str> = bits.iter().filter(|bit| bit.why.is_none()).map(|bit| bit.name).collect();
    if others.is_empty() {
        return Ok(());
    }
    let words = format!("clear, nothing here needs them: {}", others.join(" "));
    wrap(&words, WIDTH - 4).iter().try_for_each(|line| writeln!(f, "    {line}"))
}
