/* The preloaded library: carries the tags of a VMM's guest in and out of the VMM's own process.
 *
 * docs/formats/beside-link.md specifies what it says to the process beside it. The parts:
 *   interpose.c  libc's ioctl, and which of its calls concern a VM
 *   vm.c         the one VM: its slots and its vCPUs
 *   dirty_log.c  its dirty logs: whose tags are to be read again
 *   vcpus.c      vCPUs in the guest, and the hold that keeps them out
 *   registers.c  the registers of a vCPU that is out of the guest
 *   pagemap.c    which of the guest's pages are there
 *   tags.c       tags in bulk, by KVM_ARM_MTE_COPY_TAGS
 *   service.c    the thread that serves the socket
 *   say.c        what a person is told
 */
#ifndef TAGALONG_BESIDE_H
#define TAGALONG_BESIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TB_VERSION 3
#define TB_MAX_SLOTS 512
#define TB_MAX_VCPUS 512
#define TB_GRANULE_BYTES 16
/* One request about pages chooses at most so much guest RAM, from a range of so many pages. */
#define TB_MAX_CHOSEN_BYTES (64UL << 20)
#define TB_MAX_RANGE_PAGES (1UL << 24)
/* The reply to a harvest has the tags of its pages, unless they are more than this. */
#define TB_MAX_HARVEST_TAG_BYTES (1UL << 20)

enum tb_operation {
    TB_STATE = 1,
    TB_SLOTS = 2,
    TB_START_LOG = 3,
    TB_STOP_LOG = 4,
    TB_HARVEST = 5,
    TB_POPULATED = 6,
    TB_READ_TAGS = 7,
    TB_WRITE_TAGS = 8,
    TB_HOLD = 9,
    TB_READ_DATA = 10,
    TB_READ_REGISTERS = 11,
};

enum tb_harvest {
    TB_LIVE = 0,  /* what may be read now and is settled by that */
    TB_FINAL = 1, /* and what was never protected: the vCPUs must not run */
    TB_PROTECTING = 2, /* as live, once all pages are protected */
};

enum tb_vm_flag {
    TB_HAS_VM = 1,
    TB_HAS_MTE = 2,
    TB_MANUAL_PROTECT = 4,
    TB_DIRTY_RING = 8,
    TB_HELD = 16,
    TB_LOGGING = 32,
    TB_VMM_ASKED_FOR_MTE = 64,
    TB_TOO_MANY_SLOTS = 128,
    TB_ENDING = 256,
};

enum tb_slot_flag {
    TB_SLOT_READ_ONLY = 1,
    TB_SLOT_LOGGED = 2,
    TB_SLOT_SHARED = 4,
};

struct tb_request {
    uint16_t operation;
    uint16_t reserved;
    uint32_t payload_bytes;
    uint32_t slot;
    uint32_t argument;
    uint64_t first_page;
    uint64_t page_count;
};

struct tb_reply {
    int32_t status; /* 0 or -errno */
    uint32_t payload_bytes;
};

struct tb_state {
    uint32_t version;
    uint32_t flags;
    uint32_t page_bytes;
    uint32_t slot_count;
    uint32_t vcpu_count;
    uint32_t vcpus_running;
    uint64_t runs;       /* how often a vCPU has entered the guest */
    uint64_t generation; /* changes with the slots */
};

struct tb_slot_entry {
    uint32_t slot;
    uint32_t flags;
    uint64_t gpa;
    uint64_t size_bytes;
};

/* The head of a vCPU's registers; each of them follows as its id, u64, and its value, as many bytes
 * as the id says. */
struct tb_registers {
    uint32_t mp_state; /* KVM's */
    uint32_t count;
};

_Static_assert(sizeof(struct tb_request) == 32, "as docs/formats/beside-link.md says");
_Static_assert(sizeof(struct tb_reply) == 8, "as docs/formats/beside-link.md says");
_Static_assert(sizeof(struct tb_state) == 40, "as docs/formats/beside-link.md says");
_Static_assert(sizeof(struct tb_slot_entry) == 24, "as docs/formats/beside-link.md says");
_Static_assert(sizeof(struct tb_registers) == 8, "as docs/formats/beside-link.md says");

/* --- interpose.c --- */

/* Where pages are: in which VM, for the guest, and in this process. */
struct tb_place {
    int vm_fd;
    uint64_t gpa;
    const uint8_t *hva;
};

/* libc's own ioctl, past this library. */
int tb_real_ioctl(int fd, unsigned long request, void *argument);

/* --- vm.c --- */

/* What an ioctl of the VMM did: called with the result of a call that succeeded. */
void tb_vm_created(int fd);
void tb_vcpu_created(int vm_fd, int vcpu_fd);
void tb_capability_enabled(int vm_fd, const void *capability);
/* Makes the call itself, under the VM's lock. */
int tb_set_slot(int vm_fd, unsigned long request, void *region);

/* What the service asks. Those that return int: 0 or -errno. */
void tb_read_state(struct tb_state *state);
uint32_t tb_read_slots(struct tb_slot_entry *entries);
int tb_populated(const struct tb_request *request, uint64_t *bitmap);
/* Find the pages of a request; 0, or -errno if they are not all in one slot. */
int tb_locate(const struct tb_request *request, struct tb_place *place);
/* The descriptor of vCPU `number` in the order of creation, -1 if there is none. */
int tb_vcpu_fd(uint32_t number);
uint32_t tb_page_bytes(void);

/* --- dirty_log.c --- */

/* These make the VMM's call themselves, under the VM's lock. */
int tb_get_dirty_log(int vm_fd, unsigned long request, void *log);
int tb_clear_dirty_log(int vm_fd, unsigned long request, void *log);
int tb_copy_tags_of_vmm(int vm_fd, unsigned long request, void *copy);

/* What the service asks. Those that return int: 0 or -errno. */
int tb_start_log(void);
void tb_stop_log(void);
bool tb_is_logging(void);
int tb_harvest(const struct tb_request *request, uint64_t *bitmap);

/* --- vcpus.c --- */

/* KVM_RUN, or EINTR as from it while the vCPUs are held. */
int tb_run_vcpu(int vcpu_fd, unsigned long request, void *argument);
void tb_hold(bool held);
/* Keep the vCPUs out of the guest for a moment; false, and no hold, if one is in it. */
bool tb_hold_for_registers(void);
void tb_release_for_registers(void);
/* Keep the vCPUs out of the guest for good: the process ends. */
void tb_hold_for_end(void);
/* Fill in what `state` says of vCPUs. */
void tb_read_vcpus(struct tb_state *state);

/* --- registers.c --- */

/* All registers of a vCPU in *reply, which is malloc's: a struct tb_registers and what follows.
 * 0 or -errno: -EBUSY while a vCPU is in the guest. */
int tb_read_registers(int vcpu_fd, uint8_t **reply, size_t *size);

/* --- pagemap.c --- */

bool tb_is_shared_mapping(uint64_t hva);
/* Clear the bits of the pages from `hva` on that are not there. What cannot be looked up counts as
 * there: that is always right. */
void tb_keep_populated(uint64_t hva, uint64_t pages, bool is_shared, uint64_t *bitmap);

/* --- tags.c --- */

/* Find the next run of chosen pages, of at most `most`, from *first on; its length or 0. */
uint64_t tb_next_run(const uint64_t *bitmap, uint64_t pages, uint64_t most, uint64_t *first);
/* `bitmap` chooses pages of [gpa, +pages); `packed` has page_bytes / 32 bytes for each of them. */
int tb_read_tags(int vm_fd, uint64_t gpa, uint64_t pages, const uint64_t *bitmap, uint8_t *packed);
int tb_write_tags(int vm_fd, uint64_t gpa, uint64_t pages, const uint64_t *bitmap,
                  const uint8_t *packed);

/* --- say.c --- */

/* Print a text of `size` bytes. A broken pipe as standard error does not end the VMM by SIGPIPE. */
void tb_say(const char *text, size_t size);

/* --- service.c --- */

/* Serve the inherited socket from now on, in a thread of its own; once per process. */
void tb_serve(void);
/* The descriptor of that socket, or -1 if this process was not started beside tagalong. */
int tb_listener(void);

#endif
