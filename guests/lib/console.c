#include "console.h"

#include "layout.h"
#include "sysreg.h"
#include "vcpu.h"

#define LINE_BYTES 256

/* PL011 registers (Arm DDI 0183). */
#define UART_DR 0x00
#define UART_FR 0x18
#define UART_CR 0x30
#define FR_TXFF (1u << 5)
#define CR_UARTEN (1u << 0)
#define CR_TXE (1u << 8)

static u32 lock;

static volatile u32 *uart(unsigned offset) {
    return (volatile u32 *)(UART_GPA + (u64)offset);
}

void console_init(void) {
    *uart(UART_CR) = CR_UARTEN | CR_TXE;
}

static void put(char character) {
    while (*uart(UART_FR) & FR_TXFF)
        cpu_relax();
    *uart(UART_DR) = (u8)character;
}

static void put_line(const char *text, size_t length) {
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
        cpu_relax();
    for (size_t i = 0; i < length; i++)
        put(text[i]);
    put('\n');
    __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
}

void console_line(const char *format, ...) {
    char line[LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    size_t length = format_text(line, sizeof(line), format, arguments);
    va_end(arguments);
    put_line(line, length);
}
