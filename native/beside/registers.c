/* The registers of one vCPU, for whoever looks at the guest: every one that KVM names.
 *
 * KVM_GET_ONE_REG waits for a vCPU that is in KVM_RUN, perhaps for ever. So none may be: the VMM has
 * stopped its guest, and a hold keeps it so for as long as this takes.
 */
#include "beside.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#define MAX_REGISTERS 4096
#define MAX_REGISTER_BYTES 256

/* The ids of all registers, malloc's; NULL with errno. */
static struct kvm_reg_list *list_of(int vcpu_fd) {
    struct kvm_reg_list head = {.n = 0};
    if (tb_real_ioctl(vcpu_fd, KVM_GET_REG_LIST, &head) < 0 && errno != E2BIG)
        return NULL;
    if (head.n > MAX_REGISTERS) {
        errno = E2BIG;
        return NULL;
    }
    struct kvm_reg_list *list = malloc(sizeof(*list) + head.n * sizeof(list->reg[0]));
    if (!list)
        return NULL;
    list->n = head.n;
    if (tb_real_ioctl(vcpu_fd, KVM_GET_REG_LIST, list) < 0) {
        free(list);
        return NULL;
    }
    return list;
}

static size_t bytes_of(uint64_t id) {
    return (size_t)1 << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);
}

/* Put ids and values behind the head in `reply`; the size of all, or -errno. */
static int64_t read_all(int vcpu_fd, const struct kvm_reg_list *list, uint8_t *reply) {
    struct kvm_mp_state power;
    if (tb_real_ioctl(vcpu_fd, KVM_GET_MP_STATE, &power) < 0)
        return -errno;
    struct tb_registers head = {.mp_state = power.mp_state, .count = (uint32_t)list->n};
    memcpy(reply, &head, sizeof(head));
    size_t at = sizeof(head);
    for (uint64_t i = 0; i < list->n; i++) {
        uint8_t value[MAX_REGISTER_BYTES];
        size_t size = bytes_of(list->reg[i]);
        if (size > sizeof(value))
            return -E2BIG;
        struct kvm_one_reg request = {.id = list->reg[i], .addr = (uintptr_t)value};
        if (tb_real_ioctl(vcpu_fd, KVM_GET_ONE_REG, &request) < 0)
            return -errno;
        memcpy(reply + at, &list->reg[i], sizeof(list->reg[i]));
        memcpy(reply + at + sizeof(list->reg[i]), value, size);
        at += sizeof(list->reg[i]) + size;
    }
    return (int64_t)at;
}

int tb_read_registers(int vcpu_fd, uint8_t **reply, size_t *size) {
    if (!tb_hold_for_registers())
        return -EBUSY;
    struct kvm_reg_list *list = list_of(vcpu_fd);
    int64_t status = list ? 0 : -errno;
    if (list) {
        size_t most = sizeof(struct tb_registers);
        for (uint64_t i = 0; i < list->n; i++)
            most += sizeof(list->reg[i]) + bytes_of(list->reg[i]);
        *reply = malloc(most);
        status = *reply ? read_all(vcpu_fd, list, *reply) : -ENOMEM;
    }
    tb_release_for_registers();
    free(list);
    *size = status > 0 ? (size_t)status : 0;
    return status < 0 ? (int)status : 0;
}
