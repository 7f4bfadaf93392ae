//! The interrupt descriptor table, and the way from a vector into Rust and back.
//!
//! Each of the 256 vectors has a stub of 16 bytes. It pushes an error code of 0 where the CPU pushes none, so that all
//! frames look alike, then its number, and goes on where all meet: the general registers are saved, Rust is called,
//! and IRETQ leads back (Intel SDM vol. 3, 6.12 and 6.14).

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What lies on the stack when Rust is called, from the last push on.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Frame {
    /// R15 to RAX, as pushed below.
    pub(crate) registers: [u64; 15],
    pub(crate) vector: u64,
    pub(crate) error: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

/// Each gate has two words of 8 bytes.
#[repr(align(16))]
struct Idt([AtomicU64; 512]);

static IDT: Idt = Idt([const { AtomicU64::new(0) }; 512]);

/// The operand of LIDT.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// The boot code's 64-bit code segment.
const CODE_SEGMENT: u64 = 8;
/// Present, an interrupt gate of 64 bits: interrupts are off in the handler.
const INTERRUPT_GATE: u64 = 0x8e00;

/// Fills the table and loads it. Interrupts stay off.
pub(crate) fn load() {
    unsafe extern "C" {
        static interrupt_stubs: [[u8; 16]; 256];
    }
    let stubs = (&raw const interrupt_stubs).addr() as u64;
    for (vector, gate) in (0..).zip(IDT.0.chunks_exact(2)) {
        let stub: u64 = stubs + 16 * vector;
        let low = stub & 0xffff | CODE_SEGMENT << 16 | INTERRUPT_GATE << 32 | (stub >> 16 & 0xffff) << 48;
        for (word, value) in gate.iter().zip([low, stub >> 32]) {
            word.store(value, Relaxed);
        }
    }
    let pointer = Pointer { limit: 256 * 16 - 1, base: (&raw const IDT).addr() as u64 };
    // SAFETY: the table lives as long as the kernel, and each gate leads to a stub.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags)) };
}

global_asm!(
    r#"
    .pushsection .text.interrupts, "ax"
    .balign 16
    .globl interrupt_stubs
interrupt_stubs:
    .set    vector, 0
    .rept   256
    .balign 16
    // The CPU pushes an error code for 8, 10 to 14, 17, 21, 29 and 30 (SDM vol. 3, table 6-1; APM vol. 2, 8.2).
    .if     (vector < 8) || (vector == 9) || (vector == 15) || (vector == 16) || (vector > 17 && vector < 21) || (vector > 21 && vector < 29) || (vector > 30)
    pushq   $0
    .endif
    pushq   $vector
    jmp     interrupt_entry
    .set    vector, vector + 1
    .endr

interrupt_entry:
    pushq   %rax
    pushq   %rbx
    pushq   %rcx
    pushq   %rdx
    pushq   %rsi
    pushq   %rdi
    pushq   %rbp
    pushq   %r8
    pushq   %r9
    pushq   %r10
    pushq   %r11
    pushq   %r12
    pushq   %r13
    pushq   %r14
    pushq   %r15
    movq    %rsp, %rdi
    cld
    // The CPU has aligned the stack to 16 before it pushed 5 words; with ours there are 22.
    call    {handle}
    popq    %r15
    popq    %r14
    popq    %r13
    popq    %r12
    popq    %r11
    popq    %r10
    popq    %r9
    popq    %r8
    popq    %rbp
    popq    %rdi
    popq    %rsi
    popq    %rdx
    popq    %rcx
    popq    %rbx
    popq    %rax
    addq    $16, %rsp                   // vector and error code
    iretq
    .popsection
    "#,
    handle = sym handle_frame,
    options(att_syntax)
);

extern "C" fn handle_frame(frame: &mut Frame) {
    super::handle(frame);
}
