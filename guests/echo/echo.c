/*
 * Reads the serial port and writes back what it reads, until a line says `quit` or a byte 0x04 (Ctrl-D) comes.
 *
 * The port is polled: there is no interrupt controller, so the guest asks the line status register again and again
 * (16550 data sheet: LSR is register 5, bit 0 says that a byte is waiting, bit 5 that one can be sent).
 */
#include "vmm.h"

#define DATA (VMM_COM1 + 0)
#define LINE_STATUS (VMM_COM1 + 5)
#define DATA_READY 0x01
#define TRANSMIT_EMPTY 0x20
#define END_OF_INPUT 0x04

static uint8_t receive(void)
{
    while (!(vmm_in8(LINE_STATUS) & DATA_READY))
        __asm__ volatile("pause");
    return vmm_in8(DATA);
}

static void send(uint8_t byte)
{
    while (!(vmm_in8(LINE_STATUS) & TRANSMIT_EMPTY))
        __asm__ volatile("pause");
    vmm_out8(DATA, byte);
}

static void send_text(const char *text)
{
    while (*text != '\0')
        send((uint8_t)*text++);
}

_Noreturn void _start(void)
{
    const char *word = "quit";
    uint32_t bytes = 0;
    int matched = 0; /* how many letters of `word` the line has so far; -1 once it differs */

    send_text("echo: type lines, `quit` ends\n");
    for (;;) {
        uint8_t byte = receive();
        if (byte == END_OF_INPUT)
            break;
        bytes++;
        if (byte == '\r') /* a raw terminal's Enter */
            byte = '\n';
        send(byte);
        if (byte == '\n') {
            if (matched == 4)
                break;
            matched = 0;
        } else if (matched >= 0 && matched < 4 && byte == (uint8_t)word[matched]) {
            matched++;
        } else {
            matched = -1;
        }
    }
    send_text("bye\n");
    vmm_halt(bytes);
}
