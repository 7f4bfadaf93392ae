//! Calls of all kinds on KVM, with 16-bit guests of a few bytes. Every host supports real mode.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod real_mode;

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kvm_sys_wrap::{
    CallObserver, CallRecord, Capability, Error, Exit, Gpa, Gva, KickTimer, Kvm, Port, Slot, SlotBacking,
    SlotFlags, StatKind, TssAddress, Vcpu, Vm,
};
use real_mode::CODE;
use vm_memory::{Bytes, GuestAddress};

fn slot(number: u32, address: u64, size: u64) -> Slot {
    real_mode::slot(number, address, size, SlotBacking::default())
}

/// Creates a VM and a vCPU whose next instruction is the first of `code`.
fn boot(kvm: &Kvm, code: &[u8]) -> (Vm, Vcpu) {
    let (vm, vcpu) = real_mode::boot(kvm, SlotBacking::default());
    vm.memory().write_slice(code, GuestAddress(CODE)).unwrap();
    (vm, vcpu)
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ports_in_every_width_and_direction() {
    #[rustfmt::skip]
    let code = [
        0xba, 0x34, 0x12,             // mov dx, 0x1234
        0xb0, 0x41, 0xee,             // mov al, 'A'; out dx, al
        0xb8, 0x02, 0x01, 0xef,       // mov ax, 0x0102; out dx, ax
        0x66, 0xed,                   // in eax, dx
        0x66, 0xef,                   // out dx, eax
        0xf4,                         // hlt
    ];
    let (_vm, mut vcpu) = boot(&Kvm::open().unwrap(), &code);
    let port = Port(0x1234);
    let out =
        |width, data: &[u8]| Exit::PioOut { port, width, count: 1, data: kvm_sys_wrap::IoBytes::new(data) };
    assert_eq!(vcpu.run().unwrap(), out(1, b"A"));
    assert!(matches!(vcpu.complete_io(&[1]), Err(Error::Reply { expected: 0, given: 1 })));
    assert_eq!(vcpu.run().unwrap(), out(2, &[2, 1]));
    assert_eq!(vcpu.run().unwrap(), Exit::PioIn { port, width: 4, count: 1 });
    assert!(matches!(vcpu.complete_io(&[1]), Err(Error::Reply { expected: 4, given: 1 })));
    vcpu.complete_io(&[0xef, 0xbe, 0xad, 0xde]).unwrap();
    assert_eq!(vcpu.run().unwrap(), out(4, &[0xef, 0xbe, 0xad, 0xde]));
    assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
    assert_eq!(vcpu.regs().unwrap().rax, 0xdead_beef);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn string_output_is_complete_in_one_or_many_exits() {
    #[rustfmt::skip]
    let code = [
        0xfc,                         // cld
        0xbe, 0x0f, 0x10,             // mov si, 0x100f
        0xb9, 0x05, 0x00,             // mov cx, 5
        0xba, 0xe9, 0x00,             // mov dx, 0xe9
        0xf3, 0x6e,                   // rep outsb
        0xf4, 0, 0,                   // hlt
        b'h', b'e', b'l', b'l', b'o',
    ];
    let (_vm, mut vcpu) = boot(&Kvm::open().unwrap(), &code);
    let mut text = Vec::new();
    let mut exit = vcpu.run().unwrap();
    while let Exit::PioOut { port, width: 1, count, data } = exit {
        assert_eq!((port, data.len()), (Port(0xe9), usize::try_from(count).unwrap()));
        text.extend_from_slice(&data);
        exit = vcpu.run().unwrap();
    }
    assert_eq!(exit, Exit::Hlt);
    assert_eq!(text, b"hello");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn addresses_without_a_slot_are_mmio_and_slots_can_be_moved_and_deleted() {
    #[rustfmt::skip]
    let code = [
        0xb8, 0x00, 0x20, 0x8e, 0xd8, // mov ax, 0x2000; mov ds, ax
        0xa0, 0x10, 0x00,             // mov al, [0x20010]
        0xa2, 0x11, 0x00,             // mov [0x20011], al
        0xf4,                         // hlt
        0xeb, 0xf7,                   // jmp back to the first access
    ];
    let (vm, mut vcpu) = boot(&Kvm::open().unwrap(), &code);
    assert_eq!(vcpu.run().unwrap(), Exit::MmioRead { address: Gpa(0x2_0010), width: 1 });
    vcpu.complete_io(&[0x5a]).unwrap();
    let Exit::MmioWrite { address: Gpa(0x2_0011), data } = vcpu.run().unwrap() else { panic!() };
    assert_eq!(*data, [0x5a]);
    assert_eq!(vcpu.run().unwrap(), Exit::Hlt);

    // With a slot, the same accesses reach memory.
    vm.add_slot(slot(1, 0x5_0000, 0x1000)).unwrap();
    vm.move_slot(1, Gpa(0x2_0000)).unwrap();
    vm.memory().write_obj(0x77_u8, GuestAddress(0x2_0010)).unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
    assert_eq!(vm.memory().read_obj::<u8>(GuestAddress(0x2_0011)).unwrap(), 0x77);

    // A read-only slot exits for writes only; after deletion there is a hole again.
    vm.delete_slot(1).unwrap();
    let flags = SlotFlags { read_only: true, log_dirty: false };
    let mut read_only = slot(1, 0x2_0000, 0x1000);
    read_only.flags = flags;
    vm.add_slot(read_only).unwrap();
    assert!(matches!(vcpu.run().unwrap(), Exit::MmioWrite { address: Gpa(0x2_0011), .. }));
    assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
    vm.delete_slot(1).unwrap();
    assert!(matches!(vcpu.run().unwrap(), Exit::MmioRead { .. }));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_dirty_log_has_the_written_page() {
    let code = [0xa2, 0x00, 0x50, 0xf4]; // mov [0x5000], al; hlt
    let (vm, mut vcpu) = boot(&Kvm::open().unwrap(), &code);
    vm.set_slot_flags(0, SlotFlags { read_only: false, log_dirty: true }).unwrap();
    vm.dirty_log(0).unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
    assert_ne!(vm.dirty_log(0).unwrap()[0] & 1 << 5, 0);
    assert!(matches!(vm.dirty_log(9), Err(Error::SlotNumber { slot: 9, .. })));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn slots_tss_pages_and_devices_do_not_overlap() {
    let vm = Kvm::open().unwrap().create_vm().unwrap();
    let text = |result: Result<(), Error>| result.unwrap_err().to_string();
    vm.add_slot(slot(0, 0, 0x10_0000)).unwrap();
    vm.reserve_mmio("serial", Gpa(0xd000_0000)..Gpa(0xd000_0008)).unwrap();
    assert_eq!(
        text(vm.set_tss_addr(TssAddress::new(Gpa(0xf_f000)).unwrap())),
        "the TSS pages (0xff000..0x102000) overlaps memory slot 0 (0x0..0x100000)"
    );
    assert_eq!(
        text(vm.set_tss_addr(TssAddress::new(Gpa(0xcfff_e000)).unwrap())),
        "the TSS pages (0xcfffe000..0xd0001000) overlaps device `serial` (0xd0000000..0xd0000008)"
    );
    vm.set_tss_addr(TssAddress::new(Gpa(0x10_0000)).unwrap()).unwrap();
    assert!(text(vm.add_slot(slot(1, 0x10_2000, 0x1000))).contains("overlaps the TSS pages"));
    assert!(text(vm.move_slot(0, Gpa(0x1000))).contains("overlaps the TSS pages"));
    vm.set_tss_addr(TssAddress::new(Gpa(0x20_0000)).unwrap()).unwrap();
    vm.add_slot(slot(1, 0x10_2000, 0x1000)).unwrap();
    assert_eq!(
        text(vm.add_slot(slot(2, 0x1001, 0x1000))),
        "memory slot 2 at 0x1001 with 0x1000 bytes is not made of whole 4 KiB pages"
    );
    assert_eq!(
        text(vm.add_slot(slot(2, u64::MAX - 0xfff, 0x2000))),
        "memory slot 2 at 0xfffffffffffff000 with 0x2000 bytes leaves the address space"
    );
    assert_eq!(text(vm.add_slot(slot(1, 0x40_0000, 0x1000))), "memory slot 1 exists already");
    let mut large = slot(2, 1 << 36, 1 << 60);
    assert!(text(vm.add_slot(large.clone())).contains(" MiB of guest memory: this host has "));
    large.overcommit = true;
    assert!(text(vm.add_slot(large)).starts_with("mmap failed"));
    // A failed call leaves no slot.
    vm.add_slot(slot(2, 1 << 36, 1 << 20)).unwrap();
}

#[test]
#[ignore = "needs /dev/kvm"]
fn vcpu_numbers_are_checked() {
    let kvm = Kvm::open().unwrap();
    let vm = kvm.create_vm().unwrap();
    let _first = vm.create_vcpu(0).unwrap();
    let _second = vm.create_vcpu(1).unwrap();
    assert!(matches!(vm.create_vcpu(1), Err(Error::Call { .. })));
    assert!(matches!(vm.create_vcpu(u64::MAX), Err(Error::VcpuId { id: u64::MAX, .. })));
    assert!(kvm.capability(Capability::UserMemory) > 0);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_kick_from_another_thread_and_a_timer_end_a_spinning_guest() {
    let (_vm, mut vcpu) = boot(&Kvm::open().unwrap(), &[0xeb, 0xfe]); // jmp $
    let kick = vcpu.kicker().unwrap();
    // Before the run: it ends the next one.
    kick.kick();
    assert_eq!(vcpu.run().unwrap(), Exit::Interrupted);
    // During the run.
    let kicker = thread::spawn(move || {
        thread::sleep(Duration::from_millis(30));
        kick.kick();
    });
    assert_eq!(vcpu.run().unwrap(), Exit::Interrupted);
    kicker.join().unwrap();
    // By a timer.
    let start = Instant::now();
    let timer = KickTimer::new(Duration::from_millis(30)).unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Interrupted);
    assert!(start.elapsed() >= Duration::from_millis(30));
    drop(timer);
    // By a timer whose first kick ended an earlier run.
    let timer = KickTimer::with_retries(Duration::from_millis(1)).unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Interrupted);
    assert_eq!(vcpu.run().unwrap(), Exit::Interrupted);
    drop(timer);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn each_of_a_thousand_kicks_ends_a_run() {
    // A guest that exits all the time: kicks meet the vCPU inside and outside of KVM_RUN.
    let (_vm, mut vcpu) = boot(&Kvm::open().unwrap(), &[0xe6, 0x80, 0xeb, 0xfc]); // out 0x80, al; jmp back
    let kick = vcpu.kicker().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let kicker = thread::spawn(move || {
        for round in 0..1000 {
            kick.kick();
            receiver
                .recv_timeout(Duration::from_secs(60))
                .unwrap_or_else(|_| panic!("kick {round} was lost"));
        }
    });
    let mut kicks = 0;
    while kicks < 1000 {
        if vcpu.run().unwrap() == Exit::Interrupted {
            kicks += 1;
            if sender.send(()).is_err() {
                break;
            }
        }
    }
    kicker.join().unwrap();
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_vcpu_keeps_its_vm_and_memory_alive() {
    let (vm, mut vcpu) = boot(&Kvm::open().unwrap(), &[0xa2, 0x00, 0x50, 0xf4]); // mov [0x5000], al; hlt
    drop(vm);
    assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn translate_is_the_identity_without_paging() {
    let (_vm, vcpu) = boot(&Kvm::open().unwrap(), &[0xf4]);
    assert_eq!(vcpu.translate(Gva(0x1234)).unwrap(), Some(Gpa(0x1234)));
}

#[derive(Default)]
struct Names(Mutex<Vec<&'static str>>);

impl CallObserver for Names {
    fn observe(&self, record: &CallRecord<'_>) {
        self.0.lock().unwrap().push(record.call.name());
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_observer_sees_all_calls_in_order() {
    let names = Arc::new(Names::default());
    let kvm = Kvm::open_with(Kvm::DEVICE.as_ref(), Some(names.clone())).unwrap();
    let (_vm, mut vcpu) = boot(&kvm, &[0xf4]);
    vcpu.run().unwrap();
    assert_eq!(
        *names.0.lock().unwrap(),
        [
            "open(\"/dev/kvm\")",
            "KVM_GET_API_VERSION",
            "KVM_CREATE_VM",
            "KVM_SET_TSS_ADDR",
            "mmap",
            "madvise",
            "KVM_SET_USER_MEMORY_REGION",
            "KVM_CREATE_VCPU",
            "KVM_GET_VCPU_MMAP_SIZE",
            "mmap(vCPU)",
            "KVM_GET_SREGS",
            "KVM_SET_SREGS",
            "KVM_GET_REGS",
            "KVM_SET_REGS",
            "KVM_RUN",
        ]
    );
}

#[test]
#[ignore = "needs /dev/kvm"]
fn statistics_count_exits() {
    let (vm, mut vcpu) = boot(&Kvm::open().unwrap(), &[0xe6, 0x80, 0xe6, 0x80, 0xf4]);
    let stats = match vcpu.stats() {
        Ok(stats) => stats,
        Err(error) => {
            println!("skipped: {error}: this host's kernel has no KVM_GET_STATS_FD");
            return;
        }
    };
    let exits = || {
        let counters = stats.read().unwrap();
        let exits = counters.iter().find(|counter| counter.name == "exits").unwrap();
        assert_eq!((exits.kind, exits.values.len()), (StatKind::Cumulative, 1));
        exits.values[0]
    };
    let before = exits();
    while vcpu.run().unwrap() != Exit::Hlt {}
    assert!(exits() >= before + 3, "two OUTs and a HLT");
    let names: Vec<String> = vm.stats().unwrap().read().unwrap().into_iter().map(|stat| stat.name).collect();
    assert!(names.iter().any(|name| name == "mmu_cache_miss"), "{names:?}");
}
