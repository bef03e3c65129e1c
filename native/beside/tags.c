/* Tags in bulk. KVM has one tag per byte; everything outside this file has two, packed. */
#include "beside.h"
#include "bitmaps.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>

#define TAGS_AT_ONCE 65536 /* 1 MiB of guest RAM per ioctl */

uint64_t tb_next_run(const uint64_t *bitmap, uint64_t pages, uint64_t most, uint64_t *first) {
    uint64_t at = *first;
    while (at < pages && !has_bit(bitmap, at))
        at += at % WORD_BITS == 0 && !bitmap[at / WORD_BITS] ? WORD_BITS : 1;
    if (at > pages)
        at = pages;
    *first = at;
    while (at < pages && at - *first < most && has_bit(bitmap, at))
        at++;
    return at - *first;
}

/* Copy the tags of all of [gpa, +size): KVM stops early at the end of a mapping. */
static int copy(int vm_fd, uint64_t gpa, uint64_t size, uint8_t *tags, uint64_t flags) {
    while (size) {
        struct kvm_arm_copy_mte_tags request = {
            .guest_ipa = gpa, .length = size, .addr = tags, .flags = flags};
        int done = tb_real_ioctl(vm_fd, KVM_ARM_MTE_COPY_TAGS, &request);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? -errno : -EIO;
        gpa += (uint64_t)done;
        size -= (uint64_t)done;
        tags += done / TB_GRANULE_BYTES;
    }
    return 0;
}

static void pack(const uint8_t *tags, uint64_t count, uint8_t *packed) {
    for (uint64_t i = 0; i < count; i++)
        packed[i] = (uint8_t)((tags[2 * i] & 15) | tags[2 * i + 1] << 4);
}

static void unpack(const uint8_t *packed, uint64_t count, uint8_t *tags) {
    for (uint64_t i = 0; i < count; i++) {
        tags[2 * i] = packed[i] & 15;
        tags[2 * i + 1] = packed[i] >> 4;
    }
}

int tb_read_tags(int vm_fd, uint64_t gpa, uint64_t pages, const uint64_t *bitmap, uint8_t *packed) {
    static uint8_t tags[TAGS_AT_ONCE]; /* the service has one thread */
    uint64_t page = tb_page_bytes(), first = 0, run;
    while ((run = tb_next_run(bitmap, pages, TAGS_AT_ONCE * TB_GRANULE_BYTES / page, &first))) {
        uint64_t packed_bytes = run * page / TB_GRANULE_BYTES / 2;
        int status = copy(vm_fd, gpa + first * page, run * page, tags, KVM_ARM_TAGS_FROM_GUEST);
        if (status)
            return status;
        pack(tags, packed_bytes, packed);
        packed += packed_bytes;
        first += run;
    }
    return 0;
}

int tb_write_tags(int vm_fd, uint64_t gpa, uint64_t pages, const uint64_t *bitmap,
                  const uint8_t *packed) {
    static uint8_t tags[TAGS_AT_ONCE];
    uint64_t page = tb_page_bytes(), first = 0, run;
    while ((run = tb_next_run(bitmap, pages, TAGS_AT_ONCE * TB_GRANULE_BYTES / page, &first))) {
        uint64_t packed_bytes = run * page / TB_GRANULE_BYTES / 2;
        unpack(packed, packed_bytes, tags);
        int status = copy(vm_fd, gpa + first * page, run * page, tags, KVM_ARM_TAGS_TO_GUEST);
        if (status)
            return status;
        packed += packed_bytes;
        first += run;
    }
    return 0;
}
