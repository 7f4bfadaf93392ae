//! Advice for users on errors of the libraries, in the words of this program's configuration and options.

use std::fmt::Display;
use std::io;

use rustix::io::Errno;
use vmm_core::devices::virtio::DiskError;
use vmm_core::initial_state::StateProblem;
use vmm_core::kvm_sys_wrap::{Call, Error as KvmError};
use vmm_core::layout::{LayoutEntry, LayoutProblem, MappingProblem, RangeOwner};
use vmm_core::machine::error::Error;
use vmm_core::paging::Scheme;

use crate::config::note;

/// Size of a disk's sector in bytes (Virtual I/O Device Version 1.2, 5.2.4).
const SECTOR: u64 = 512;

/// Returns what the user can do about an error of a machine, if anything.
pub(crate) fn for_machine(error: &Error) -> Option<String> {
    match error {
        Error::Kvm(error) => for_kvm(error),
        Error::Image(error) => error.downcast_ref::<KvmError>().and_then(for_kvm),
        Error::ModeDropped { .. } | Error::ModeRefused { .. } | Error::FeatureMissing { .. } => Some(
            "`vmm-cli doctor` shows what works here; an ordinary KVM host (VT-x or AMD-V) does all modes"
                .to_owned(),
        ),
        Error::Disk(error) => for_disk(error),
        Error::NoBreakpoint { .. } | Error::NoExitCount => {
            Some("stop it after a time instead, with --after".to_owned())
        }
        Error::Layout(_)
        | Error::State(_)
        | Error::Bus(_)
        | Error::Snapshot { .. }
        | Error::Restore(_)
        | Error::Save(_)
        | Error::DeviceNotSupplied { .. }
        | Error::TooManyVirtioDevices { .. }
        | Error::NoDebugging { .. }
        | Error::NoInterruptDebugging
        | Error::Console(_)
        | Error::Thread(_)
        | Error::Clock(_)
        | Error::Table { .. } => None,
    }
}

/// Returns what the user can do about an error of a call to KVM, if anything.
pub(crate) fn for_kvm(error: &KvmError) -> Option<String> {
    match error {
        KvmError::OpenDevice { path, source } => for_open(path.display(), source),
        KvmError::Call { call: Call::Mmap, .. } => Some("ask for less guest memory".to_owned()),
        KvmError::HugePages { size, .. } => Some(format!(
            "reserve them as root: `sysctl vm.nr_hugepages={}` (`grep Huge /proc/meminfo` shows what there is), or take \
             `memory.backing = \"anonymous\"` with `huge-pages = true`",
            size.div_ceil(2 << 20)
        )),
        KvmError::Overcommit { .. } => Some(
            "ask for less, or add `memory.overcommit = true`: then the host may kill the run when the guest uses it"
                .to_owned(),
        ),
        KvmError::FileChanged { .. } => Some(
            "run it again when nobody is writing to the file; a program that builds it should write a new file and \
             rename it"
                .to_owned(),
        ),
        KvmError::Call { .. }
        | KvmError::NoMemory { .. }
        | KvmError::ApiVersion { .. }
        | KvmError::MissingCapability { .. }
        | KvmError::TssAddress { .. }
        | KvmError::SlotShape { .. }
        | KvmError::SlotNumber { .. }
        | KvmError::Overlap(_)
        | KvmError::VcpuId { .. }
        | KvmError::Kick { .. }
        | KvmError::Released { .. }
        | KvmError::Reply { .. } => None,
        // A variant of a later version.
        _ => None,
    }
}

/// Returns what the user can do about a problem of a layout.
pub(crate) fn for_layout(problem: &LayoutProblem) -> String {
    let text = match problem {
        LayoutProblem::NoMemory => "add a memory region",
        LayoutProblem::EmptyRegion { .. } | LayoutProblem::RegionMisaligned { .. } => {
            "a region consists of whole pages of 4 KiB"
        }
        LayoutProblem::TssAddressMisaligned(_) | LayoutProblem::TssAddressTooHigh(_) => {
            "leave tss-address out to use 0xfffbd000"
        }
        LayoutProblem::TooHigh { .. } => "move it down",
        LayoutProblem::Overlap { .. } => "move or shrink one of the two",
        LayoutProblem::OutsideMemory {
            entry: LayoutEntry { owner: RangeOwner::Firmware(_), .. }, ..
        } => {
            "a PC has at least 1 MiB of memory; or leave the tables out: `enabled = false` in [devices.acpi] and \
             [devices.mp-table]"
        }
        LayoutProblem::OutsideMemory { .. } => "move it, or make the memory larger",
        LayoutProblem::ReadOnly { .. } => "move it to memory that can be written",
        LayoutProblem::Misaligned { .. } | LayoutProblem::SharedPage { .. } => {
            "move it, or leave it out of [layout] to have it placed"
        }
        LayoutProblem::StackSize { .. } => "make the stack smaller",
        LayoutProblem::NoSuchPart { .. } => "leave it out of [layout]",
        LayoutProblem::NoRoom { .. } => "make the memory larger, or move the guest to leave room",
        LayoutProblem::TooManyTables { .. } => "use larger pages (paging.page-size), or map less",
        LayoutProblem::RealModeRing => "use ring 0, or one of the modes protected, paged, pae and long",
        LayoutProblem::PageSize { mode, .. } => {
            let sizes: Vec<&str> = mode.page_sizes().iter().map(|size| size.name()).collect();
            return format!("{mode} mode has pages of {}", sizes.join(", "));
        }
        LayoutProblem::FiveLevel(_) => "five-level paging exists in long mode only",
        LayoutProblem::Map(problem) => return for_mapping(problem),
    };
    text.to_owned()
}

fn for_mapping(problem: &MappingProblem) -> String {
    let text = match problem {
        MappingProblem::Misaligned { .. } | MappingProblem::Empty { .. } => {
            "a mapping consists of whole pages of 4 KiB"
        }
        MappingProblem::Unaddressable { scheme: Scheme::TwoLevel | Scheme::Pae, .. } => {
            "virtual addresses end at 4 GiB"
        }
        MappingProblem::Unaddressable {
            scheme: scheme @ (Scheme::FourLevel | Scheme::FiveLevel), ..
        } => {
            let bit = scheme.address_bits() - 1;
            return format!("in a canonical address, bits 63 to {bit} are equal");
        }
        MappingProblem::TooHigh { .. } => "map memory that lies lower",
        MappingProblem::NothingThere { .. } => "correct the address, or make the memory larger",
        MappingProblem::Overlap { .. } => "each virtual page can show one physical page",
        MappingProblem::NoExecuteDisable { .. } => "use mode pae or long, or leave `executable` out",
        MappingProblem::Hides { .. } => "move one of the two, or map the range at its own address",
    };
    text.to_owned()
}

/// Returns what the user can do about an entry or a preset register, if anything.
pub(crate) fn for_state(problem: &StateProblem) -> Option<&'static str> {
    Some(match problem {
        StateProblem::EntryTooHigh(_) => "real mode reaches 1 MiB, 32-bit modes reach 4 GiB",
        StateProblem::EntrySegmented { .. } => "write the entry as an address",
        StateProblem::EntryNotMapped(_) => "add a [[paging.map]] that covers it, or choose another entry",
        StateProblem::EntryNoMemory { .. } => "make the memory larger, or choose another entry",
        StateProblem::EntrySupervisor { .. } => "move one of the two by [layout]",
        StateProblem::EntryNotExecutable(_) => "leave `executable = false` out of its [[paging.map]]",
        StateProblem::RipPreset => "use `entry`",
        StateProblem::RegisterTwice(_) => "keep one of the two",
        StateProblem::NoSuchRegister { .. } => "r8 to r15 exist in long mode only",
        StateProblem::RegisterTooWide { .. } => "use a smaller value",
        StateProblem::Flags(_) => "use flags that software may set: CF to OF, IOPL, NT, RF, AC, ID",
        StateProblem::LayoutMismatch(_) => return None,
    })
}

/// Returns what the user can do about a disk image, if anything.
pub(crate) fn for_disk(error: &DiskError) -> Option<String> {
    match error {
        DiskError::Size { path, size } => {
            let sectors = size.div_ceil(SECTOR).max(1).saturating_mul(SECTOR);
            Some(format!("make it whole: `truncate --size {sectors} {}`", path.display()))
        }
        DiskError::OverlayExists { .. } => {
            Some("an overlay is never overwritten: remove it, or name another".to_owned())
        }
        DiskError::InUse { .. } => {
            Some("with an overlay of its own each machine can use the same image".to_owned())
        }
        DiskError::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Some("create it, such as with `truncate --size 64M FILE`, or correct the path".to_owned())
        }
        DiskError::Outside { .. } => Some(note::HELP.to_owned()),
        DiskError::Open { .. } | DiskError::NotAFile { .. } | DiskError::Overlay { .. } => None,
    }
}

fn for_open(path: impl Display, source: &io::Error) -> Option<String> {
    match Errno::from_io_error(source)? {
        Errno::NOENT => Some(
            "turn on virtualization in the firmware and load the module: \
             `modprobe kvm_intel` or `modprobe kvm_amd`; inside a virtual machine, turn on nested virtualization"
                .to_owned(),
        ),
        Errno::ACCESS | Errno::PERM => Some(format!(
            "add yourself to the group that owns {path} (`sudo usermod -aG kvm $USER`, then log in again)"
        )),
        Errno::NODEV | Errno::NXIO => {
            Some("the KVM module is not loaded: `modprobe kvm_intel` or `modprobe kvm_amd`".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use vmm_core::Kvm;
    use vmm_core::spec::mode::{Mode, PageSize};

    use super::*;

    #[test]
    fn a_missing_device_has_advice_about_the_module() {
        let error = Kvm::open_with(Path::new("/nonexistent/kvm"), None).unwrap_err();
        assert!(for_kvm(&error).unwrap().contains("modprobe"));
    }

    #[test]
    fn page_sizes_of_the_mode_are_listed() {
        let help = for_layout(&LayoutProblem::PageSize { mode: Mode::Paged, size: PageSize::Size2M });
        assert_eq!(help, "paged mode has pages of 4KiB, 4MiB");
    }

    #[test]
    fn huge_pages_are_counted_in_units_of_two_mebibytes() {
        let error = KvmError::HugePages { size: 1 << 40, source: io::ErrorKind::OutOfMemory.into() };
        assert!(for_kvm(&error).unwrap().contains("vm.nr_hugepages=524288"));
    }
}
