/* What the library says of itself, so that a loader can refuse one that does not fit. */
#include "tagalong.h"

#include <string.h>

uint32_t ta_abi_version(void)
{
    return TA_ABI_VERSION;
}

#define SIZE_OF(name) {#name, sizeof(struct name)}

static const struct {
    const char *name;
    size_t bytes;
} structs[] = {
    SIZE_OF(ta_tag_run), SIZE_OF(ta_segment),    SIZE_OF(ta_page_cursor), SIZE_OF(ta_page_stream),
    SIZE_OF(ta_file_write), SIZE_OF(ta_exit), SIZE_OF(ta_ram_range), SIZE_OF(ta_buffer),
    SIZE_OF(ta_chain), SIZE_OF(ta_virtq), SIZE_OF(ta_kvm_exit),
    SIZE_OF(ta_register), SIZE_OF(ta_kvm_answers), SIZE_OF(ta_openssl), SIZE_OF(ta_tls),
    SIZE_OF(ta_digest), SIZE_OF(ta_digest_stretch),
#if defined(__aarch64__)
    SIZE_OF(ta_call),
#endif
};

size_t ta_struct_bytes(const char *name)
{
    for (size_t i = 0; i < sizeof structs / sizeof structs[0]; i++)
        if (!strcmp(structs[i].name, name))
            return structs[i].bytes;
    return 0;
}
