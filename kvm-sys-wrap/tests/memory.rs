//! Backings of slots and file mappings over them, on KVM, with 16-bit guests of a few bytes.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "the helpers of tests are tests")]

mod real_mode;

use std::fs::{self, File};

use kvm_sys_wrap::{
    Error, Exit, FileRange, Gpa, Kvm, MappedFile, MemoryFile, Slot, SlotBacking, Vcpu, Vm, minor_faults,
};
use real_mode::CODE;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// Byte that the guests increment.
const COUNTER: GuestAddress = GuestAddress(0x5000);
const COUNTING_GUEST: [u8; 7] = [0xfe, 0x06, 0x00, 0x50, 0xf4, 0xeb, 0xf9]; // inc byte [0x5000]; hlt; jmp back

fn slot(backing: SlotBacking) -> Slot {
    real_mode::slot(0, 0, 0x1_0000, backing)
}

fn boot(backing: SlotBacking) -> (Vm, Vcpu) {
    real_mode::boot(&Kvm::open().unwrap(), backing)
}

fn counter(vm: &Vm) -> u8 {
    vm.memory().read_obj(COUNTER).unwrap()
}

#[test]
#[ignore = "needs /dev/kvm"]
fn guest_writes_to_a_memfd_are_visible_in_the_file() {
    let (vm, mut vcpu) = boot(SlotBacking::Memfd);
    let file = vm.slot_file(0).unwrap().unwrap();
    assert_eq!(file.size(), 0x1_0000);
    file.write_at(&COUNTING_GUEST, CODE).unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
    let mut seen = [0];
    file.read_at(&mut seen, COUNTER.0).unwrap();
    assert_eq!(seen, [1]);
}

/// Returns true if the mapping that contains guest-physical address `address` is left out of core dumps: it has the flag `dd`
/// (`VmFlags` of proc_pid_smaps(5)).
fn is_left_out(vm: &Vm, address: u64) -> bool {
    let host = vm.memory().get_host_address(GuestAddress(address)).unwrap().addr();
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_inside = false;
    smaps.lines().any(|line| {
        let (first, rest) = line.split_once(' ').unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let bound = |text| usize::from_str_radix(text, 16).unwrap();
            is_inside = (bound(start)..bound(end)).contains(&host);
        }
        is_inside && first == "VmFlags:" && rest.split(' ').any(|flag| flag == "dd")
    })
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_core_dump_of_this_process_does_not_contain_guest_memory() {
    let copy = SlotBacking::CopyOf { file: MemoryFile::create(0x1_0000).unwrap(), offset: 0 };
    for backing in [SlotBacking::Anonymous, SlotBacking::Memfd, copy] {
        let vm = Kvm::open().unwrap().create_vm().unwrap();
        vm.add_slot(slot(backing.clone())).unwrap();
        assert!(is_left_out(&vm, 0x5000), "{backing:?}");
    }
    let (file, _) = mapped("dump");
    let vm = Kvm::open().unwrap().create_vm().unwrap();
    vm.add_slot(slot(SlotBacking::Anonymous)).unwrap();
    assert!(vm.map_file(Gpa(0x4000), &FileRange { file, offset: 0, size: 0x2000 }).unwrap());
    assert!(is_left_out(&vm, 0x4000) && is_left_out(&vm, 0x8000));
    vm.promote_overlays().unwrap();
    assert!(is_left_out(&vm, 0x4000));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_reset_reverts_writes_of_guest_and_host() {
    let file = MemoryFile::create(0x1_0000).unwrap();
    file.write_at(&COUNTING_GUEST, CODE).unwrap();
    file.write_at(&[40], COUNTER.0).unwrap();
    let (vm, mut vcpu) = boot(SlotBacking::CopyOf { file, offset: 0 });
    assert_eq!(vm.reset_cow_pages(0).unwrap(), 0, "nothing was written");
    for _ in 0..3 {
        assert_eq!((vcpu.run().unwrap(), counter(&vm)), (Exit::Hlt, 41));
        // A page that was a hole, the last page, and the page before the counter.
        for address in [0x9001, 0xffff, COUNTER.0 - 1] {
            vm.memory().write_obj(7_u8, GuestAddress(address)).unwrap();
        }
        assert!(vm.reset_cow_pages(0).unwrap() >= 0x4000);
        let mut all = [0xff; 0x1_0000];
        vm.memory().read_slice(&mut all, GuestAddress(0)).unwrap();
        assert_eq!(
            all.iter().filter(|byte| **byte != 0).count(),
            COUNTING_GUEST.iter().filter(|b| **b != 0).count() + 1
        );
        assert_eq!(counter(&vm), 40);
    }
    let (vm, _vcpu) = boot(SlotBacking::Anonymous);
    assert!(matches!(vm.reset_cow_pages(0), Err(Error::SlotNumber { slot: 0, .. })));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn copies_of_a_file_have_their_own_pages_once_written() {
    let file = MemoryFile::create(0x2_0000).unwrap();
    file.write_at(&COUNTING_GUEST, 0x1_0000 + CODE).unwrap();
    file.write_at(&[40], 0x1_0000 + COUNTER.0).unwrap();
    let copy = || SlotBacking::CopyOf { file: file.clone(), offset: 0x1_0000 };
    let ((one, mut first), (two, mut second)) = (boot(copy()), boot(copy()));
    assert!(one.slot_file(0).unwrap().is_none());
    for counted in 41..44 {
        assert_eq!(first.run().unwrap(), Exit::Hlt);
        assert_eq!((counter(&one), counter(&two)), (counted, 40));
    }
    assert_eq!(second.run().unwrap(), Exit::Hlt);
    assert_eq!((counter(&one), counter(&two)), (43, 41));

    // The file is unchanged, and so is a discarded copy.
    let mut kept = [0];
    file.read_at(&mut kept, 0x1_0000 + COUNTER.0).unwrap();
    assert_eq!(kept, [40]);
    one.punch_hole(0, COUNTER.0 + 1..0x1_0000).unwrap();
    assert_eq!(counter(&one), 43, "not wholly inside");
    one.punch_hole(0, COUNTER.0..COUNTER.0 + 0x1fff).unwrap();
    assert_eq!((counter(&one), counter(&two)), (40, 41));
    assert_eq!(first.run().unwrap(), Exit::Hlt);
    assert_eq!(counter(&one), 41);
    let beyond = one.punch_hole(0, 0..0x1_0001).unwrap_err();
    assert!(matches!(beyond, Error::SlotShape { slot: 0, .. }));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_slot_that_does_not_fit_its_backing_is_refused() {
    let vm = Kvm::open().unwrap().create_vm().unwrap();
    let file = MemoryFile::create(0x1_1000).unwrap();
    for (offset, fits) in
        [(0, true), (0x1000, true), (0x2000, false), (0x800, false), (u64::MAX << 12, false)]
    {
        let result = vm.add_slot(slot(SlotBacking::CopyOf { file: file.clone(), offset }));
        assert_eq!(result.is_ok(), fits, "{offset:#x}");
        if fits {
            vm.delete_slot(0).unwrap();
        } else {
            assert!(matches!(result, Err(Error::SlotShape { .. })));
        }
    }
    assert!(matches!(vm.add_slot(slot(SlotBacking::Hugetlb)), Err(Error::SlotShape { .. })));
}

/// The size is larger than any reservation. The call fails, and leaves no slot.
#[test]
#[ignore = "needs /dev/kvm"]
fn missing_huge_pages_are_an_error_of_add_slot() {
    let vm = Kvm::open().unwrap().create_vm().unwrap();
    let mut large = slot(SlotBacking::Hugetlb);
    (large.size, large.overcommit) = (1 << 40, true);
    let error = vm.add_slot(large).unwrap_err();
    assert!(matches!(error, Error::HugePages { size, .. } if size == 1 << 40), "{error:?}");
    vm.add_slot(slot(SlotBacking::Anonymous)).unwrap();
}

/// Creates a file with a guest of 64 KiB in its second half. Returns its mapping, and the file for writes.
fn mapped(name: &str) -> (MappedFile, File) {
    let path = std::env::temp_dir().join(format!("vmm-memory-{name}-{}", std::process::id()));
    let mut bytes = vec![0; 0x2_0000];
    bytes[0x1_1000..0x1_1007].copy_from_slice(&COUNTING_GUEST);
    bytes[0x1_5000] = 7;
    fs::write(&path, bytes).unwrap();
    let mapped = MappedFile::new(File::open(&path).unwrap(), &path).unwrap().unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    fs::remove_file(path).unwrap();
    (mapped, file)
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_mapped_file_is_read_by_the_guest_and_never_written() {
    let (vm, mut vcpu) = boot(SlotBacking::Anonymous);
    let (file, _) = mapped("over");
    let range = |offset, size| FileRange { file: file.clone(), offset, size };
    assert!(vm.map_file(Gpa(0x1000), &range(0x1_1000, 0xf000)).unwrap());
    for counted in 8..11 {
        assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
        assert_eq!(counter(&vm), counted);
    }
    vm.check_mapped_files().unwrap();
    assert_eq!(file.bytes()[0x1_5000], 7);

    for (address, offset, size) in [
        (0x800, 0, 0x1000),
        (0, 0x800, 0x1000),
        (0, 0, 0x800),
        (0, 0, 0),
        (0x1000, 0, 0x1_0000),
        (0, 0x1_f000, 0x2000),
    ] {
        let refused = vm.map_file(Gpa(address), &range(offset, size));
        assert!(matches!(refused, Err(Error::SlotShape { .. })), "{address:#x} {offset:#x} {size:#x}");
    }
    assert!(matches!(vm.map_file(Gpa(0x1_0000), &range(0, 0x1000)), Err(Error::NoMemory { .. })));
    let (shared, _vcpu) = boot(SlotBacking::Memfd);
    assert!(!shared.map_file(Gpa(0), &range(0, 0x1000)).unwrap());
    shared.copy_file(Gpa(0x2000), &range(0x1_5000, 0x1000)).unwrap();
    assert_eq!(shared.memory().read_obj::<[u8; 2]>(GuestAddress(0x2000)).unwrap(), [7, 0]);
    let outside = shared.copy_file(Gpa(0xf000), &range(0, 0x2000));
    assert!(matches!(outside, Err(Error::NoMemory { .. })));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn promoted_overlays_keep_the_writes_of_the_guest() {
    let (vm, mut vcpu) = boot(SlotBacking::Anonymous);
    let (file, writer) = mapped("fetched");
    let range = |offset, size| FileRange { file: file.clone(), offset, size };
    assert!(vm.map_file(Gpa(0x1000), &range(0x1_1000, 0x7000)).unwrap());
    assert!(vm.map_file(Gpa(0xa000), &range(0x1_1000, 0x1000)).unwrap());
    assert_eq!(vm.mapped_file_bytes(), 0x8000);
    assert_eq!((vcpu.run().unwrap(), counter(&vm)), (Exit::Hlt, 8));
    let before = minor_faults();
    vm.promote_overlays().unwrap();
    assert!(minor_faults() > before);
    assert_eq!(vm.mapped_file_bytes(), 0);
    // The file is no longer used.
    writer.set_len(0).unwrap();
    for counted in 9..12 {
        assert_eq!((vcpu.run().unwrap(), counter(&vm)), (Exit::Hlt, counted));
    }
    assert_eq!(vm.memory().read_obj::<[u8; 7]>(GuestAddress(0xa000)).unwrap(), COUNTING_GUEST);
    vm.check_mapped_files().unwrap();
}

/// The page of the guest's counter is lost with the page of the file.
#[test]
#[ignore = "needs /dev/kvm"]
fn a_mapped_file_that_becomes_shorter_is_an_error() {
    let (vm, mut vcpu) = boot(SlotBacking::Anonymous);
    let (file, writer) = mapped("short");
    assert!(vm.map_file(Gpa(0), &FileRange { file, offset: 0x1_0000, size: 0x1_0000 }).unwrap());
    assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
    writer.set_len(0).unwrap();
    // Hosts differ in the guest's exit; the change is reported in any case.
    let outcome = vcpu.run();
    println!("the guest without its pages: {outcome:?}");
    assert!(!matches!(outcome, Ok(Exit::Hlt)));
    let error = vm.check_mapped_files().unwrap_err();
    assert!(error.to_string().ends_with("became shorter while it was in use"), "{error}");
    // So are accesses of this process.
    assert_eq!(vm.memory().read_obj::<u8>(GuestAddress(0x8000)).unwrap(), 0);
}
