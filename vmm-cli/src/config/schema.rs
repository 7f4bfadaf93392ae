//! Format of the TOML file, as serde types.
//!
//! These types are the only declaration of the format: serde deserializes a file into them, and `schemars` generates the JSON
//! schema, whose descriptions are the doc comments here. `lower.rs` checks that values fit together.
//!
//! Every key is an `Option`, even a required one: `read.rs` reports and removes a value that cannot be read, and
//! the rest must still deserialize. No `flatten` and no untagged or internally tagged enum: serde buffers them and loses spans.

mod cpuid;
mod devices;
mod expect;
mod guest;
mod paging;
mod platform;
mod spanned;
mod test;
mod virtio;

use schemars::JsonSchema;
use serde::Deserialize;
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{HaltPolicy, Interrupts, IrqchipPlace, MemoryBacking, ResetPolicy, UnmappedPolicy};
use vmm_loader::Protocol;

pub use cpuid::{CpuidChoice, CpuidTable};
pub use devices::*;
pub use expect::{ExpectMemory, ExpectTable};
pub use guest::{GuestTable, Load, ModuleTable};
pub use paging::{Map, Paging};
pub use platform::{FwCfg, FwCfgFile, Switch};
pub use spanned::Spanned;
pub use test::{Test, TestCaseTable};
pub use virtio::{Virtio, VirtioType};

use super::values::{Address, Count, Matrix, OneOrMany, RegisterValues, RingLevel, Size, Time};

/// Whole configuration file, as serde reads it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
#[schemars(title = "vmm configuration", description = "One virtual machine and its guest.")]
pub struct Document {
    /// Boot protocol that the guest is started by. Default: none if `mode` is given, else the one that the guest's file asks
    /// for.
    pub boot: Option<Spanned<Protocol>>,
    /// CPU mode of the guest's first instruction. A boot protocol has its own mode.
    pub mode: Option<Spanned<Mode>>,
    /// Privilege level of the guest: 0 (the default) or 3.
    #[schemars(extend("default" = 0))]
    pub ring: Option<Spanned<RingLevel>>,
    /// Address of the three pages of KVM_SET_TSS_ADDR: a multiple of 4 KiB, below 4 GiB, outside memory and devices.
    #[schemars(extend("default" = 0xfffb_d000_u32))]
    pub tss_address: Option<Spanned<Address>>,
    /// Effect of an access to an address that neither memory nor a device answers.
    #[schemars(extend("default" = "ones"))]
    pub unmapped: Option<Spanned<UnmappedPolicy>>,
    /// Meaning of a HLT from which nothing wakes the guest.
    #[schemars(extend("default" = "success"))]
    pub halt: Option<Spanned<HaltPolicy>>,
    /// Meaning of a reset that the guest requests.
    #[schemars(extend("default" = "failure"))]
    pub reset: Option<Spanned<ResetPolicy>>,
    /// Number of vCPUs of the machine. More than one require interrupts: the others wait for INIT and SIPI.
    #[schemars(extend("default" = 1))]
    pub vcpus: Option<Spanned<Count>>,
    /// Interrupt controllers of the machine. Default: "none", or "pc" with a boot protocol.
    pub interrupts: Option<Spanned<Interrupts>>,
    /// Place of the interrupt controllers.
    #[schemars(extend("default" = "kernel"))]
    pub irqchip: Option<Spanned<IrqchipPlace>>,
    /// CPUID that the guest sees.
    #[schemars(extend("default" = "none"))]
    pub cpuid: Option<Spanned<CpuidChoice>>,
    /// True to enable SSE in CR0 and CR4. Default: in long mode only.
    pub sse: Option<Spanned<bool>>,
    /// Guest memory: one table, or several `[[memory]]`.
    #[schemars(required)]
    pub memory: Option<Spanned<OneOrMany<MemoryTable>>>,
    /// Program or kernel to run.
    #[schemars(required)]
    pub guest: Option<Spanned<GuestTable>>,
    /// Further files to load into memory.
    pub load: Option<Spanned<OneOrMany<Load>>>,
    /// Page tables that the guest starts with.
    pub paging: Option<Spanned<Paging>>,
    /// Addresses of tables and stack; those left out are allocated.
    pub layout: Option<Spanned<Layout>>,
    /// General registers with an initial value other than 0.
    pub registers: Option<Spanned<RegisterValues>>,
    /// Devices of the machine, each with a table.
    pub devices: Option<Spanned<Devices>>,
    /// Limits at which the guest is stopped.
    pub limits: Option<Spanned<Limits>>,
    /// Expectations for the end of the run.
    pub expect: Option<Spanned<ExpectTable>>,
    /// Test cases for `vmm-cli test`.
    pub test: Option<Spanned<Test>>,
    /// Several values for keys of this file: `vmm-cli test` runs every combination. Other commands ignore it.
    pub matrix: Option<Spanned<Matrix>>,
}

/// Region of guest memory, a table of `[[memory]]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct MemoryTable {
    /// Size of the region: a multiple of 4 KiB.
    #[schemars(required)]
    pub size: Option<Spanned<Size>>,
    /// First guest-physical address: a multiple of 4 KiB.
    #[schemars(extend("default" = 0))]
    pub address: Option<Spanned<Address>>,
    /// True if the guest's writes do not change the region.
    #[schemars(extend("default" = false))]
    pub read_only: Option<Spanned<bool>>,
    /// Host memory that the region consists of.
    #[schemars(extend("default" = "anonymous"))]
    pub backing: Option<Spanned<MemoryBacking>>,
    /// True to ask the host for transparent huge pages (MADV_HUGEPAGE). Default: from 64 MiB on.
    pub huge_pages: Option<Spanned<bool>>,
    /// True to let the host merge equal pages (MADV_MERGEABLE).
    #[schemars(extend("default" = true))]
    pub mergeable: Option<Spanned<bool>>,
    /// True to allow more memory than the host has, RAM and swap together.
    #[schemars(extend("default" = false))]
    pub overcommit: Option<Spanned<bool>>,
}

/// Addresses of tables and stack; those left out are allocated.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Layout {
    /// Size of the stack below the initial stack pointer.
    #[schemars(extend("default" = "64KiB"))]
    pub stack_size: Option<Spanned<Size>>,
    /// Address of the global descriptor table: a multiple of 8.
    pub gdt: Option<Spanned<Address>>,
    /// Address of the interrupt descriptor table: a multiple of 8.
    pub idt: Option<Spanned<Address>>,
    /// Address of the task state segment: a multiple of 4 KiB.
    pub tss: Option<Spanned<Address>>,
    /// Address of the first page table: a multiple of 4 KiB. The others follow it.
    pub page_tables: Option<Spanned<Address>>,
}

/// Limits at which the guest is stopped.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Limits {
    /// Maximum duration of the run, such as "10s". Default: 10 s with `[expect]` or `[test]`, else none.
    pub time: Option<Spanned<Time>>,
    /// Maximum number of exits to user space. Default: none.
    pub exits: Option<Spanned<Count>>,
}
