/* A debugger and the process that it debugs, by what gdb asks of Linux: software breakpoints, single
 * steps, hardware breakpoints and watchpoints. Each step says what it found; a line with FAIL and
 * status 1 end it. Built for Linux on arm64, static, by native/toolchain.py. */
#include <elf.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROT_MTE 0x20
#define HW_BREAK 0x402 /* NT_ARM_HW_BREAK */
#define HW_WATCH 0x403 /* NT_ARM_HW_WATCH */
#define BRK 0xd4200000u
#define ROUNDS 5
#define TAG 9ull

/* Of DBGBCR_EL1 and DBGWCR_EL1: enabled, at EL0; which accesses; which bytes. */
#define CONTROL(access, bytes) (1u | 2u << 1 | (access) << 3 | (uint32_t)(bytes) << 5)
enum access { EXECUTE = 0, READ = 1, WRITE = 2 };

struct hardware {
    uint32_t information; /* the number of registers in bits 7:0 */
    uint32_t unused;
    struct {
        uint64_t address;
        uint32_t control, unused;
    } registers[16];
};

/* What the child executes: 2 + 3 * 100 + 1 instructions, then a call per round. */
void counted(void);
void visited(uint64_t *word);
extern char stores_here[], loads_here[];
__asm__(".global counted, visited, stores_here, loads_here\n"
        "counted: mov x0, #0\n"
        "    mov x1, #100\n"
        "1:  add x0, x0, #3\n"
        "    subs x1, x1, #1\n"
        "    b.ne 1b\n"
        "    ret\n"
        "visited: mov x1, #7\n"
        "stores_here: str x1, [x0]\n"
        "loads_here: ldrb w2, [x0, #5]\n"
        "    ret\n");
enum { COUNTED_STEPS = 2 + 3 * 100 + 1 };

static uint64_t *watched; /* in memory with tags, by a pointer with one */

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("debugger: FAIL ");
    vprintf(format, arguments);
    putchar('\n');
    fflush(stdout);
    exit(1);
}

__attribute__((noreturn)) static void be_debugged(void)
{
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    counted();
    for (int round = 0; round < ROUNDS; round++)
        visited(watched);
    _exit(*watched == 7 ? 0 : 1);
}

static void *map_watched(void)
{
    unsigned long control = PR_TAGGED_ADDR_ENABLE | PR_MTE_TCF_SYNC | 0xfffeul << PR_MTE_TAG_SHIFT;
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_MTE, MAP_PRIVATE | MAP_ANONYMOUS,
                      -1, 0);
    if (page == MAP_FAILED || prctl(PR_SET_TAGGED_ADDR_CTRL, control, 0, 0, 0))
        fail("no memory with tags");
    page = (char *)((uintptr_t)page | TAG << 56);
    __asm__ volatile("stg %0, [%0]" : : "r"(page) : "memory");
    return page;
}

static uint64_t strip_tag(const void *pointer)
{
    return (uintptr_t)pointer & ~(0xffull << 56);
}

/* --- the child's state --- */

static struct user_regs_struct registers_of(pid_t child)
{
    struct user_regs_struct registers;
    struct iovec place = {&registers, sizeof registers};
    if (ptrace(PTRACE_GETREGSET, child, NT_PRSTATUS, &place))
        fail("no registers");
    return registers;
}

static uint64_t pc_of(pid_t child)
{
    return registers_of(child).pc;
}

static uint32_t word_of(pid_t child, uint64_t address)
{
    return (uint32_t)ptrace(PTRACE_PEEKTEXT, child, address, 0);
}

static void put_word(pid_t child, uint64_t address, uint32_t word)
{
    uint64_t both = (uint64_t)ptrace(PTRACE_PEEKTEXT, child, address, 0);
    if (ptrace(PTRACE_POKETEXT, child, address, (both & ~0xffffffffull) | word))
        fail("cannot store code");
}

/* How many registers of a kind there are. */
static unsigned hardware_count(pid_t child, int kind)
{
    struct hardware hardware;
    struct iovec place = {&hardware, sizeof hardware};
    if (ptrace(PTRACE_GETREGSET, child, kind, &place))
        fail("no debug registers of kind %#x", kind);
    return hardware.information & 0xff;
}

/* Sets the first register of a kind; `control` is 0 to disable it. */
static void set_hardware(pid_t child, int kind, const void *address, uint32_t control)
{
    struct hardware hardware = {.registers[0] = {(uintptr_t)address, control, 0}};
    struct iovec place = {&hardware, offsetof(struct hardware, registers[1])};
    if (ptrace(PTRACE_SETREGSET, child, kind, &place))
        fail("cannot set a debug register of kind %#x", kind);
}

/* --- letting it run --- */

/* Goes on by `how` until the next trap, and returns where the kernel says that it was. */
static uint64_t trap_after(pid_t child, int how, int code)
{
    int status;
    siginfo_t signal;
    if (ptrace(how, child, 0, 0) || waitpid(child, &status, 0) != child)
        fail("cannot go on");
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
        fail("status %#x at %#llx", status, (unsigned long long)pc_of(child));
    if (ptrace(PTRACE_GETSIGINFO, child, 0, &signal) || signal.si_code != code)
        fail("trap %d at %#llx, expected %d", signal.si_code, (unsigned long long)pc_of(child),
             code);
    return (uint64_t)(uintptr_t)signal.si_addr;
}

static void step(pid_t child)
{
    trap_after(child, PTRACE_SINGLESTEP, TRAP_TRACE);
}

static void expect_at(pid_t child, const void *place, const char *what)
{
    if (pc_of(child) != (uintptr_t)place)
        fail("%s: at %#llx, expected %p", what, (unsigned long long)pc_of(child), place);
}

static void try_software_breakpoint_and_steps(pid_t child)
{
    uint64_t place = (uintptr_t)counted;
    uint32_t word = word_of(child, place);
    put_word(child, place, BRK);
    trap_after(child, PTRACE_CONT, TRAP_BRKPT);
    expect_at(child, (void *)counted, "breakpoint");
    put_word(child, place, word);
    uint64_t back = registers_of(child).regs[30];
    int steps = 0;
    for (; pc_of(child) != back && steps <= COUNTED_STEPS; steps++)
        step(child);
    if (steps != COUNTED_STEPS || registers_of(child).regs[0] != 300)
        fail("%d steps, x0 is %llu", steps, registers_of(child).regs[0]);
    printf("debugger: breakpoint, %d steps\n", steps);
}

static void try_hardware_breakpoint(pid_t child)
{
    for (int round = 0; round < 2; round++) {
        set_hardware(child, HW_BREAK, (void *)visited, CONTROL(EXECUTE, 0xf));
        if (trap_after(child, PTRACE_CONT, TRAP_HWBKPT) != (uintptr_t)visited)
            fail("a hardware breakpoint names another address");
        expect_at(child, (void *)visited, "hardware breakpoint");
        set_hardware(child, HW_BREAK, NULL, 0);
        step(child);
    }
    printf("debugger: hardware breakpoint, 1 of %u\n", hardware_count(child, HW_BREAK));
}

/* The access has not happened yet; the kernel names a byte of it, up to the last that is watched. */
static void try_watchpoint(pid_t child, enum access access, uint8_t bytes, unsigned first,
                           unsigned last, const char *place)
{
    uint64_t base = strip_tag(watched);
    set_hardware(child, HW_WATCH, (void *)base, CONTROL(access, bytes));
    uint64_t found = strip_tag((void *)trap_after(child, PTRACE_CONT, TRAP_HWBKPT));
    if (found < base + first || found > base + last)
        fail("a watchpoint names %#llx, expected %#llx to %#llx", (unsigned long long)found,
             (unsigned long long)base + first, (unsigned long long)base + last);
    expect_at(child, place, "watchpoint");
    set_hardware(child, HW_WATCH, NULL, 0);
    step(child);
    expect_at(child, place + 4, "step over an access");
}

static void try_watchpoints(pid_t child)
{
    uint64_t base = strip_tag(watched);
    if (ptrace(PTRACE_PEEKDATA, child, base, 0) != 7 || ptrace(PTRACE_POKEDATA, child, base, 0))
        fail("no access to the child's memory");
    try_watchpoint(child, WRITE, 0xff, 0, 7, stores_here);
    if (ptrace(PTRACE_PEEKDATA, child, base, 0) != 7)
        fail("the store was not executed by a step");
    try_watchpoint(child, READ, 0x20, 5, 5, loads_here);
    try_watchpoint(child, READ | WRITE, 0x04, 0, 2, stores_here);
    printf("debugger: watchpoints, 1 of %u\n", hardware_count(child, HW_WATCH));
}

int main(void)
{
    int status;
    watched = map_watched();
    pid_t child = fork();
    if (child == 0)
        be_debugged();
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
        fail("no child to debug");
    try_software_breakpoint_and_steps(child);
    try_hardware_breakpoint(child);
    try_watchpoints(child);
    if (ptrace(PTRACE_CONT, child, 0, 0) || waitpid(child, &status, 0) != child || status)
        fail("the child ended with status %#x", status);
    puts("debugger: PASS");
    return 0;
}
