//! From the first instruction to the first line of Rust.
//!
//! The monitor finds the entry in an ELF note (`XEN_ELFNOTE_PHYS32_ENTRY`; Xen's docs/misc/pvh.pandoc) and starts there
//! in 32-bit protected mode: flat segments, paging and interrupts off, the address of `hvm_start_info` in EBX. What is
//! left to do is long mode (Intel SDM vol. 3, 10.8.5): page tables, CR4.PAE, EFER.LME, CR0.PG, a 64-bit code segment.
//!
//! The first GiB is mapped at its own address, writable and executable. That is enough to begin with, and the first
//! thing that a kernel of your own would change.

use core::arch::global_asm;

/// Makes a function `fn() -> !` the kernel's beginning. It runs in long mode, in ring 0, with interrupts off and on a
/// stack of 64 KiB.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        /// The assembly in `boot.rs` jumps here.
        #[unsafe(no_mangle)]
        extern "C" fn kernel_main() -> ! {
            let main: fn() -> ! = $main;
            main()
        }
    };
}

/// What the monitor left in EBX: the physical address of `hvm_start_info` (Xen's public/arch-x86/hvm/start_info.h).
#[must_use]
pub fn start_info() -> u64 {
    unsafe extern "C" {
        static pvh_start_info: u32;
    }
    // SAFETY: the assembly below defines it and has written it before any Rust code runs; nobody writes it again.
    u64::from(unsafe { pvh_start_info })
}

global_asm!(
    r#"
    // The note: sizes of name and value, type 18, the name, the value.
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long   4, 4, 18
    .asciz  "Xen"
    .long   pvh_start
    .popsection

    .pushsection .text.start, "ax"
    .code32
    .globl pvh_start
pvh_start:
    movl    %ebx, pvh_start_info
    movl    $stack_top, %esp

    movl    $pml4, %eax
    movl    %eax, %cr3
    movl    %cr4, %eax
    orl     $(1 << 5), %eax             // PAE: entries of 8 bytes
    movl    %eax, %cr4
    movl    $0xc0000080, %ecx           // EFER
    rdmsr
    orl     $(1 << 8), %eax             // LME: long mode, once paging is on
    wrmsr
    movl    %cr0, %eax
    orl     $(1 << 31 | 1 << 16), %eax  // PG; WP: ring 0 heeds read-only pages, too
    movl    %eax, %cr0

    lgdt    gdt_pointer
    ljmp    $8, $long_mode
    .code64
long_mode:
    movl    $16, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    xorl    %eax, %eax
    movl    %eax, %fs
    movl    %eax, %gs
    xorl    %ebp, %ebp                  // the end of the chain of frames, for debuggers
    call    kernel_main                 // pushes 8 bytes: the alignment a function expects
    ud2
    .popsection

    .pushsection .data.boot, "aw"
    .balign 16
gdt:
    .quad   0
    .quad   0x00af9b000000ffff          // 8: code, 64-bit
    .quad   0x00cf93000000ffff          // 16: data
gdt_pointer:
    .word   . - gdt - 1
    .long   gdt

    // Bits of the entries (SDM vol. 3, 4.5.4): 0 present, 1 writable, 7 a page of 2 MiB.
    .balign 4096
pml4:
    .quad   pdpt + 3
    .fill   511, 8, 0
pdpt:
    .quad   page_directory + 3
    .fill   511, 8, 0
page_directory:
    .set    page, 0
    .rept   512
    .quad   page + 0x83
    .set    page, page + 0x200000
    .endr

    .globl pvh_start_info
pvh_start_info:
    .long   0
    .popsection

    .pushsection .bss.boot, "aw", @nobits
    .balign 16
    .space  65536
stack_top:
    .popsection
    "#,
    options(att_syntax)
);
