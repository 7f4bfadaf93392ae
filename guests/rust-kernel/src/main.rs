//! A kernel that finds out whether the machine does what a kernel needs: it tests itself and ends by the exit port.
//!
//! - [`interrupts`]: the IDT, the way into Rust and back, and who handles what
//! - [`paging`]: pages added to the tables that the boot code made
//! - [`start_info`]: the memory map that the monitor hands over
//!
//! From the first instruction to here, and how a test is run, is the template's: `guests/template-kernel`.

#![no_std]
#![no_main]

mod interrupts;
mod paging;
mod start_info;

use core::arch::asm;
use core::ptr::with_exposed_provenance_mut;

use interrupts::{apic, exceptions, idt, pic, pit};

/// Ticks that a timer test waits for.
const TICKS: u32 = 5;

template_kernel::tests! {
    fn the_memory_map_has_memory_above_1_mib() {
        let usable: u64 = start_info::usable_memory().map(|(start, end)| end.saturating_sub(start.max(1 << 20))).sum();
        assert!(usable >= 1 << 20, "{usable:#x} bytes");
    }

    fn an_undefined_instruction_reaches_its_handler() {
        idt::load();
        // SAFETY: the handler goes on behind UD2, which has no other effect.
        unsafe { asm!("ud2") };
        assert_eq!(exceptions::undefined_instructions(), 1);
    }

    fn a_page_fault_is_told_and_mended() {
        idt::load();
        let word = with_exposed_provenance_mut::<u64>(paging::DEMAND);
        // SAFETY: nothing is mapped here; the handler maps a page of zeros, which nobody else uses.
        let value = unsafe { word.read_volatile() };
        let fault = exceptions::last_page_fault();
        assert_eq!(value, 0);
        assert_eq!((fault.address, fault.error), (paging::DEMAND as u64, 0), "a read of what is not there");
    }

    fn a_read_only_page_refuses_a_write_once() {
        idt::load();
        paging::map_read_only();
        let word = with_exposed_provenance_mut::<u64>(paging::READ_ONLY);
        // SAFETY: the page is there, and the handler makes it writable at the first write.
        unsafe { word.write_volatile(42) };
        let fault = exceptions::last_page_fault();
        assert_eq!((fault.address, fault.error), (paging::READ_ONLY as u64, 3), "a write to what may be read");
        // SAFETY: as above.
        assert_eq!(unsafe { word.read_volatile() }, 42);
    }

    fn the_pit_interrupts_through_the_pic() {
        idt::load();
        pic::start();
        pit::start();
        while pit::ticks() < TICKS {
            interrupts::sleep();
        }
        pic::mask_all();
    }

    fn the_local_apic_timer_interrupts() {
        idt::load();
        pic::start();
        pic::mask_all();
        apic::start_timer();
        while apic::ticks() < TICKS {
            interrupts::sleep();
        }
        apic::stop_timer();
    }
}
