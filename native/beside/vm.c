/* The one VM of this process: its slots and its vCPUs.
 *
 * A VMM creates several VMs: all but one are probes. The one that gets a memory slot is the VM.
 */
#define _GNU_SOURCE
#include "bitmaps.h"
#include "vm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef KVM_CAP_ARM_MTE
#define KVM_CAP_ARM_MTE 205
#endif
#ifndef KVM_CAP_DIRTY_LOG_RING
#define KVM_CAP_DIRTY_LOG_RING 192
#endif
#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif
#ifndef KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
#define KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 168
#endif

struct tb_vm tb_vm = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

/* VMs that were created and have no slot yet, by descriptor: what we know of them so far. */
#define MAX_CANDIDATES 8
static struct candidate {
    int fd;
    uint32_t flags;
    uint32_t vcpu_count;
    int vcpu_fds[TB_MAX_VCPUS];
} candidates[MAX_CANDIDATES];
static unsigned next_candidate;

uint32_t tb_page_bytes(void) {
    return (uint32_t)sysconf(_SC_PAGESIZE);
}

/* --- which VM --- */

static void remove_slot(struct tb_slot *slot);

static struct candidate *candidate_of(int fd) {
    for (unsigned i = 0; i < MAX_CANDIDATES; i++)
        if (candidates[i].fd == fd + 1) /* so that zeroed memory is no candidate */
            return &candidates[i];
    return NULL;
}

/* The VM's descriptor was closed and is another file's now. */
static void forget_vm(void) {
    while (tb_vm.slot_count)
        remove_slot(&tb_vm.slots[0]);
    tb_vm.fd = -1;
    tb_vm.flags = tb_vm.vcpu_count = 0;
}

void tb_vm_created(int fd) {
    struct kvm_enable_cap capability = {.cap = KVM_CAP_ARM_MTE};
    bool has_mte = tb_real_ioctl(fd, KVM_ENABLE_CAP, &capability) == 0;
    pthread_mutex_lock(&tb_vm.lock);
    if (fd == tb_vm.fd)
        forget_vm();
    struct candidate *here = candidate_of(fd);
    if (!here)
        here = &candidates[next_candidate++ % MAX_CANDIDATES];
    *here = (struct candidate){.fd = fd + 1, .flags = has_mte ? TB_HAS_MTE : 0};
    pthread_mutex_unlock(&tb_vm.lock);
}

/* KVM on arm64 has no more vCPUs than there is room for. */
static void add_vcpu(int *fds, uint32_t *count, int vcpu_fd) {
    if (*count < TB_MAX_VCPUS)
        fds[*count] = vcpu_fd;
    (*count)++;
}

void tb_vcpu_created(int vm_fd, int vcpu_fd) {
    pthread_mutex_lock(&tb_vm.lock);
    struct candidate *here = candidate_of(vm_fd);
    if (vm_fd == tb_vm.fd)
        add_vcpu(tb_vm.vcpu_fds, &tb_vm.vcpu_count, vcpu_fd);
    else if (here)
        add_vcpu(here->vcpu_fds, &here->vcpu_count, vcpu_fd);
    pthread_mutex_unlock(&tb_vm.lock);
}

static uint32_t flags_of_capability(const struct kvm_enable_cap *capability) {
    switch (capability->cap) {
    case KVM_CAP_ARM_MTE:
        return TB_HAS_MTE | TB_VMM_ASKED_FOR_MTE;
    case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
        return capability->args[0] & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE ? TB_MANUAL_PROTECT : 0;
    case KVM_CAP_DIRTY_LOG_RING:
    case KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
        return TB_DIRTY_RING;
    }
    return 0;
}

void tb_capability_enabled(int vm_fd, const void *capability) {
    uint32_t flags = flags_of_capability(capability);
    if (!flags)
        return;
    pthread_mutex_lock(&tb_vm.lock);
    struct candidate *here = candidate_of(vm_fd);
    if (vm_fd == tb_vm.fd)
        tb_vm.flags |= flags;
    else if (here)
        here->flags |= flags;
    pthread_mutex_unlock(&tb_vm.lock);
}

/* --- slots; all with the lock held --- */

struct tb_slot *tb_slot_of(uint32_t id) {
    for (uint32_t i = 0; i < tb_vm.slot_count; i++)
        if (tb_vm.slots[i].id == id)
            return &tb_vm.slots[i];
    return NULL;
}

static void forget_bitmaps(struct tb_slot *slot) {
    free(slot->owed);
    free(slot->stolen);
    free(slot->returned);
    slot->owed = slot->stolen = slot->returned = NULL;
}

void tb_owe_all(struct tb_slot *slot) {
    if (slot->owed)
        memset(slot->owed, 0xff, words_of(slot->pages) * sizeof(*slot->owed));
}

static void remove_slot(struct tb_slot *slot) {
    forget_bitmaps(slot);
    *slot = tb_vm.slots[--tb_vm.slot_count];
    tb_vm.generation++;
}

static void take_slot(const struct kvm_userspace_memory_region *region) {
    struct tb_slot *slot = tb_slot_of(region->slot);
    if (slot && region->memory_size == 0) {
        remove_slot(slot);
        return;
    }
    bool was_logged = slot && slot->flags & KVM_MEM_LOG_DIRTY_PAGES;
    if (!slot) {
        if (region->memory_size == 0)
            return;
        if (tb_vm.slot_count == TB_MAX_SLOTS) {
            tb_vm.flags |= TB_TOO_MANY_SLOTS; /* for good: one slot's tags would be left behind */
            return;
        }
        slot = &tb_vm.slots[tb_vm.slot_count++];
        *slot = (struct tb_slot){.id = region->slot};
        tb_vm.generation++;
    }
    bool moved = slot->gpa != region->guest_phys_addr || slot->hva != region->userspace_addr ||
                 slot->size_bytes != region->memory_size;
    if (moved) {
        forget_bitmaps(slot);
        slot->gpa = region->guest_phys_addr;
        slot->hva = region->userspace_addr;
        slot->size_bytes = region->memory_size;
        slot->pages = region->memory_size / tb_page_bytes();
        slot->is_shared = tb_is_shared_mapping(slot->hva);
        tb_vm.generation++;
    }
    slot->flags = region->flags;
    /* Whatever was read before the log began, or until it ended, may have changed unseen. */
    if (was_logged && !(slot->flags & KVM_MEM_LOG_DIRTY_PAGES))
        tb_owe_all(slot);
    if (tb_vm.is_logging && !slot->owed)
        slot->owed = new_bitmap(slot->pages, 0xff);
}

static bool becomes_the_vm(int vm_fd, const struct kvm_userspace_memory_region *region) {
    struct candidate *here = candidate_of(vm_fd);
    if (vm_fd == tb_vm.fd || !here || region->memory_size == 0)
        return false;
    forget_vm();
    tb_vm.fd = vm_fd;
    tb_vm.flags = here->flags | TB_HAS_VM;
    tb_vm.vcpu_count = here->vcpu_count;
    memcpy(tb_vm.vcpu_fds, here->vcpu_fds, sizeof(tb_vm.vcpu_fds));
    here->fd = 0;
    return true;
}

/* The VMM would say no more than "Invalid argument". */
static void explain_refusal(int vm_fd, int error) {
    static const char text[] =
        "tagalong: the kernel refused a memory slot of a VM with MTE: its memory must be anonymous, "
        "or a memfd or a file on tmpfs; shared only since Linux 6.2, huge pages (hugetlbfs) only "
        "since 6.13\n";
    struct candidate *here = candidate_of(vm_fd);
    uint32_t flags = here ? here->flags : vm_fd == tb_vm.fd ? tb_vm.flags : 0;
    if (error == EINVAL && flags & TB_HAS_MTE)
        tb_say(text, sizeof(text) - 1);
}

int tb_set_slot(int vm_fd, unsigned long request, void *argument) {
    pthread_mutex_lock(&tb_vm.lock);
    int result = tb_real_ioctl(vm_fd, request, argument);
    int error = errno;
    bool is_new = false;
    if (result == 0) {
        is_new = becomes_the_vm(vm_fd, argument);
        if (vm_fd == tb_vm.fd)
            take_slot(argument);
    } else {
        explain_refusal(vm_fd, error);
    }
    pthread_mutex_unlock(&tb_vm.lock);
    if (is_new)
        tb_serve();
    errno = error;
    return result;
}

/* --- what the service asks --- */

static bool is_in_slot(const struct tb_slot *slot, const struct tb_request *request) {
    return slot && request->first_page <= slot->pages &&
           request->page_count <= slot->pages - request->first_page;
}

void tb_keep_slot(const struct tb_slot *slot, const struct tb_request *request,
                           uint64_t *bitmap) {
    uint64_t hva = slot->hva + request->first_page * tb_page_bytes();
    tb_keep_populated(hva, request->page_count, slot->is_shared, bitmap);
}

int tb_populated(const struct tb_request *request, uint64_t *bitmap) {
    memset(bitmap, 0xff, words_of(request->page_count) * sizeof(*bitmap));
    pthread_mutex_lock(&tb_vm.lock);
    struct tb_slot *slot = tb_slot_of(request->slot), copy = slot ? *slot : (struct tb_slot){0};
    bool is_sound = is_in_slot(slot, request);
    pthread_mutex_unlock(&tb_vm.lock);
    if (!is_sound)
        return slot ? -ERANGE : -ENOENT;
    tb_keep_slot(&copy, request, bitmap);
    return 0;
}

int tb_locate(const struct tb_request *request, struct tb_place *place) {
    pthread_mutex_lock(&tb_vm.lock);
    struct tb_slot *slot = tb_slot_of(request->slot);
    int status = is_in_slot(slot, request) ? 0 : slot ? -ERANGE : -ENOENT;
    if (status == 0) {
        uint64_t offset = request->first_page * tb_page_bytes();
        *place = (struct tb_place){tb_vm.fd, slot->gpa + offset, (const void *)(slot->hva + offset)};
    }
    pthread_mutex_unlock(&tb_vm.lock);
    return status;
}

int tb_vcpu_fd(uint32_t number) {
    pthread_mutex_lock(&tb_vm.lock);
    bool is_known = number < tb_vm.vcpu_count && number < TB_MAX_VCPUS;
    int fd = is_known ? tb_vm.vcpu_fds[number] : -1;
    pthread_mutex_unlock(&tb_vm.lock);
    return fd;
}

void tb_read_state(struct tb_state *state) {
    pthread_mutex_lock(&tb_vm.lock);
    *state = (struct tb_state){
        .version = TB_VERSION,
        .flags = tb_vm.flags,
        .page_bytes = tb_page_bytes(),
        .slot_count = tb_vm.slot_count,
        .vcpu_count = tb_vm.vcpu_count,
        .generation = tb_vm.generation,
    };
    for (uint32_t i = 0; i < tb_vm.slot_count; i++)
        if (tb_vm.slots[i].flags & KVM_MEM_LOG_DIRTY_PAGES)
            state->flags |= TB_LOGGING;
    pthread_mutex_unlock(&tb_vm.lock);
    tb_read_vcpus(state);
}

uint32_t tb_read_slots(struct tb_slot_entry *entries) {
    pthread_mutex_lock(&tb_vm.lock);
    uint32_t count = tb_vm.slot_count;
    for (uint32_t i = 0; i < count; i++) {
        const struct tb_slot *slot = &tb_vm.slots[i];
        uint32_t flags = (slot->flags & KVM_MEM_READONLY ? TB_SLOT_READ_ONLY : 0) |
                         (slot->flags & KVM_MEM_LOG_DIRTY_PAGES ? TB_SLOT_LOGGED : 0) |
                         (slot->is_shared ? TB_SLOT_SHARED : 0);
        entries[i] = (struct tb_slot_entry){slot->id, flags, slot->gpa, slot->size_bytes};
    }
    pthread_mutex_unlock(&tb_vm.lock);
    return count;
}
