/* The one VM of this process: its slots, its dirty logs, its vCPUs.
 *
 * A VMM creates several VMs: all but one are probes. The one that gets a memory slot is the VM.
 *
 * Which tags the destination lacks
 * --------------------------------
 * docs/design/beside.md has the argument; here is what the code holds. For each slot:
 *
 *   unprotected  pages that the guest can write without anyone learning of it: the bits of KVM's
 *                own dirty bitmap, or all pages while the slot is not logged. KVM_GET_DIRTY_LOG
 *                with manual protection reads them and changes nothing.
 *   owed         pages whose tags were not read since they were last protected.
 *
 * A CLEAR of the VMM protects pages, so it makes them owed. A live harvest takes the pages that
 * are owed and protected: tags read after it are right until KVM marks the page again. The final
 * harvest, with all vCPUs stopped, takes the owed and the unprotected. One lock covers a CLEAR with
 * its effect on `owed`, and a harvest: without it a harvest could fall between the two and find
 * the page neither unprotected nor owed.
 *
 * A protecting harvest clears the log itself first, so that a later one has few pages, however
 * rarely the VMM clears. That takes bits that the VMM has not seen, and so does our GET without
 * manual protection, which also clears: they are kept in `stolen` and added to what the VMM's next
 * GET returns. Those that KVM's own log did not have at that GET are `returned`: the VMM's CLEAR
 * leaves them out, because the page is protected already, or was stored to since and keeps its bit.
 * So a page does not become owed for what the carrier has sent.
 */
#define _GNU_SOURCE
#include "beside.h"
#include "bitmaps.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
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

struct slot {
    uint32_t id;
    uint32_t flags; /* KVM's */
    uint64_t gpa, size_bytes, hva;
    bool is_shared;
    uint64_t pages;
    uint64_t *owed;     /* NULL without a log */
    uint64_t *stolen;   /* NULL unless bits were */
    uint64_t *returned; /* of the VMM's last GET; as `stolen` */
};

static struct {
    pthread_mutex_t lock;
    int fd; /* -1 until a VM got its first slot */
    uint32_t flags;
    uint32_t vcpu_count;
    int vcpu_fds[TB_MAX_VCPUS];
    uint64_t generation;
    uint32_t slot_count;
    struct slot slots[TB_MAX_SLOTS];
    bool is_logging;
} vm = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

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

static void remove_slot(struct slot *slot);

static struct candidate *candidate_of(int fd) {
    for (unsigned i = 0; i < MAX_CANDIDATES; i++)
        if (candidates[i].fd == fd + 1) /* so that zeroed memory is no candidate */
            return &candidates[i];
    return NULL;
}

/* The VM's descriptor was closed and is another file's now. */
static void forget_vm(void) {
    while (vm.slot_count)
        remove_slot(&vm.slots[0]);
    vm.fd = -1;
    vm.flags = vm.vcpu_count = 0;
}

void tb_vm_created(int fd) {
    struct kvm_enable_cap capability = {.cap = KVM_CAP_ARM_MTE};
    bool has_mte = tb_real_ioctl(fd, KVM_ENABLE_CAP, &capability) == 0;
    pthread_mutex_lock(&vm.lock);
    if (fd == vm.fd)
        forget_vm();
    struct candidate *here = candidate_of(fd);
    if (!here)
        here = &candidates[next_candidate++ % MAX_CANDIDATES];
    *here = (struct candidate){.fd = fd + 1, .flags = has_mte ? TB_HAS_MTE : 0};
    pthread_mutex_unlock(&vm.lock);
}

/* KVM on arm64 has no more vCPUs than there is room for. */
static void add_vcpu(int *fds, uint32_t *count, int vcpu_fd) {
    if (*count < TB_MAX_VCPUS)
        fds[*count] = vcpu_fd;
    (*count)++;
}

void tb_vcpu_created(int vm_fd, int vcpu_fd) {
    pthread_mutex_lock(&vm.lock);
    struct candidate *here = candidate_of(vm_fd);
    if (vm_fd == vm.fd)
        add_vcpu(vm.vcpu_fds, &vm.vcpu_count, vcpu_fd);
    else if (here)
        add_vcpu(here->vcpu_fds, &here->vcpu_count, vcpu_fd);
    pthread_mutex_unlock(&vm.lock);
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
    pthread_mutex_lock(&vm.lock);
    struct candidate *here = candidate_of(vm_fd);
    if (vm_fd == vm.fd)
        vm.flags |= flags;
    else if (here)
        here->flags |= flags;
    pthread_mutex_unlock(&vm.lock);
}

/* --- slots; all with the lock held --- */

static struct slot *slot_of(uint32_t id) {
    for (uint32_t i = 0; i < vm.slot_count; i++)
        if (vm.slots[i].id == id)
            return &vm.slots[i];
    return NULL;
}

static void forget_bitmaps(struct slot *slot) {
    free(slot->owed);
    free(slot->stolen);
    free(slot->returned);
    slot->owed = slot->stolen = slot->returned = NULL;
}

static void owe_all(struct slot *slot) {
    if (slot->owed)
        memset(slot->owed, 0xff, words_of(slot->pages) * sizeof(*slot->owed));
}

static void remove_slot(struct slot *slot) {
    forget_bitmaps(slot);
    *slot = vm.slots[--vm.slot_count];
    vm.generation++;
}

static void take_slot(const struct kvm_userspace_memory_region *region) {
    struct slot *slot = slot_of(region->slot);
    if (slot && region->memory_size == 0) {
        remove_slot(slot);
        return;
    }
    bool was_logged = slot && slot->flags & KVM_MEM_LOG_DIRTY_PAGES;
    if (!slot) {
        if (region->memory_size == 0)
            return;
        if (vm.slot_count == TB_MAX_SLOTS) {
            vm.flags |= TB_TOO_MANY_SLOTS; /* for good: one slot's tags would be left behind */
            return;
        }
        slot = &vm.slots[vm.slot_count++];
        *slot = (struct slot){.id = region->slot};
        vm.generation++;
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
        vm.generation++;
    }
    slot->flags = region->flags;
    /* Whatever was read before the log began, or until it ended, may have changed unseen. */
    if (was_logged && !(slot->flags & KVM_MEM_LOG_DIRTY_PAGES))
        owe_all(slot);
    if (vm.is_logging && !slot->owed)
        slot->owed = new_bitmap(slot->pages, 0xff);
}

static bool becomes_the_vm(int vm_fd, const struct kvm_userspace_memory_region *region) {
    struct candidate *here = candidate_of(vm_fd);
    if (vm_fd == vm.fd || !here || region->memory_size == 0)
        return false;
    forget_vm();
    vm.fd = vm_fd;
    vm.flags = here->flags | TB_HAS_VM;
    vm.vcpu_count = here->vcpu_count;
    memcpy(vm.vcpu_fds, here->vcpu_fds, sizeof(vm.vcpu_fds));
    here->fd = 0;
    return true;
}

/* The VMM would say no more than "Invalid argument". */
static void explain_refusal(int vm_fd, int error) {
    static const char text[] =
        "tagalong: the kernel refused a memory slot of a VM with MTE: before Linux 6.2 its memory "
        "must be private and anonymous, not a shared file or huge pages\n";
    struct candidate *here = candidate_of(vm_fd);
    uint32_t flags = here ? here->flags : vm_fd == vm.fd ? vm.flags : 0;
    if (error == EINVAL && flags & TB_HAS_MTE)
        tb_say(text, sizeof(text) - 1);
}

int tb_set_slot(int vm_fd, unsigned long request, void *argument) {
    pthread_mutex_lock(&vm.lock);
    int result = tb_real_ioctl(vm_fd, request, argument);
    int error = errno;
    bool is_new = false;
    if (result == 0) {
        is_new = becomes_the_vm(vm_fd, argument);
        if (vm_fd == vm.fd)
            take_slot(argument);
    } else {
        explain_refusal(vm_fd, error);
    }
    pthread_mutex_unlock(&vm.lock);
    if (is_new)
        tb_serve();
    errno = error;
    return result;
}

/* --- dirty logs --- */

/* Add the stolen bits to what KVM's log has. */
static void give_back(struct slot *slot, uint64_t *bitmap) {
    for (uint64_t i = 0; slot->stolen && i < words_of(slot->pages); i++) {
        slot->returned[i] = slot->stolen[i] & ~bitmap[i];
        bitmap[i] |= slot->stolen[i];
        slot->stolen[i] = 0;
    }
}

int tb_get_dirty_log(int vm_fd, unsigned long request, void *argument) {
    const struct kvm_dirty_log *log = argument;
    pthread_mutex_lock(&vm.lock);
    int result = tb_real_ioctl(vm_fd, request, argument);
    int error = errno;
    struct slot *slot = result == 0 && vm_fd == vm.fd ? slot_of(log->slot) : NULL;
    if (slot && slot->owed && !(vm.flags & TB_MANUAL_PROTECT))
        or_words(slot->owed, log->dirty_bitmap, words_of(slot->pages));
    if (slot)
        give_back(slot, log->dirty_bitmap);
    pthread_mutex_unlock(&vm.lock);
    errno = error;
    return result;
}

/* The slot of a CLEAR, if that is sound and the slot has bits that were returned. The argument is
 * not read in a VM that has none: it can be what has no address. */
static struct slot *slot_with_returned(const struct kvm_clear_dirty_log *log) {
    bool has_any = false;
    for (uint32_t i = 0; i < vm.slot_count; i++)
        has_any |= vm.slots[i].returned != NULL;
    struct slot *slot = has_any ? slot_of(log->slot) : NULL;
    bool is_sound = slot && slot->returned && log->first_page % WORD_BITS == 0 &&
                    log->first_page < slot->pages &&
                    log->num_pages <= slot->pages - log->first_page;
    return is_sound ? slot : NULL;
}

/* Make the VMM's call without the pages that were returned; *left, which is malloc's, has the rest.
 * Without memory for that: with them. */
static int clear_left(int vm_fd, unsigned long request, struct kvm_clear_dirty_log *log,
                      uint64_t **left) {
    struct slot *slot = vm_fd == vm.fd ? slot_with_returned(log) : NULL;
    if (!slot || !(*left = new_bitmap(log->num_pages, 0)))
        return tb_real_ioctl(vm_fd, request, log);
    const uint64_t *returned = slot->returned + log->first_page / WORD_BITS;
    const uint64_t *wanted = log->dirty_bitmap;
    for (uint64_t i = 0; i < words_of(log->num_pages); i++)
        (*left)[i] = wanted[i] & ~returned[i];
    struct kvm_clear_dirty_log own = *log;
    own.dirty_bitmap = *left;
    return tb_real_ioctl(vm_fd, request, &own);
}

int tb_clear_dirty_log(int vm_fd, unsigned long request, void *argument) {
    const struct kvm_clear_dirty_log *log = argument;
    uint64_t *left = NULL;
    pthread_mutex_lock(&vm.lock);
    int result = clear_left(vm_fd, request, argument, &left);
    int error = errno;
    struct slot *slot = result == 0 && vm_fd == vm.fd ? slot_of(log->slot) : NULL;
    if (slot && slot->owed && log->first_page < slot->pages) {
        uint64_t pages = slot->pages - log->first_page;
        if (pages > log->num_pages)
            pages = log->num_pages;
        /* KVM demands a first page that is a multiple of 64. */
        or_words(slot->owed + log->first_page / WORD_BITS, left ? left : log->dirty_bitmap,
                 words_of(pages));
    }
    pthread_mutex_unlock(&vm.lock);
    free(left);
    errno = error;
    return result;
}

static void note_tags_of_vmm(uint64_t gpa, uint64_t copied) {
    uint64_t page = tb_page_bytes();
    for (uint32_t i = 0; i < vm.slot_count; i++) {
        struct slot *slot = &vm.slots[i];
        for (uint64_t done = 0; slot->owed && done <= copied; done += page)
            if (gpa + done - slot->gpa < slot->size_bytes)
                set_bit(slot->owed, (gpa + done - slot->gpa) / page);
    }
}

/* KVM marks no page for tags that the VMM writes: such a page is owed. That counts for one more
 * than KVM says it has copied, which may be one that it has copied in part. If it says EFAULT, that
 * is so of the first page, and the argument is not read: it can be what has no address. */
int tb_copy_tags_of_vmm(int vm_fd, unsigned long request, void *argument) {
    const struct kvm_arm_copy_mte_tags *copy = argument;
    pthread_mutex_lock(&vm.lock);
    int result = tb_real_ioctl(vm_fd, request, argument);
    int error = errno;
    if (vm_fd == vm.fd && result > 0 && !(copy->flags & KVM_ARM_TAGS_FROM_GUEST))
        note_tags_of_vmm(copy->guest_ipa, (uint64_t)result);
    for (uint32_t i = 0; vm_fd == vm.fd && result < 0 && error == EFAULT && i < vm.slot_count; i++)
        owe_all(&vm.slots[i]);
    pthread_mutex_unlock(&vm.lock);
    errno = error;
    return result;
}

/* Note bits that are cleared, or about to be, and that the VMM has not seen: the VMM gets them with
 * its next GET. */
static void steal(struct slot *slot, const uint64_t *bitmap) {
    or_words(slot->stolen, bitmap, words_of(slot->pages));
    or_words(slot->owed, bitmap, words_of(slot->pages)); /* they are protected from then on */
}

/* Make room for bits that are stolen; false without memory. */
static bool can_steal(struct slot *slot) {
    if (!slot->returned)
        slot->returned = new_bitmap(slot->pages, 0);
    if (slot->returned && !slot->stolen)
        slot->stolen = new_bitmap(slot->pages, 0);
    return slot->stolen != NULL;
}

static int clear_log(const struct slot *slot, uint64_t *bitmap) {
    struct kvm_clear_dirty_log log = {
        .slot = slot->id, .num_pages = (uint32_t)slot->pages, .dirty_bitmap = bitmap};
    return tb_real_ioctl(vm.fd, KVM_CLEAR_DIRTY_LOG, &log) < 0 ? -errno : 0;
}

/* Fill `bitmap` with the pages that can change unseen; none if `protects` has ended that. */
static int read_unprotected(struct slot *slot, bool protects, uint64_t *bitmap) {
    uint64_t words = words_of(slot->pages);
    if (!(slot->flags & KVM_MEM_LOG_DIRTY_PAGES)) {
        memset(bitmap, 0xff, words * sizeof(*bitmap));
        return 0;
    }
    bool is_manual = vm.flags & TB_MANUAL_PROTECT, steals = protects || !is_manual;
    /* First the memory to return them: else the VMM would lose bits. */
    if (steals && !can_steal(slot))
        return -ENOMEM;
    struct kvm_dirty_log log = {.slot = slot->id, .dirty_bitmap = bitmap};
    if (tb_real_ioctl(vm.fd, KVM_GET_DIRTY_LOG, &log) < 0)
        return -errno;
    if (!steals)
        return 0;
    steal(slot, bitmap);
    int status = is_manual ? clear_log(slot, bitmap) : 0;
    memset(bitmap, 0, words * sizeof(*bitmap));
    return status;
}

/* --- what the service asks --- */

int tb_start_log(void) {
    pthread_mutex_lock(&vm.lock);
    int status = vm.fd < 0 ? -ENODEV : 0;
    for (uint32_t i = 0; i < vm.slot_count && status == 0; i++) {
        struct slot *slot = &vm.slots[i];
        if (!slot->owed && !(slot->owed = new_bitmap(slot->pages, 0xff)))
            status = -ENOMEM;
        owe_all(slot);
    }
    vm.is_logging = status == 0;
    pthread_mutex_unlock(&vm.lock);
    return status;
}

void tb_stop_log(void) {
    pthread_mutex_lock(&vm.lock);
    for (uint32_t i = 0; i < vm.slot_count; i++) {
        free(vm.slots[i].owed);
        vm.slots[i].owed = NULL;
    }
    vm.is_logging = false;
    pthread_mutex_unlock(&vm.lock);
}

bool tb_is_logging(void) {
    pthread_mutex_lock(&vm.lock);
    bool is_logging = vm.is_logging;
    pthread_mutex_unlock(&vm.lock);
    return is_logging;
}

static bool is_in_slot(const struct slot *slot, const struct tb_request *request) {
    return slot && request->first_page <= slot->pages &&
           request->page_count <= slot->pages - request->first_page;
}

static int harvest(struct slot *slot, uint32_t kind, uint64_t *bitmap) {
    uint64_t words = words_of(slot->pages);
    bool is_final = kind == TB_FINAL;
    int status = read_unprotected(slot, kind == TB_PROTECTING, bitmap);
    if (status)
        return status;
    for (uint64_t i = 0; i < words; i++) {
        uint64_t owed = slot->owed[i], unprotected = bitmap[i];
        bitmap[i] = is_final ? owed | unprotected : owed & ~unprotected;
        slot->owed[i] = is_final ? 0 : owed & unprotected;
    }
    return 0;
}

static void keep_populated(const struct slot *slot, const struct tb_request *request,
                           uint64_t *bitmap) {
    uint64_t hva = slot->hva + request->first_page * tb_page_bytes();
    tb_keep_populated(hva, request->page_count, slot->is_shared, bitmap);
}

/* A harvest is of a whole slot. What is not populated is not owed: its tags are zero, and
 * the guest's first use of it is a write that KVM marks. */
int tb_harvest(const struct tb_request *request, uint64_t *bitmap) {
    int status = -ENOENT;
    pthread_mutex_lock(&vm.lock);
    struct slot *slot = slot_of(request->slot), copy = slot ? *slot : (struct slot){0};
    if (slot && (request->first_page || request->page_count != slot->pages))
        status = -ERANGE;
    else if (slot && (!slot->owed || request->argument > TB_PROTECTING))
        status = -EINVAL;
    else if (slot)
        status = harvest(slot, request->argument, bitmap);
    pthread_mutex_unlock(&vm.lock);
    if (status == 0)
        keep_populated(&copy, request, bitmap);
    return status;
}

int tb_populated(const struct tb_request *request, uint64_t *bitmap) {
    memset(bitmap, 0xff, words_of(request->page_count) * sizeof(*bitmap));
    pthread_mutex_lock(&vm.lock);
    struct slot *slot = slot_of(request->slot), copy = slot ? *slot : (struct slot){0};
    bool is_sound = is_in_slot(slot, request);
    pthread_mutex_unlock(&vm.lock);
    if (!is_sound)
        return slot ? -ERANGE : -ENOENT;
    keep_populated(&copy, request, bitmap);
    return 0;
}

int tb_locate(const struct tb_request *request, struct tb_place *place) {
    pthread_mutex_lock(&vm.lock);
    struct slot *slot = slot_of(request->slot);
    int status = is_in_slot(slot, request) ? 0 : slot ? -ERANGE : -ENOENT;
    if (status == 0) {
        uint64_t offset = request->first_page * tb_page_bytes();
        *place = (struct tb_place){vm.fd, slot->gpa + offset, (const void *)(slot->hva + offset)};
    }
    pthread_mutex_unlock(&vm.lock);
    return status;
}

int tb_vcpu_fd(uint32_t number) {
    pthread_mutex_lock(&vm.lock);
    bool is_known = number < vm.vcpu_count && number < TB_MAX_VCPUS;
    int fd = is_known ? vm.vcpu_fds[number] : -1;
    pthread_mutex_unlock(&vm.lock);
    return fd;
}

void tb_read_state(struct tb_state *state) {
    pthread_mutex_lock(&vm.lock);
    *state = (struct tb_state){
        .version = TB_VERSION,
        .flags = vm.flags,
        .page_bytes = tb_page_bytes(),
        .slot_count = vm.slot_count,
        .vcpu_count = vm.vcpu_count,
        .generation = vm.generation,
    };
    for (uint32_t i = 0; i < vm.slot_count; i++)
        if (vm.slots[i].flags & KVM_MEM_LOG_DIRTY_PAGES)
            state->flags |= TB_LOGGING;
    pthread_mutex_unlock(&vm.lock);
    tb_read_vcpus(state);
}

uint32_t tb_read_slots(struct tb_slot_entry *entries) {
    pthread_mutex_lock(&vm.lock);
    uint32_t count = vm.slot_count;
    for (uint32_t i = 0; i < count; i++) {
        const struct slot *slot = &vm.slots[i];
        uint32_t flags = (slot->flags & KVM_MEM_READONLY ? TB_SLOT_READ_ONLY : 0) |
                         (slot->flags & KVM_MEM_LOG_DIRTY_PAGES ? TB_SLOT_LOGGED : 0) |
                         (slot->is_shared ? TB_SLOT_SHARED : 0);
        entries[i] = (struct tb_slot_entry){slot->id, flags, slot->gpa, slot->size_bytes};
    }
    pthread_mutex_unlock(&vm.lock);
    return count;
}
