//! What a guest of vmm can say to the machine it runs on.
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//!
//! vmm_guest::entry!(main);
//!
//! fn main() -> u32 {
//!     vmm_guest::println!("Hello, world!");
//!     42 // in EAX when the vCPU halts
//! }
//! ```
//!
//! Built with `cargo build --target x86_64-unknown-none` this is a static-PIE that vmm loads as it is. In ring 3, where
//! HLT is a fault, `main` ends with [`hypercall::exit`] and does not return.
//!
//! - [`port`]: the instructions IN and OUT
//! - [`console`]: text on the debug console, and the macros [`print!`] and [`println!`]
//! - [`hypercall`]: the sixteen hypercall registers as functions
//!
//! The C header `guests/include/vmm.h` says the same for C and assembly.

#![no_std]

pub mod console;
pub mod hypercall;
pub mod port;

use core::arch::asm;

/// Defines `_start`, the symbol where the machine starts the guest, and calls the given `fn() -> u32` from it.
///
/// The value that the function returns is left in EAX, and the vCPU halts.
///
/// The stack pointer that the machine sets is a multiple of 16. CALL pushes eight bytes, and that is what a function
/// expects to find (System V ABI for x86-64, 3.2.2).
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        ::core::arch::global_asm!(
            ".globl _start",
            "_start:",
            "xor ebp, ebp", // the end of the chain of frames, for debuggers
            "call {start}",
            "ud2",
            start = sym __vmm_guest_start,
        );

        extern "C" fn __vmm_guest_start() -> ! {
            let main: fn() -> u32 = $main;
            $crate::halt(main())
        }
    };
}

/// Stops the vCPU with `eax` in EAX. Ring 0 only: in ring 3 HLT raises #GP.
pub fn halt(eax: u32) -> ! {
    loop {
        // SAFETY: HLT reads and writes nothing. Interrupts are off from the start; if the guest has turned them on, the
        // loop halts again.
        unsafe { asm!("hlt", in("eax") eax, options(nomem, nostack)) };
    }
}

/// Prints the panic's message and place and ends the run with the code 99.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("{info}");
    hypercall::exit(99)
}
