/* What the headers of KVM have on arm64 only. */
#include <linux/types.h>

#include <linux/kvm.h>

#ifndef KVM_ARM_TAGS_FROM_GUEST
struct kvm_arm_copy_mte_tags {
    __u64 guest_ipa, length;
    void *addr;
    __u64 flags, reserved[2];
};
#define KVM_ARM_TAGS_TO_GUEST 0
#define KVM_ARM_TAGS_FROM_GUEST 1
#endif
