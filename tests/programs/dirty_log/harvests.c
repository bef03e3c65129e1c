/* Harvests of native/beside/dirty_log.c beside a VMM's own GET and CLEAR: KVM's log is an array.
 * Ends with 0, or names the line at which something was not as it should be. */
#define _GNU_SOURCE
#include "beside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGES 1024
#define WORDS (PAGES / 64)
#define VM 7
#define REQUIRE(what)                                                                             \
    do {                                                                                          \
        if (!(what)) {                                                                            \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #what);                                     \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

static uint64_t dirty[WORDS]; /* KVM's */
static uint64_t taken[WORDS]; /* by the last harvest */
static uint64_t got[WORDS];   /* by the VMM's last GET */

/* --- what the rest of the library does --- */

int tb_real_ioctl(int fd, unsigned long request, void *argument) {
    (void)fd;
    if (request == KVM_GET_DIRTY_LOG) {
        struct kvm_dirty_log *log = argument;
        memcpy(log->dirty_bitmap, dirty, sizeof(dirty));
    }
    if (request == KVM_CLEAR_DIRTY_LOG) {
        struct kvm_clear_dirty_log *log = argument;
        const uint64_t *bits = log->dirty_bitmap;
        REQUIRE(log->first_page == 0 && log->num_pages == PAGES);
        for (unsigned i = 0; i < WORDS; i++)
            dirty[i] &= ~bits[i];
    }
    return 0;
}

int tb_listener(void) {
    return 3;
}

void tb_serve(void) {
}

void tb_read_vcpus(struct tb_state *state) {
    (void)state;
}

void tb_say(const char *text, size_t size) {
    (void)text;
    (void)size;
}

/* --- the guest, the VMM, the process beside it --- */

static unsigned count(const uint64_t *bitmap) {
    unsigned bits = 0;
    for (unsigned i = 0; i < WORDS; i++)
        bits += (unsigned)__builtin_popcountll(bitmap[i]);
    return bits;
}

static bool has(const uint64_t *bitmap, unsigned page) {
    return bitmap[page / 64] >> (page % 64) & 1;
}

static void guest_writes(unsigned page) {
    dirty[page / 64] |= 1UL << (page % 64);
}

static void vmm_sets_slot(void *memory, uint32_t flags) {
    struct kvm_userspace_memory_region region = {
        .flags = flags, .guest_phys_addr = 0x40000000, .memory_size = PAGES * 4096UL,
        .userspace_addr = (uint64_t)memory};
    REQUIRE(tb_set_slot(VM, KVM_SET_USER_MEMORY_REGION, &region) == 0);
}

static unsigned vmm_gets(void) {
    struct kvm_dirty_log log = {.dirty_bitmap = got};
    REQUIRE(tb_get_dirty_log(VM, KVM_GET_DIRTY_LOG, &log) == 0);
    return count(got);
}

static void vmm_clears(void) {
    struct kvm_clear_dirty_log log = {.num_pages = PAGES, .dirty_bitmap = got};
    REQUIRE(tb_clear_dirty_log(VM, KVM_CLEAR_DIRTY_LOG, &log) == 0);
}

static int ask(uint32_t kind) {
    struct tb_request request = {.operation = TB_HARVEST, .argument = kind, .page_count = PAGES};
    memset(taken, 0, sizeof(taken));
    return tb_harvest(&request, taken);
}

static unsigned harvest(uint32_t kind) {
    REQUIRE(ask(kind) == 0);
    return count(taken);
}

/* The VMM logs, gets and clears all pages, and the harvest of that was sent. */
static void begin(void) {
    struct kvm_enable_cap manual = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = {3}};
    void *memory = mmap(NULL, PAGES * 4096UL, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    tb_vm_created(VM);
    tb_capability_enabled(VM, &manual);
    vmm_sets_slot(memory, 0);
    REQUIRE(tb_start_log() == 0);
    memset(dirty, 0xff, sizeof(dirty)); /* INITIALLY_SET */
    vmm_sets_slot(memory, KVM_MEM_LOG_DIRTY_PAGES);
    REQUIRE(harvest(TB_LIVE) == 0);
    REQUIRE(vmm_gets() == PAGES);
    vmm_clears();
    REQUIRE(harvest(TB_LIVE) == PAGES);
}

int main(void) {
    begin();

    guest_writes(5);
    guest_writes(700);
    REQUIRE(harvest(TB_LIVE) == 0); /* they are unprotected */
    REQUIRE(harvest(TB_PROTECTING) == 2 && has(taken, 5) && has(taken, 700));
    REQUIRE(count(dirty) == 0);

    guest_writes(5);
    guest_writes(9);
    REQUIRE(vmm_gets() == 3 && has(got, 5) && has(got, 9) && has(got, 700));
    REQUIRE(vmm_gets() == 2); /* what we took is told once */
    REQUIRE(harvest(TB_PROTECTING) == 2);
    vmm_clears(); /* no bit is set any more, and its pages are owed all the same */
    REQUIRE(harvest(TB_LIVE) == 2);

    REQUIRE(vmm_gets() == 2); /* what was taken last, and KVM's log has not */
    guest_writes(9);
    vmm_clears();
    REQUIRE(count(dirty) == 1); /* what comes after the GET keeps its bit */
    REQUIRE(harvest(TB_LIVE) == 0); /* and what was sent is not owed again */
    REQUIRE(vmm_gets() == 1 && has(got, 9));
    vmm_clears();
    REQUIRE(count(dirty) == 0 && harvest(TB_LIVE) == 1 && has(taken, 9));

    guest_writes(5);
    guest_writes(9);
    REQUIRE(harvest(TB_PROTECTING) == 2);
    guest_writes(3);
    REQUIRE(harvest(TB_FINAL) == 1 && has(taken, 3));
    REQUIRE(ask(TB_PROTECTING + 1) == -EINVAL);

    tb_stop_log(); /* the VMM still gets what we took from it */
    REQUIRE(vmm_gets() == 3 && has(got, 3) && has(got, 5) && has(got, 9));
    return 0;
}
