//! Compares two explained machines.
//!
//! Each explanation becomes a list of named facts, and facts of the same name are compared. Where the guests have
//! different file names, facts say `guest` for both, so that the name differs once and not in every line.
//!
//! The JSON form is an object: `left` and `right` (the configurations), and `differences`, an array of objects with
//! `section`, `name`, `left` and `right` (null where a machine has no such fact).

use std::fmt;

use serde::Serialize;
use vmm_core::spec::gpa_range::ByteSize;

use super::Explanation;
use super::memory::Kind;
use super::steps::CallRow;

/// Differences between two machines.
#[derive(Debug, Serialize)]
pub(crate) struct ExplanationDiff {
    left: String,
    right: String,
    differences: Vec<Difference>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Difference {
    section: &'static str,
    name: String,
    left: Option<String>,
    right: Option<String>,
}

/// A named property of a machine.
struct Fact {
    section: &'static str,
    name: String,
    value: String,
    /// Context that is shown with the value and not compared.
    why: &'static str,
}

impl Fact {
    fn new(section: &'static str, name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { section, name: name.into(), value: value.into(), why: "" }
    }

    fn shown(&self) -> String {
        let separator = if self.why.is_empty() { "" } else { ": " };
        format!("{}{separator}{}", self.value, self.why)
    }
}

impl ExplanationDiff {
    pub(crate) fn of(left: &Explanation, right: &Explanation) -> Self {
        let differences = compare(&facts(left), &facts(right));
        Self { left: left.config.clone(), right: right.config.clone(), differences }
    }

    /// Renders the differences as indented JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl fmt::Display for ExplanationDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "--- {}\n+++ {}", self.left, self.right)?;
        if self.differences.is_empty() {
            return writeln!(f, "\nno difference");
        }
        let mut section = "";
        for Difference { section: here, name, left, right } in &self.differences {
            if *here != section {
                writeln!(f, "\n{}\n", here.to_uppercase())?;
                section = here;
            }
            writeln!(f, "  {name}")?;
            for (mark, value) in [('-', left), ('+', right)] {
                for line in value.iter().flat_map(|value| value.lines()) {
                    writeln!(f, "    {mark} {line}")?;
                }
            }
        }
        Ok(())
    }
}

/// Compares facts in the order of the left machine. Facts that only the right one has go to the end of their section.
fn compare(left: &[Fact], right: &[Fact]) -> Vec<Difference> {
    let mut sections: Vec<&'static str> = Vec::new();
    for fact in left.iter().chain(right) {
        if !sections.contains(&fact.section) {
            sections.push(fact.section);
        }
    }
    let mut differences = Vec::new();
    for section in sections {
        let here = |fact: &&Fact| fact.section == section;
        for fact in left.iter().filter(here) {
            let other = find(right, fact);
            if other.is_none_or(|other| other.value != fact.value) {
                let right = other.map(Fact::shown);
                differences.push(Difference {
                    section,
                    name: fact.name.clone(),
                    left: Some(fact.shown()),
                    right,
                });
            }
        }
        for fact in right.iter().filter(here).filter(|fact| find(left, fact).is_none()) {
            differences.push(Difference {
                section,
                name: fact.name.clone(),
                left: None,
                right: Some(fact.shown()),
            });
        }
    }
    differences
}

/// Finds the fact of the same name.
fn find<'a>(facts: &'a [Fact], wanted: &Fact) -> Option<&'a Fact> {
    facts.iter().find(|fact| fact.section == wanted.section && fact.name == wanted.name)
}

/// Returns all facts of a machine.
fn facts(explanation: &Explanation) -> Vec<Fact> {
    let guest = explanation.files.first().map(|file| file.name.clone()).unwrap_or_default();
    let mut facts = machine(explanation);
    facts.extend(protocol(explanation));
    facts.extend(flow(&explanation.flow));
    facts.extend(memory(explanation));
    facts.extend(paging(explanation));
    facts.extend(tables(explanation));
    facts.extend(registers(explanation));
    for part in ["segment", "flat binary"] {
        let (named, neutral) = (format!("{guest} {part}"), format!("guest {part}"));
        for fact in &mut facts {
            fact.name = fact.name.replace(&named, &neutral);
            fact.value = fact.value.replace(&named, &neutral);
        }
    }
    facts.insert(0, Fact::new("machine", "guest", guest));
    facts
}

fn machine(explanation: &Explanation) -> Vec<Fact> {
    let machine = &explanation.machine;
    let limit = |limit: Option<String>| limit.unwrap_or_else(|| "none".to_owned());
    [
        ("mode", machine.mode.to_owned()),
        ("width of code", format!("{} bits", machine.bits)),
        ("ring", machine.ring.to_string()),
        ("memory", ByteSize(machine.memory).to_string()),
        ("entry", machine.entry_words()),
        ("cpuid", machine.cpuid.clone()),
        ("unmapped", machine.unmapped.to_owned()),
        ("halt", machine.halt.to_owned()),
        ("time limit", limit(machine.time_limit.clone())),
        ("exit limit", limit(machine.exit_limit.map(|exits| exits.to_string()))),
        ("arguments", format!("{:?}", machine.arguments)),
    ]
    .into_iter()
    .map(|(name, value)| Fact::new("machine", name, value))
    .collect()
}

/// The protocols that the file supports are left out: they are a property of the file.
fn protocol(explanation: &Explanation) -> Vec<Fact> {
    let Some(boot) = &explanation.boot else { return Vec::new() };
    let fact = |name: String, value: &str| Fact::new("boot protocol", name, value);
    let told = boot.told.iter().zip(1..).map(|(told, line)| fact(format!("told, line {line}"), told));
    std::iter::once(fact("protocol".to_owned(), boot.protocol)).chain(told).collect()
}

/// Facts about calls, named by the call and its number among calls of that name.
fn flow(rows: &[CallRow]) -> Vec<Fact> {
    let mut facts: Vec<Fact> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let before = rows.iter().take(index).filter(|other| other.call == row.call).count();
        let turn = if before == 0 { String::new() } else { format!(" ({})", before.saturating_add(1)) };
        let call = format!("{}{turn}", row.call);
        // The call itself is a fact, so that calls that only one machine makes are shown.
        facts.push(Fact::new("flow of calls", call.clone(), row.times.clone()));
        for field in &row.argument {
            let name = field.name.map_or_else(|| format!("{call} argument"), |name| format!("{call} {name}"));
            facts.push(Fact::new("flow of calls", name, field.value.clone()));
        }
    }
    facts
}

/// Facts about the memory layout. Free memory and holes follow from it.
fn memory(explanation: &Explanation) -> Vec<Fact> {
    let memory = &explanation.memory;
    let range = |start: u64, end: u64, size: u64| format!("{start:#x}..{end:#x}, {}", ByteSize(size));
    let slots = memory.slots.iter().map(|slot| {
        let words = range(slot.start, slot.end, slot.size) + &slot.words();
        Fact::new("memory map", format!("slot {}", slot.number), words)
    });
    let things = memory.map.iter().filter(|row| !matches!(row.kind, Kind::Free | Kind::Hole));
    let things =
        things.map(|row| Fact::new("memory map", row.what.clone(), range(row.start, row.end, row.size)));
    let ports = memory.ports.iter().map(|ports| {
        let range = format!("{}..={}", ports.first, ports.last);
        Fact::new("memory map", format!("ports of {}", ports.device), range)
    });
    slots.chain(things).chain(ports).collect()
}

fn paging(explanation: &Explanation) -> Vec<Fact> {
    let fact = |name: &str, value: String| Fact::new("page tables", name, value);
    let Some(paging) = &explanation.paging else {
        return vec![fact("scheme", "none".to_owned())];
    };
    let mut facts = vec![
        fact("scheme", paging.scheme.to_owned()),
        fact("levels", paging.levels.join(", ")),
        fact("first table", paging.root.clone()),
        fact("size of all tables", ByteSize(paging.size).to_string()),
    ];
    facts.extend(paging.ranges.iter().map(|range| {
        let pages = format!("{} x {}", range.pages, range.page_size);
        let value = format!("..={} -> {}, {pages}, {}", range.last, range.physical, range.access);
        fact(&format!("from {}", range.start), value)
    }));
    facts.push(fact("how the entry is found", paging.entry_walk.join("\n")));
    facts
}

fn tables(explanation: &Explanation) -> Vec<Fact> {
    let segments = explanation.segments.iter().map(|segment| {
        let selector = segment.selector.as_ref().map(|selector| format!("{selector}  ")).unwrap_or_default();
        Fact::new("segments", segment.register, format!("{selector}{}", segment.holds))
    });
    let gdt = explanation.gdt.iter().map(|entry| {
        Fact::new("segments", format!("GDT entry {}", entry.selector), entry.descriptor.clone())
    });
    let others = [("IDT in memory", &explanation.idt), ("TSS in memory", &explanation.tss)];
    let others =
        others.into_iter().filter_map(|(name, words)| Some(Fact::new("segments", name, words.clone()?)));
    segments.chain(gdt).chain(others).collect()
}

fn registers(explanation: &Explanation) -> Vec<Fact> {
    let mut facts = Vec::new();
    for register in &explanation.control_registers {
        facts.push(Fact::new("control registers", register.name, register.value.clone()));
        for bit in &register.bits {
            let name = format!("{}.{} ({})", register.name, bit.name, bit.meaning);
            let fact = Fact::new("control registers", name, u8::from(bit.set).to_string());
            facts.push(Fact { why: bit.why.unwrap_or_default(), ..fact });
        }
    }
    for register in &explanation.registers {
        let value = format!("{}, {}", register.value, register.why);
        facts.push(Fact::new("at the first instruction", register.name, value));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(name: &str, left: Option<&str>, right: Option<&str>) -> Difference {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Difference { section: "s", name: name.to_owned(), left: owned(left), right: owned(right) }
    }

    #[test]
    fn only_what_differs_is_left_and_a_reason_alone_is_no_difference() {
        let because = |why, fact| Fact { why, ..fact };
        let left = [
            Fact::new("s", "same", "1"),
            because("one", Fact::new("s", "reason", "1")),
            because("why not", Fact::new("s", "other", "1")),
            Fact::new("s", "gone", "1"),
        ];
        let right = [
            Fact::new("s", "new", "1"),
            because("two", Fact::new("s", "reason", "1")),
            Fact::new("s", "other", "2"),
            Fact::new("s", "same", "1"),
        ];
        let expected = [
            difference("other", Some("1: why not"), Some("2")),
            difference("gone", Some("1"), None),
            difference("new", None, Some("1")),
        ];
        assert_eq!(compare(&left, &right), expected);
    }
}
