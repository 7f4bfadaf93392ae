//! `vmm-cli pages`: shows all mappings of the page tables as ranges, and lints of them.
//!
//! Findings are not errors: the exit status is 0. The JSON form has these keys; more may come, none go:
//!
//! | key | value |
//! |---|---|
//! | `point` | description of the stop point |
//! | `scheme`, `root` | paging scheme, and address of the root table; null without paging |
//! | `ranges` | array of ranges: `gva`, `gpa`, `bytes`, `page_size`, `pages`, `access` (`writable`, `user`, `executable`) |
//! | `truncated` | true if there are too many ranges to list |
//! | `findings` | array of findings: `kind`, `gva`, `message` |
//!
//! The kinds are `writable-executable`, `user-visible`, `alias`, `nothing-there`, `reserved-bits` and
//! `table-not-in-memory` ([`PageLint`]).

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use vmm_core::explain::page_lint::{self, PageLint};
use vmm_core::layout::RangeOwner;
use vmm_core::paging::Scheme;
use vmm_core::paging::merge::{MappedRange, mappings};
use vmm_core::spec::gpa_range::GpaRange;

use super::translate::PermissionsRecord;
use crate::diagnostic::Diagnostics;
use crate::inspect::InspectArgs;
use crate::inspect::{InspectNeeds, InspectedGuest};
use crate::mapping_table;
use crate::options::Format;
use crate::status::Status;
use crate::stdout;

/// Maximum number of findings of a kind in the text form.
const MAX_FINDINGS: usize = 10;

#[derive(Debug, Serialize)]
struct PagesOutput {
    point: String,
    scheme: Option<&'static str>,
    root: Option<u64>,
    ranges: Vec<MappedRecord>,
    truncated: bool,
    findings: Vec<FindingRecord>,
    #[serde(skip)]
    mapped: Vec<MappedRange>,
}

#[derive(Debug, Serialize)]
struct MappedRecord {
    gva: u64,
    gpa: u64,
    bytes: u64,
    page_size: u64,
    pages: u64,
    access: PermissionsRecord,
}

#[derive(Debug, Serialize)]
struct FindingRecord {
    kind: &'static str,
    gva: u64,
    message: String,
}

/// Options of `pages`.
#[derive(Debug, Args)]
pub(crate) struct PagesArgs {
    #[command(flatten)]
    pub(crate) inspect: InspectArgs,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Runs `vmm-cli pages`.
pub(crate) fn pages(args: &PagesArgs) -> Result<Status, Diagnostics> {
    let stopped = InspectedGuest::new(&args.inspect, InspectNeeds::default())?;
    let answer = inspect_pages(&stopped)?;
    match args.format {
        Format::Text => stdout::print(&answer.text())?,
        Format::Json => stdout::print_json(&answer)?,
    }
    Ok(Status::Success)
}

fn inspect_pages(stopped: &InspectedGuest) -> Result<PagesOutput, Diagnostics> {
    let machine = &stopped.machine;
    let sregs = machine.vcpu().sregs().map_err(|error| stopped.error(&error.into()))?;
    let walker = machine.walker().map_err(|error| stopped.error(&error))?;
    let mappings = mappings(&walker, machine.memory());
    let kernel = page_lint::kernel_structures(&mappings, &walker, &sregs, machine.layout(), machine.memory());
    let devices =
        machine.layout().ranges().iter().filter(|placed| matches!(placed.owner, RangeOwner::Device(_)));
    let populated: Vec<GpaRange> = machine
        .layout()
        .memory()
        .iter()
        .map(|region| region.range)
        .chain(devices.map(|placed| placed.range))
        .collect();
    let findings = page_lint::lint(&mappings, &populated, &kernel);
    Ok(PagesOutput {
        point: stopped.point.clone(),
        scheme: walker.scheme.map(Scheme::name),
        root: walker.scheme.map(|_| walker.root.0),
        ranges: mappings.ranges.iter().map(range_row).collect(),
        truncated: mappings.truncated,
        findings: findings.iter().map(finding_row).collect(),
        mapped: mappings.ranges,
    })
}

fn range_row(range: &MappedRange) -> MappedRecord {
    MappedRecord {
        gva: range.gva.0,
        gpa: range.gpa.0,
        bytes: range.bytes(),
        page_size: range.size.bytes(),
        pages: range.count,
        access: range.access.into(),
    }
}

fn finding_row(finding: &PageLint) -> FindingRecord {
    FindingRecord { kind: finding.name(), gva: finding.gva().0, message: finding.to_string() }
}

impl PagesOutput {
    fn text(&self) -> String {
        let (Some(scheme), Some(root)) = (self.scheme, self.root) else {
            return format!("no paging, {}: each address is its own physical address\n", self.point);
        };
        let mut text = format!("{scheme}, root table at {root:#x}, {}\n\n", self.point);
        mapping_table::append(&mut text, &self.mapped, self.truncated);
        if self.findings.is_empty() {
            text.push_str("\nno findings\n");
            return text;
        }
        text.push_str("\nfindings:\n");
        for group in self.findings.chunk_by(|a, b| a.kind == b.kind) {
            // Writing to a string cannot fail.
            for finding in group.iter().take(MAX_FINDINGS) {
                let _ = writeln!(text, "  {}: {}", finding.kind, finding.message);
            }
            if let (Some(more @ 1..), Some(first)) = (group.len().checked_sub(MAX_FINDINGS), group.first()) {
                let _ = writeln!(text, "  {}: and {more} more, all with --format json", first.kind);
            }
        }
        text
    }
}
