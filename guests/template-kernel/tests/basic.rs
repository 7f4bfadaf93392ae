//! What has to hold as soon as Rust code runs.

#![no_std]
#![no_main]

use core::arch::asm;

use template_kernel::boot;

/// A variable without a value of its own in the file: the loader has to clear it.
static ZEROES: [u64; 512] = [0; 512];

template_kernel::tests! {
    fn memory_without_a_value_is_zero() {
        assert!(ZEROES.iter().all(|word| *word == 0));
    }

    fn the_cpu_is_in_long_mode() {
        let flags: u64;
        // SAFETY: pushes and pops what it needs; a push of 8 bytes exists in 64-bit code only.
        unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
        assert_eq!(flags & 1 << 1, 1 << 1, "bit 1 of RFLAGS is always set");
        assert_eq!(flags & 1 << 9, 0, "interrupts are off");
    }

    fn the_monitor_says_what_the_machine_is() {
        let place = core::ptr::with_exposed_provenance::<u32>(boot::start_info() as usize);
        // SAFETY: the PVH protocol puts hvm_start_info there; its first field is its magic number.
        let magic = unsafe { place.read_volatile() };
        assert_eq!(magic, 0x336e_c578);
    }
}
