/*
 * An ELF file with an entry for PVH, as Linux has one: the note names it, and EBX holds the address of the
 * start information.
 */
#define XEN_ELFNOTE_PHYS32_ENTRY 18

        .section .note.Xen, "a", @note
        .align  4
        .long   name_end - name, entry_end - entry, XEN_ELFNOTE_PHYS32_ENTRY
name:   .asciz  "Xen"
name_end:
        .align  4
entry:  .long   pvh_start
entry_end:

        .code32
        .text
        .globl  pvh_start, _start
pvh_start:
        mov     $stack_top, %esp
        push    %ebx
        call    kernel
1:      hlt
        jmp     1b

        /* The entry of the ELF file, for loaders that do not see the note: it says so and fails. */
_start:
        mov     $2, %al
        out     %al, $0xf4
2:      hlt
        jmp     2b

        .bss
        .align  16
        .skip   4096
stack_top:
