/* Cache maintenance with tags: never a fault for a tag, and nothing is lost.
 *
 * The operations that only invalidate come after a clean of the same data, as they must
 * where caches are real; a hypervisor turns them into clean and invalidate anyway. */
#include "selftest.h"

#define TAG 9
#define WRONG_TAG 3
#define BYTES 256

struct maintenance {
    void (*operation)(u64 operand);
};

static void by_address(const void *argument) {
    const struct maintenance *maintenance = argument;
    u64 pointer = scratch_pointer(WRONG_TAG);
    set_tags(pointer, BYTES, TAG);
    fill_pattern(pointer, BYTES);
    dc_cigdvac(pointer);
    barrier_all();
    trap_arm(0);
    maintenance->operation(pointer);
    maintenance->operation(pointer + 7);
    barrier_all();
    expect_no_trap();
    expect_tags("tag", pointer, BYTES, TAG);
    expect_pattern("data", pointer, BYTES);
}

/* Set 0, way 0 of level 1. */
static void by_set_and_way(const void *argument) {
    const struct maintenance *maintenance = argument;
    u64 pointer = scratch_pointer(WRONG_TAG);
    set_tags(pointer, BYTES, TAG);
    fill_pattern(pointer, BYTES);
    dc_cigdsw(0);
    barrier_all();
    trap_arm(0);
    maintenance->operation(0);
    barrier_all();
    expect_no_trap();
    expect_tags("tag", pointer, BYTES, TAG);
    expect_pattern("data", pointer, BYTES);
}

#define ADDRESS(name) {#name, by_address, &(const struct maintenance){name}}
#define SET_WAY(name) {#name, by_set_and_way, &(const struct maintenance){name}}

static const struct check maintenance_checks[] = {
    ADDRESS(dc_igvac),  ADDRESS(dc_igdvac),  ADDRESS(dc_cgvac),  ADDRESS(dc_cgdvac),
    ADDRESS(dc_cgvap),  ADDRESS(dc_cgdvap),  ADDRESS(dc_cigvac), ADDRESS(dc_cigdvac),
    ADDRESS(dc_cvac),   SET_WAY(dc_igsw),    SET_WAY(dc_igdsw),  SET_WAY(dc_cgsw),
    SET_WAY(dc_cgdsw),  SET_WAY(dc_cigsw),   SET_WAY(dc_cigdsw),
};

TOPIC(maintenance);
