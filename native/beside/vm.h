/* The one VM of this process, as vm.c keeps it and dirty_log.c reads it. */
#ifndef TAGALONG_BESIDE_VM_H
#define TAGALONG_BESIDE_VM_H

#include "beside.h"

#include <pthread.h>

struct tb_slot {
    uint32_t id;
    uint32_t flags; /* KVM's */
    uint64_t gpa, size_bytes, hva;
    bool is_shared;
    uint64_t pages;
    uint64_t *owed;     /* NULL without a log */
    uint64_t *stolen;   /* NULL unless bits were */
    uint64_t *returned; /* of the VMM's last GET; as `stolen` */
};

struct tb_vm {
    pthread_mutex_t lock;
    int fd; /* -1 until a VM got its first slot */
    uint32_t flags;
    uint32_t vcpu_count;
    int vcpu_fds[TB_MAX_VCPUS];
    uint64_t generation;
    uint32_t slot_count;
    struct tb_slot slots[TB_MAX_SLOTS];
    bool is_logging;
};

extern struct tb_vm tb_vm;

/* All with the lock held. */
struct tb_slot *tb_slot_of(uint32_t id); /* or NULL */
void tb_owe_all(struct tb_slot *slot);

/* Clear the bits of a request's pages that are not there; `slot` may be a copy. */
void tb_keep_slot(const struct tb_slot *slot, const struct tb_request *request, uint64_t *bitmap);

#endif
