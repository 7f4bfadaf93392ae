//! Step one: the shape of the TOML file, as serde types.
//!
//! These types are the only declaration of the format. serde reads a file by them, `schemars` makes the JSON schema
//! from them (the doc comments here are what an editor shows), and they know each value's place. What they do not
//! know is whether the values make sense together: that is [`lower`](super::lower)'s part.
//!
//! Every key is an `Option`, the required ones too. A value that cannot be read is reported and taken out
//! ([`read`](super::read)), and the rest of the file still has to fit. No `flatten`, no untagged or internally tagged
//! enum: serde buffers those, and the spans are lost.

mod cpuid;
mod devices;
mod enums;
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
use vmm_core::spec::{HaltPolicy, Interrupts, MemoryBacking, ResetPolicy, UnmappedPolicy};

pub use cpuid::{CpuidChoice, CpuidTable};
pub use devices::{DebugExit, Devices, Place, Serial};
pub use enums::{Boot, Loading};
pub use expect::{Expect, ExpectMemory};
pub use guest::{Guest, Load, Module};
pub use paging::{Map, Paging};
pub use platform::{FwCfg, FwCfgFile, Switch};
pub use spanned::Spanned;
pub use test::{Test, TestCase};
pub use virtio::{Virtio, VirtioType};

use super::values::{Address, Count, Matrix, OneOrMany, RegisterValues, RingLevel, Size, Time};

/// The whole file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
#[schemars(title = "vmm configuration", description = "One virtual machine and its guest.")]
pub struct Document {
    /// How the guest is started. Default: in `mode`, if that is given; else what the guest's file asks for.
    pub boot: Option<Spanned<Boot>>,
    /// The CPU mode in which the guest executes its first instruction. A boot protocol has one of its own.
    pub mode: Option<Spanned<Mode>>,
    /// The privilege level of the guest: 0 (the default) or 3.
    #[schemars(extend("default" = 0))]
    pub ring: Option<Spanned<RingLevel>>,
    /// Where the three pages of KVM_SET_TSS_ADDR lie: a multiple of 4 KiB, below 4 GiB, outside memory and devices.
    #[schemars(extend("default" = 0xfffb_d000_u32))]
    pub tss_address: Option<Spanned<Address>>,
    /// What an access to an address with no device and no memory does.
    #[schemars(extend("default" = "ones"))]
    pub unmapped: Option<Spanned<UnmappedPolicy>>,
    /// What a HLT means.
    #[schemars(extend("default" = "success"))]
    pub halt: Option<Spanned<HaltPolicy>>,
    /// What a reset that the guest asks for is worth.
    #[schemars(extend("default" = "failure"))]
    pub reset: Option<Spanned<ResetPolicy>>,
    /// Number of vCPUs. More than one need interrupts: the others wait for INIT and SIPI.
    #[schemars(extend("default" = 1))]
    pub vcpus: Option<Spanned<Count>>,
    /// The interrupt controllers. Default: "none", or "pc" with a boot protocol.
    pub interrupts: Option<Spanned<Interrupts>>,
    /// The CPUID that the guest sees.
    #[schemars(extend("default" = "none"))]
    pub cpuid: Option<Spanned<CpuidChoice>>,
    /// Whether SSE is enabled in CR0 and CR4. Default: in long mode only.
    pub sse: Option<Spanned<bool>>,
    /// Guest memory: one table, or several [[memory]].
    #[schemars(required)]
    pub memory: Option<Spanned<OneOrMany<Memory>>>,
    /// The program to run.
    #[schemars(required)]
    pub guest: Option<Spanned<Guest>>,
    /// More files to put into memory.
    pub load: Option<Spanned<OneOrMany<Load>>>,
    /// The page tables that the guest starts with.
    pub paging: Option<Spanned<Paging>>,
    /// Where the tables and the stack lie, for those that are not to be placed automatically.
    pub layout: Option<Spanned<Layout>>,
    /// General registers that are not 0 at the start.
    pub registers: Option<Spanned<RegisterValues>>,
    /// Devices, each of which can be moved or left out.
    pub devices: Option<Spanned<Devices>>,
    /// When to stop a guest that does not stop by itself.
    pub limits: Option<Spanned<Limits>>,
    /// What has to be true after the run.
    pub expect: Option<Spanned<Expect>>,
    /// How `vmm-cli test` runs this file.
    pub test: Option<Spanned<Test>>,
    /// Several values for keys of this file: `vmm-cli test` runs every combination. Other commands do without.
    pub matrix: Option<Spanned<Matrix>>,
}

/// One region of guest memory.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Memory {
    /// The size of the region: a multiple of 4 KiB.
    #[schemars(required)]
    pub size: Option<Spanned<Size>>,
    /// Its first guest-physical address: a multiple of 4 KiB.
    #[schemars(extend("default" = 0))]
    pub address: Option<Spanned<Address>>,
    /// The guest's writes do not change it.
    #[schemars(extend("default" = false))]
    pub read_only: Option<Spanned<bool>>,
    /// What is behind it on the host.
    #[schemars(extend("default" = "anonymous"))]
    pub backing: Option<Spanned<MemoryBacking>>,
    /// Ask the host for transparent huge pages (MADV_HUGEPAGE). Default: from 64 MiB on.
    pub huge_pages: Option<Spanned<bool>>,
    /// Let the host merge equal pages (MADV_MERGEABLE).
    #[schemars(extend("default" = true))]
    pub mergeable: Option<Spanned<bool>>,
}

/// Tables and stack placed by hand; what is left out is placed automatically.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Layout {
    /// Bytes kept free below the initial stack pointer.
    #[schemars(extend("default" = "64KiB"))]
    pub stack_size: Option<Spanned<Size>>,
    /// The global descriptor table: a multiple of 8.
    pub gdt: Option<Spanned<Address>>,
    /// The interrupt descriptor table: a multiple of 8.
    pub idt: Option<Spanned<Address>>,
    /// The task state segment: a multiple of 4 KiB.
    pub tss: Option<Spanned<Address>>,
    /// The first page table: a multiple of 4 KiB. The others follow it.
    pub page_tables: Option<Spanned<Address>>,
}

/// When to stop a guest that does not stop by itself.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Limits {
    /// The longest run, such as "10s". Default: 10 s where there is an [expect], else none.
    pub time: Option<Spanned<Time>>,
    /// The largest number of exits to user space. Default: none.
    pub exits: Option<Spanned<Count>>,
}
