/*
 * Suspend to memory (ACPI S3), and what the clock has to do with it.
 *
 * First the clock interrupts: its alarm, set to go off at every second, wakes the CPU out of HLT by interrupt 8. Then the
 * guest leaves word where it wants to go on, in the FACS, and writes the sleep type of S3 to the power registers. The
 * machine stops. At the next second the alarm wakes it: memory is as it was, but the CPU is in real mode, as after a
 * reset, at the waking vector.
 *
 * With NO_ALARM defined the alarm is off when the machine falls asleep, so it sleeps for good.
 */
#define CONSOLE         0xe9
#define EXIT            0xf4
#define CMOS_INDEX      0x70            /* the data port is the next one */
#define ALARM_SECOND    0x01
#define ALARM_MINUTE    0x03
#define ALARM_HOUR      0x05
#define ANY             0xff
#define STATUS_B        0x0b
#define STATUS_C        0x0c
#define HOURS_24        0x02
#define ALARM           0x20            /* enables it in B, tells of it in C */
#define PM1_STATUS      0x600
#define PM1_ENABLE      0x602
#define PM1_CONTROL     0x604
#define PM1_CLOCK       0x0400          /* status and enable: the clock's alarm */
#define PM1_AWAKE       0x8000          /* status: it slept and is awake */
#define SUSPEND         0x2400          /* SLP_EN, and type 1, which the DSDT says is S3 */
#define WAKING_VECTOR   0xe004c         /* in the FACS; a kernel finds it by the ACPI tables */
#define GO_ON           0x8000          /* physical: where `awake` is copied to */
#define VECTOR          0x28            /* of the second PIC's first input, interrupt 8 */

        .macro  output value, port
        movb    $\value, %al
        outb    %al, $\port
        .endm

        .macro  cmos register, value
        output  \register, CMOS_INDEX
        output  \value, CMOS_INDEX + 1
        .endm

        .code64
        .globl  _start
_start:
        cld
        output  0x11, 0x20              # both PICs: their four initialization words
        output  0x11, 0xa0
        output  0x20, 0x21              # vectors from 0x20 and from 0x28 on
        output  VECTOR, 0xa1
        output  0x04, 0x21              # the second one is at input 2 of the first
        output  0x02, 0xa1
        output  0x01, 0x21
        output  0x01, 0xa1
        output  0xfb, 0x21              # only that input, and only the clock there
        output  0xfe, 0xa1
        lgdt    gdt_pointer
        pushq   $8
        pushq   $1f
        lretq
1:
        movl    $clock, %eax            # the gate's offset comes in parts; the highest is 0
        movw    %ax, gate
        shrl    $16, %eax
        movw    %ax, gate + 6
        lidt    idt_pointer

        cmos    ALARM_SECOND, ANY
        cmos    ALARM_MINUTE, ANY
        cmos    ALARM_HOUR, ANY
        output  STATUS_C, CMOS_INDEX    # reading it forgets what has happened so far
        inb     $CMOS_INDEX + 1, %al
        cmos    STATUS_B, (HOURS_24 | ALARM)
        xorl    %ebx, %ebx
1:      sti                             # STI takes effect after HLT: no interrupt is lost in between
        hlt
        cli
        testb   $ALARM, %bl             # what the handler found in register C
        jz      1b
        movl    $interrupted, %esi
        movl    $interrupted_end - interrupted, %ecx
        movw    $CONSOLE, %dx
        rep outsb

        movl    $awake, %esi
        movl    $GO_ON, %edi
        movl    $awake_end - awake, %ecx
        rep movsb
        movl    $GO_ON, WAKING_VECTOR
        movl    $0x5a17, memory         # to be found again
#ifdef NO_ALARM
        cmos    STATUS_B, HOURS_24
#endif
        movw    $PM1_ENABLE, %dx
        movw    $PM1_CLOCK, %ax
        outw    %ax, %dx
        movw    $PM1_CONTROL, %dx
        movw    $SUSPEND, %ax
        outw    %ax, %dx
        output  1, EXIT                 # not reached: code 3
1:      jmp     1b

/* Interrupt 8. There will be no other until register C is read. */
clock:
        output  STATUS_C, CMOS_INDEX
        inb     $CMOS_INDEX + 1, %al
        movb    %al, %bl
        output  0x20, 0xa0              # end of interrupt, to both
        output  0x20, 0x20
        iretq

/* In real mode at 0800:0000, with nothing of the CPU's state left. */
        .code16
awake:
        movw    %cs, %ax
        movw    %ax, %ds
        movw    $PM1_STATUS, %dx
        inw     %dx, %ax
        andw    $(PM1_AWAKE | PM1_CLOCK), %ax
        cmpw    $(PM1_AWAKE | PM1_CLOCK), %ax
        movb    $2, %al                 # code 5: not woken by the clock
        jne     1f
        movw    $0x1000, %bx            # the data segment of `memory`, at 0x10000
        movw    %bx, %es
        cmpl    $0x5a17, %es:0
        movb    $3, %al                 # code 7: memory is not what it was
        jne     1f
        movw    $woken - awake, %si
        movw    $woken_end - woken, %cx
        movw    $CONSOLE, %dx
        rep outsb
        xorb    %al, %al                # code 0
1:      outb    %al, $EXIT
        hlt
woken:  .ascii  "memory is as it was, the CPU is in real mode\n"
woken_end:
awake_end:

        .set    memory, 0x10000         # below 1 MiB, so that real mode reaches it

        .data
        .balign 8
gdt:    .quad   0
        .quad   0x00af9b000000ffff      # code, 64-bit
        .quad   0x00cf93000000ffff      # data, flat: IRET loads SS, which is 0x10 from the start
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .quad   gdt

        .balign 16
idt:    .fill   VECTOR * 2, 8, 0
gate:   .word   0, 8, 0x8e00, 0         # present, ring 0, interrupt gate
        .quad   0
idt_end:
idt_pointer:
        .word   idt_end - idt - 1
        .quad   idt

interrupted:
        .ascii  "the alarm interrupted; good night\n"
interrupted_end:
