//! `vmm-cli translate`: shows the page walk of addresses, level by level, next to the result of `KVM_TRANSLATE`.
//!
//! If our walk and `KVM_TRANSLATE` differ, one of them is wrong: an error with the status of a bug (101).
//!
//! The JSON form has these keys; more may come, none go:
//!
//! | key | value |
//! |---|---|
//! | `point` | description of the stop point |
//! | `scheme` | paging scheme, or null without paging |
//! | `walks` | array with one walk for each address: |
//! | `walks.address`, `.symbol` | address, and its symbol or null |
//! | `walks.steps` | array with one object for each entry read: `table`, `index`, `at`, `entry`, `flags` (names), and `next` (a table) or `page` with `page_size` |
//! | `walks.end` | `mapped`, `not-present`, `reserved-bits`, `no-memory` or `unaddressable` |
//! | `walks.message` | description of the end |
//! | `walks.physical`, `.access` | physical address, and `writable`, `user`, `executable`; null if unmapped |
//! | `walks.kvm` | result of KVM_TRANSLATE, or null |
//! | `walks.agrees` | true if both results are equal; null where KVM was not asked |

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use vmm_core::cpu::control_regs::{Cr0, Cr4, Efer};
use vmm_core::paging::Scheme;
use vmm_core::paging::entry::EntryFlags;
use vmm_core::paging::walk::{Walk, WalkEnd, WalkStep, Walker};
use vmm_core::spec::PagePermissions;
use vmm_core::spec::gpa_range::ByteSize;
use vmm_core::{Gpa, Gva};

use crate::config::address_expr::AddressExpr;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::inspect::InspectArgs;
use crate::inspect::{InspectNeeds, InspectedGuest, resolve};
use crate::options::Format;
use crate::status::Status;
use crate::stdout;

#[derive(Debug, Serialize)]
struct TranslateOutput {
    point: String,
    scheme: Option<&'static str>,
    walks: Vec<WalkRecord>,
}

#[derive(Debug, Serialize)]
struct WalkRecord {
    address: u64,
    symbol: Option<String>,
    steps: Vec<StepRecord>,
    end: &'static str,
    message: String,
    physical: Option<u64>,
    access: Option<PermissionsRecord>,
    kvm: Option<u64>,
    agrees: Option<bool>,
    #[serde(skip)]
    text: String,
}

#[derive(Debug, Serialize)]
struct StepRecord {
    table: &'static str,
    index: u64,
    at: u64,
    entry: u64,
    flags: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_size: Option<u64>,
}

/// Permissions that all levels grant.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct PermissionsRecord {
    writable: bool,
    user: bool,
    executable: bool,
}

impl From<PagePermissions> for PermissionsRecord {
    fn from(PagePermissions { writable, user, executable }: PagePermissions) -> Self {
        Self { writable, user, executable }
    }
}

/// Options of `translate`.
#[derive(Debug, Args)]
pub(crate) struct TranslateArgs {
    #[command(flatten)]
    pub(crate) inspect: InspectArgs,
    /// Guest-virtual addresses: numbers, symbols or symbol+offset
    #[arg(required = true, value_name = "GVA")]
    pub(crate) addresses: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Runs `vmm-cli translate`.
pub(crate) fn translate(args: &TranslateArgs) -> Result<Status, Diagnostics> {
    let places: Vec<AddressExpr> =
        args.addresses.iter().map(|text| AddressExpr::parse(text)).collect::<Result<_, _>>()?;
    let stopped = InspectedGuest::new(&args.inspect, InspectNeeds::default())?;
    let sregs = stopped.machine.vcpu().sregs().map_err(|error| stopped.error(&error.into()))?;
    let lens = WalkContext {
        stopped: &stopped,
        walker: stopped.machine.walker().map_err(|error| stopped.error(&error))?,
        write_protect: Cr0::from_bits_retain(sregs.cr0).contains(Cr0::WP),
        smep: Cr4::from_bits_retain(sregs.cr4).contains(Cr4::SMEP),
        long: Efer::from_bits_retain(sregs.efer).contains(Efer::LMA),
    };
    let mut looked_up = Vec::new();
    for place in &places {
        let gva = Gva(resolve(&stopped.files, place)?.address);
        looked_up.push(lens.walker.walk(stopped.machine.memory(), gva));
    }
    // Only after all walks: KVM_TRANSLATE may set accessed bits in the tables.
    let walks = looked_up.iter().map(|walk| lens.compare(walk)).collect::<Result<Vec<_>, _>>()?;
    let scheme = lens.walker.scheme.map(Scheme::name);
    let disagreements: Vec<Diagnostic> = walks.iter().filter_map(WalkRecord::disagreement).collect();
    match args.format {
        Format::Text => {
            let texts: Vec<&str> = walks.iter().map(|walk| walk.text.as_str()).collect();
            let scheme = scheme.unwrap_or("no paging");
            stdout::print(&format!("{scheme}, {}\n\n{}", stopped.point, texts.join("\n")))?;
        }
        Format::Json => stdout::print_json(&TranslateOutput { point: stopped.point.clone(), scheme, walks })?,
    }
    if disagreements.is_empty() { Ok(Status::Success) } else { Err(Diagnostics(disagreements)) }
}

/// Walker and control bits that a walk is described with.
struct WalkContext<'a> {
    stopped: &'a InspectedGuest,
    walker: Walker,
    write_protect: bool,
    smep: bool,
    long: bool,
}

impl WalkContext<'_> {
    /// Compares a walk with the result of KVM_TRANSLATE.
    fn compare(&self, walk: &Walk) -> Result<WalkRecord, Diagnostics> {
        let gva = walk.gva;
        // KVM truncates addresses that the mode does not have, so its result says nothing about ours.
        let asked = walk.end != WalkEnd::Unaddressable;
        let kvm = if asked {
            self.stopped.machine.vcpu().translate(gva).map_err(|error| self.stopped.error(&error.into()))?
        } else {
            None
        };
        let physical = walk.translation().map(|to| to.gpa);
        let agrees = asked.then_some(physical == kvm);
        let symbol = self.stopped.files.symbol_at(gva.0);
        let message = self.end(walk);
        Ok(WalkRecord {
            address: gva.0,
            text: self.text(walk, symbol.as_deref(), &message, kvm, agrees),
            symbol,
            steps: walk.steps.iter().map(step_row).collect(),
            end: end_name(&walk.end),
            message,
            physical: physical.map(|gpa| gpa.0),
            access: walk.translation().map(|to| to.access.into()),
            kvm: kvm.map(|gpa| gpa.0),
            agrees,
        })
    }

    fn text(
        &self,
        walk: &Walk,
        symbol: Option<&str>,
        message: &str,
        kvm: Option<Gpa>,
        agrees: Option<bool>,
    ) -> String {
        let mut text = format!("{}", walk.gva);
        // Writing to a string cannot fail.
        let _ = symbol.map(|symbol| write!(text, " <{symbol}>"));
        text.push('\n');
        if let (Some(scheme), Some(first)) = (self.walker.scheme, walk.steps.first()) {
            let _ = writeln!(text, "  CR3: the {} is at {}", first.level.name, self.walker.root);
            for step in &walk.steps {
                let _ = writeln!(text, "  {}", self.step(scheme, step));
            }
        }
        let _ = writeln!(text, "  {message}");
        let ours = walk.translation().map(|to| to.gpa);
        let _ = match (agrees, kvm) {
            (None, _) => writeln!(text, "  KVM_TRANSLATE is not asked"),
            (Some(true), Some(gpa)) => writeln!(text, "  KVM_TRANSLATE says {gpa} too"),
            (Some(true), None) => writeln!(text, "  KVM_TRANSLATE finds nothing there either"),
            (Some(false), Some(gpa)) => writeln!(text, "  KVM_TRANSLATE says {gpa} instead"),
            (Some(false), None) => {
                writeln!(text, "  KVM_TRANSLATE finds nothing there, not {}", ours.unwrap_or_default())
            }
        };
        text
    }

    /// Describes a page-table entry.
    fn step(&self, scheme: Scheme, step: &WalkStep) -> String {
        let WalkStep { level, index, at, entry, leaf, .. } = step;
        let flags = entry.flags();
        let mut text = format!("{}[{index}] at {at} is {:#x}", level.name, entry.0);
        if !entry.is_present() {
            return text + ": not present";
        }
        let _ = write!(text, " = {flags}: ");
        let has = |flag| flags.contains(flag);
        // The entries of the PAE root have no permissions (SDM vol. 3, table 4-8).
        let silent = scheme == Scheme::Pae && level.leaf.is_none();
        let mut words = Vec::new();
        if !silent {
            words.push(if has(EntryFlags::RW) { "writable" } else { "read-only" });
            words.push(if has(EntryFlags::US) { "ring 3 too" } else { "ring 0 only" });
        }
        let page = leaf.is_some();
        for (flag, counts, word) in [
            (EntryFlags::XD, self.walker.execute_disable, "not executable"),
            (EntryFlags::PWT, true, "write-through"),
            (EntryFlags::PCD, true, "not cached"),
            (EntryFlags::A, !silent, "accessed"),
            (EntryFlags::D, page, "written to"),
            (EntryFlags::G, page, "global"),
        ] {
            if counts && has(flag) {
                words.push(word);
            }
        }
        text.push_str(&words.join(", "));
        let separator = if words.is_empty() { "" } else { "; " };
        let next =
            scheme.levels().iter().find(|next| next.shift < level.shift).map_or("table", |next| next.name);
        let _ = match leaf {
            Some(size) => {
                write!(
                    text,
                    "{separator}a page of {} at {}",
                    ByteSize(size.bytes()),
                    entry.page_address(*size)
                )
            }
            None => write!(text, "{separator}the {next} is at {}", entry.table_address()),
        };
        text
    }

    /// Describes the end of a walk.
    fn end(&self, walk: &Walk) -> String {
        match &walk.end {
            WalkEnd::Mapped(to) => {
                let mut text = format!("physical {}", to.gpa);
                if to.size.is_some() {
                    let _ = write!(text, ": {}", self.permission(to.access));
                }
                let _ = write!(text, "; {}", self.what_is_there(to.gpa));
                text
            }
            WalkEnd::NotPresent => "it ends here: the P bit is clear, so an access raises #PF".to_owned(),
            WalkEnd::Reserved(bits) => {
                format!(
                    "it ends here: the bits {bits:#x} must be 0, so an access raises #PF with the RSVD bit"
                )
            }
            WalkEnd::NoMemory(at) => {
                format!("it ends here: no memory is at {at}, where the next entry should be")
            }
            WalkEnd::Unaddressable if self.long => {
                "not canonical: the upper bits are not all equal, so an access raises #GP".to_owned()
            }
            WalkEnd::Unaddressable => "not an address of this mode, whose addresses have 32 bits".to_owned(),
        }
    }

    fn permission(&self, access: PagePermissions) -> String {
        let mut text = format!(
            "{}, {}, {}",
            if access.user { "for ring 3 too" } else { "for ring 0 only" },
            if access.writable { "writable" } else { "read-only" },
            if access.executable { "executable" } else { "not executable" },
        );
        if !access.writable && !self.write_protect {
            text.push_str(" (ring 0 may write all the same: CR0.WP is clear)");
        }
        if access.user && access.executable && self.smep {
            text.push_str(" (but not by ring 0: CR4.SMEP is set)");
        }
        text
    }

    fn what_is_there(&self, gpa: Gpa) -> String {
        let rows = self.stopped.machine.layout().rows();
        let row = rows.iter().find(|row| row.range.start() <= gpa && gpa < row.range.end());
        match row.map(|row| (row.owner, row.kind.name())) {
            Some((Some(owner), place)) => format!("{place}: {owner}"),
            Some((None, "hole")) | None => "no memory is there".to_owned(),
            Some((None, place)) => place.to_owned(),
        }
    }
}

impl WalkRecord {
    fn disagreement(&self) -> Option<Diagnostic> {
        if self.agrees != Some(false) {
            return None;
        }
        let show = |physical: Option<u64>| physical.map_or("nothing".to_owned(), |gpa| format!("{gpa:#x}"));
        let (ours, kvm) = (show(self.physical), show(self.kvm));
        let message = format!(
            "our page walk and KVM disagree on {:#x}: the tables in memory lead to {ours}, KVM_TRANSLATE to {kvm}",
            self.address
        );
        let help = "a guest that changed its PAE directory pointers without loading CR3 explains it; else please report it";
        Some(Diagnostic::error(Status::Bug, message).with_help(Some(help)))
    }
}

fn step_row(step: &WalkStep) -> StepRecord {
    let WalkStep { level, index, at, entry, leaf, .. } = step;
    let present = entry.is_present();
    StepRecord {
        table: level.name,
        index: *index,
        at: at.0,
        entry: entry.0,
        flags: entry.flags().iter_names().map(|(name, _)| name).collect(),
        next: (present && leaf.is_none()).then(|| entry.table_address().0),
        page: leaf.filter(|_| present).map(|size| entry.page_address(size).0),
        page_size: leaf.filter(|_| present).map(vmm_core::spec::mode::PageSize::bytes),
    }
}

const fn end_name(end: &WalkEnd) -> &'static str {
    match end {
        WalkEnd::Mapped(_) => "mapped",
        WalkEnd::NotPresent => "not-present",
        WalkEnd::Reserved(_) => "reserved-bits",
        WalkEnd::NoMemory(_) => "no-memory",
        WalkEnd::Unaddressable => "unaddressable",
    }
}
