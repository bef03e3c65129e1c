"""Copying tags: which requests KVM gets, and what becomes of answers that fall short."""

import contextlib
import ctypes
import errno
from ctypes import Array
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong.kvm.abi import (
    KVM_ARM_TAGS_FROM_GUEST,
    KVM_ARM_TAGS_TO_GUEST,
    KvmIoctl,
    kvm_arm_copy_mte_tags,
)
from tagalong.kvm.descriptor import Argument, IoctlError
from tagalong.kvm.ram import create_region
from tagalong.kvm.tag_access import KvmTagAccess
from tagalong.kvm.tag_port import IoctlPort
from tagalong.kvm.vm_fd import KvmVm
from tagalong.machine import RegionDescription
from tagalong.memory import Gpa, GuestMemory

PAGE = 4096
GRANULE = 16
PAGE_TAGS = PAGE // GRANULE
BASE = 0x4000_0000


class TagsOnly(KvmVm):
    """A VM whose KVM answers KVM_ARM_MTE_COPY_TAGS alone, and stops at each of `edges`."""

    def __init__(self, pages: int, *edges: int) -> None:
        super().__init__(-1)
        self.tags = np.arange(pages * PAGE_TAGS, dtype=np.uint32).astype(np.uint8) & 0xF
        self.requests: list[tuple[int, int]] = []
        self._edges = [*edges, pages * PAGE]

    def ioctl(self, request: KvmIoctl, argument: Argument = 0) -> int:
        assert request is KvmIoctl.KVM_ARM_MTE_COPY_TAGS
        assert isinstance(argument, kvm_arm_copy_mte_tags)
        start = argument.guest_ipa - BASE
        self.requests.append((start, argument.length))
        edge = min((edge for edge in self._edges if edge > start), default=start)
        end = min(start + argument.length, edge)
        count = (end - start) // GRANULE
        theirs = (ctypes.c_uint8 * count).from_address(argument.addr)
        ours = self.tags[start // GRANULE :][:count]
        if argument.flags == KVM_ARM_TAGS_FROM_GUEST:
            theirs[:] = ours.tolist()
        else:
            ours[:] = theirs
        return int(end - start)

    def ioctl_each(self, request: KvmIoctl, arguments: Array[Any]) -> Array[ctypes.c_int32]:
        results = [self.ioctl(request, argument) for argument in arguments]
        return (ctypes.c_int32 * len(arguments))(*results)


def runs(*pages: tuple[int, int]) -> NDArray[np.int64]:
    """Return runs, given as first page and number of pages, as gpa and size in bytes."""
    found = np.array(pages, np.int64).reshape(-1, 2) * PAGE
    found[:, 0] += BASE
    return found


def test_copy_tags_of_no_runs_asks_for_nothing() -> None:
    vm = TagsOnly(4)

    vm.copy_tags_of_runs(runs(), np.empty(0, np.uint8), KVM_ARM_TAGS_FROM_GUEST)

    assert vm.requests == []


def test_copy_tags_of_runs_puts_them_one_after_the_other() -> None:
    vm = TagsOnly(8)
    vm.tags[PAGE_TAGS : 2 * PAGE_TAGS], vm.tags[5 * PAGE_TAGS : 7 * PAGE_TAGS] = 3, 9
    tags = np.empty(3 * PAGE_TAGS, np.uint8)

    vm.copy_tags_of_runs(runs((1, 1), (5, 2)), tags, KVM_ARM_TAGS_FROM_GUEST)

    assert tags.tolist() == [3] * PAGE_TAGS + [9] * 2 * PAGE_TAGS
    assert vm.requests == [(PAGE, PAGE), (5 * PAGE, 2 * PAGE)]


def test_copy_tags_of_runs_to_the_guest_leaves_the_rest() -> None:
    vm = TagsOnly(4)
    wanted = vm.tags.copy()
    wanted[:PAGE_TAGS], wanted[3 * PAGE_TAGS :] = 1, 2

    tags = np.concatenate([wanted[:PAGE_TAGS], wanted[3 * PAGE_TAGS :]])
    vm.copy_tags_of_runs(runs((0, 1), (3, 1)), tags, KVM_ARM_TAGS_TO_GUEST)

    assert np.array_equal(vm.tags, wanted)


def test_copy_tags_of_runs_where_kvm_stops_early_asks_for_the_rest() -> None:
    vm = TagsOnly(8, 2 * PAGE, 6 * PAGE)
    tags = np.empty(6 * PAGE_TAGS, np.uint8)

    vm.copy_tags_of_runs(runs((1, 2), (4, 4)), tags, KVM_ARM_TAGS_FROM_GUEST)

    assert np.array_equal(tags[: 2 * PAGE_TAGS], vm.tags[PAGE_TAGS : 3 * PAGE_TAGS])
    assert np.array_equal(tags[2 * PAGE_TAGS :], vm.tags[4 * PAGE_TAGS :])
    assert vm.requests == [
        (PAGE, 2 * PAGE),
        (4 * PAGE, 4 * PAGE),
        (2 * PAGE, PAGE),
        (6 * PAGE, 2 * PAGE),
    ]


def test_copy_tags_of_runs_where_kvm_gets_no_further_is_efault() -> None:
    vm = TagsOnly(4)

    with pytest.raises(IoctlError, match=r"KVM_ARM_MTE_COPY_TAGS\(guest_ipa=0x40004000") as caught:
        vm.copy_tags_of_runs(
            runs((0, 1), (3, 2)), np.empty(3 * PAGE_TAGS, np.uint8), KVM_ARM_TAGS_FROM_GUEST
        )

    assert caught.value.errno == errno.EFAULT


def test_pages_that_nobody_used_are_zero_and_no_run() -> None:
    vm = TagsOnly(4)
    region = create_region(RegionDescription(Gpa(BASE), 4 * PAGE), PAGE, shared=True)
    with GuestMemory([region]) as memory:
        access = KvmTagAccess(IoctlPort(vm, contextlib.nullcontext), memory)
        pages = np.array([0, 2], np.int64)

        access.write_pages(0, pages, np.zeros((2, PAGE_TAGS // 2), np.uint8))
        rows = access.read_pages(0, pages)

        assert rows.shape == (2, PAGE_TAGS // 2)
        assert not rows.any()
        assert vm.requests == []
        assert region.populated_pages().count() == 0
