/* The VM's dirty logs: which tags the destination lacks.
 *
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
#include "bitmaps.h"
#include "vm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

/* Add the stolen bits to what KVM's log has. */
static void give_back(struct tb_slot *slot, uint64_t *bitmap) {
    for (uint64_t i = 0; slot->stolen && i < words_of(slot->pages); i++) {
        slot->returned[i] = slot->stolen[i] & ~bitmap[i];
        bitmap[i] |= slot->stolen[i];
        slot->stolen[i] = 0;
    }
}

int tb_get_dirty_log(int vm_fd, unsigned long request, void *argument) {
    const struct kvm_dirty_log *log = argument;
    pthread_mutex_lock(&tb_vm.lock);
    int result = tb_real_ioctl(vm_fd, request, argument);
    int error = errno;
    struct tb_slot *slot = result == 0 && vm_fd == tb_vm.fd ? tb_slot_of(log->slot) : NULL;
    if (slot && slot->owed && !(tb_vm.flags & TB_MANUAL_PROTECT))
        or_words(slot->owed, log->dirty_bitmap, words_of(slot->pages));
    if (slot)
        give_back(slot, log->dirty_bitmap);
    pthread_mutex_unlock(&tb_vm.lock);
    errno = error;
    return result;
}

/* The slot of a CLEAR, if that is sound and the slot has bits that were returned. The argument is
 * not read in a VM that has none: it can be what has no address. */
static struct tb_slot *slot_with_returned(const struct kvm_clear_dirty_log *log) {
    bool has_any = false;
    for (uint32_t i = 0; i < tb_vm.slot_count; i++)
        has_any |= tb_vm.slots[i].returned != NULL;
    struct tb_slot *slot = has_any ? tb_slot_of(log->slot) : NULL;
    bool is_sound = slot && slot->returned && log->first_page % WORD_BITS == 0 &&
                    log->first_page < slot->pages &&
                    log->num_pages <= slot->pages - log->first_page;
    return is_sound ? slot : NULL;
}

/* Make the VMM's call without the pages that were returned; *left, which is malloc's, has the rest.
 * Without memory for that: with them. */
static int clear_left(int vm_fd, unsigned long request, struct kvm_clear_dirty_log *log,
                      uint64_t **left) {
    struct tb_slot *slot = vm_fd == tb_vm.fd ? slot_with_returned(log) : NULL;
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
    pthread_mutex_lock(&tb_vm.lock);
    int result = clear_left(vm_fd, request, argument, &left);
    int error = errno;
    struct tb_slot *slot = result == 0 && vm_fd == tb_vm.fd ? tb_slot_of(log->slot) : NULL;
    if (slot && slot->owed && log->first_page < slot->pages) {
        uint64_t pages = slot->pages - log->first_page;
        if (pages > log->num_pages)
            pages = log->num_pages;
        /* KVM demands a first page that is a multiple of 64. */
        or_words(slot->owed + log->first_page / WORD_BITS, left ? left : log->dirty_bitmap,
                 words_of(pages));
    }
    pthread_mutex_unlock(&tb_vm.lock);
    free(left);
    errno = error;
    return result;
}

static void note_tags_of_vmm(uint64_t gpa, uint64_t copied) {
    uint64_t page = tb_page_bytes();
    for (uint32_t i = 0; i < tb_vm.slot_count; i++) {
        struct tb_slot *slot = &tb_vm.slots[i];
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
    pthread_mutex_lock(&tb_vm.lock);
    int result = tb_real_ioctl(vm_fd, request, argument);
    int error = errno;
    if (vm_fd == tb_vm.fd && result > 0 && !(copy->flags & KVM_ARM_TAGS_FROM_GUEST))
        note_tags_of_vmm(copy->guest_ipa, (uint64_t)result);
    for (uint32_t i = 0; vm_fd == tb_vm.fd && result < 0 && error == EFAULT && i < tb_vm.slot_count; i++)
        tb_owe_all(&tb_vm.slots[i]);
    pthread_mutex_unlock(&tb_vm.lock);
    errno = error;
    return result;
}

/* Note bits that are cleared, or about to be, and that the VMM has not seen: the VMM gets them with
 * its next GET. */
static void steal(struct tb_slot *slot, const uint64_t *bitmap) {
    or_words(slot->stolen, bitmap, words_of(slot->pages));
    or_words(slot->owed, bitmap, words_of(slot->pages)); /* they are protected from then on */
}

/* Make room for bits that are stolen; false without memory. */
static bool can_steal(struct tb_slot *slot) {
    if (!slot->returned)
        slot->returned = new_bitmap(slot->pages, 0);
    if (slot->returned && !slot->stolen)
        slot->stolen = new_bitmap(slot->pages, 0);
    return slot->stolen != NULL;
}

static int clear_log(const struct tb_slot *slot, uint64_t *bitmap) {
    struct kvm_clear_dirty_log log = {
        .slot = slot->id, .num_pages = (uint32_t)slot->pages, .dirty_bitmap = bitmap};
    return tb_real_ioctl(tb_vm.fd, KVM_CLEAR_DIRTY_LOG, &log) < 0 ? -errno : 0;
}

/* Fill `bitmap` with the pages that can change unseen; none if `protects` has ended that. */
static int read_unprotected(struct tb_slot *slot, bool protects, uint64_t *bitmap) {
    uint64_t words = words_of(slot->pages);
    if (!(slot->flags & KVM_MEM_LOG_DIRTY_PAGES)) {
        memset(bitmap, 0xff, words * sizeof(*bitmap));
        return 0;
    }
    bool is_manual = tb_vm.flags & TB_MANUAL_PROTECT, steals = protects || !is_manual;
    /* First the memory to return them: else the VMM would lose bits. */
    if (steals && !can_steal(slot))
        return -ENOMEM;
    struct kvm_dirty_log log = {.slot = slot->id, .dirty_bitmap = bitmap};
    if (tb_real_ioctl(tb_vm.fd, KVM_GET_DIRTY_LOG, &log) < 0)
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
    pthread_mutex_lock(&tb_vm.lock);
    int status = tb_vm.fd < 0 ? -ENODEV : 0;
    for (uint32_t i = 0; i < tb_vm.slot_count && status == 0; i++) {
        struct tb_slot *slot = &tb_vm.slots[i];
        if (!slot->owed && !(slot->owed = new_bitmap(slot->pages, 0xff)))
            status = -ENOMEM;
        tb_owe_all(slot);
    }
    tb_vm.is_logging = status == 0;
    pthread_mutex_unlock(&tb_vm.lock);
    return status;
}

void tb_stop_log(void) {
    pthread_mutex_lock(&tb_vm.lock);
    for (uint32_t i = 0; i < tb_vm.slot_count; i++) {
        free(tb_vm.slots[i].owed);
        tb_vm.slots[i].owed = NULL;
    }
    tb_vm.is_logging = false;
    pthread_mutex_unlock(&tb_vm.lock);
}

bool tb_is_logging(void) {
    pthread_mutex_lock(&tb_vm.lock);
    bool is_logging = tb_vm.is_logging;
    pthread_mutex_unlock(&tb_vm.lock);
    return is_logging;
}

static int harvest(struct tb_slot *slot, uint32_t kind, uint64_t *bitmap) {
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

/* A harvest is of a whole slot. What is not populated is not owed: its tags are zero, and
 * the guest's first use of it is a write that KVM marks. */
int tb_harvest(const struct tb_request *request, uint64_t *bitmap) {
    int status = -ENOENT;
    pthread_mutex_lock(&tb_vm.lock);
    struct tb_slot *slot = tb_slot_of(request->slot), copy = slot ? *slot : (struct tb_slot){0};
    if (slot && (request->first_page || request->page_count != slot->pages))
        status = -ERANGE;
    else if (slot && (!slot->owed || request->argument > TB_PROTECTING))
        status = -EINVAL;
    else if (slot)
        status = harvest(slot, request->argument, bitmap);
    pthread_mutex_unlock(&tb_vm.lock);
    if (status == 0)
        tb_keep_slot(&copy, request, bitmap);
    return status;
}
