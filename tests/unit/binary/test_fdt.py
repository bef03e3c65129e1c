"""Flattened device trees: what is written is what a strict reader finds, and nothing else is."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagalong.binary.fdt import FdtNode, cells, texts, wide, write_fdt
from tests.support.fdt_reader import ReadNode, read_fdt

NAMES = st.text(string.ascii_letters + string.digits + ",._+-#@", min_size=1, max_size=30)
NODES = st.recursive(
    st.builds(FdtNode, st.dictionaries(NAMES, st.binary(max_size=40), max_size=4)),
    lambda children: st.builds(
        FdtNode,
        st.dictionaries(NAMES, st.binary(max_size=40), max_size=4),
        st.dictionaries(NAMES, children, max_size=3),
    ),
    max_leaves=10,
)


def as_read(node: FdtNode) -> ReadNode:
    children = {name: as_read(child) for name, child in node.children.items()}
    return ReadNode(dict(node.properties), children)


@given(NODES)
def test_write_fdt_any_tree_is_read_back_in_order(root: FdtNode) -> None:
    read = read_fdt(write_fdt(root))

    assert read == as_read(root)
    assert list(read.properties) == list(root.properties)
    assert list(read.children) == list(root.children)


def test_write_fdt_smallest_tree_has_these_bytes() -> None:
    blob = write_fdt(FdtNode({"a": b"\1"}))

    assert blob.hex() == (
        "d00dfeed" "0000005a" "00000038" "00000058" "00000028" "00000011" "00000010" "00000000"
        "00000002" "00000020"  # sizes of strings and structure
        "0000000000000000" "0000000000000000"  # no reservation
        "00000001" "00000000"  # the root begins
        "00000003" "00000001" "00000000" "01000000"
        "00000002" "00000009"
        "6100"
    )  # fmt: skip


def test_write_fdt_property_names_are_stored_once() -> None:
    child = FdtNode({"compatible": b"x"})

    blob = write_fdt(FdtNode({"compatible": b"y"}, {"one": child, "two": child}))

    assert blob.count(b"compatible\0") == 1


def test_read_fdt_of_every_shorter_tree_is_refused() -> None:
    blob = write_fdt(FdtNode({"a": b"\1"}, {"b": FdtNode({"cd": b"12345"})}))

    for size in range(len(blob)):
        with pytest.raises(ValueError):  # noqa: PT011 (any of its reasons)
            read_fdt(blob[:size])


def test_values_are_big_endian_and_terminated() -> None:
    assert cells(1, 0x89ABCDEF).hex() == "0000000189abcdef"
    assert wide(0x1_0000_0002).hex() == "0000000100000002"
    assert texts("a", "bc") == b"a\0bc\0"


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_cells_value_that_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="does not fit into 4 bytes of a device tree"):
        cells(value)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_wide_value_that_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="does not fit into 8 bytes of a device tree"):
        wide(value)


def test_names_and_strings_with_nul_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be a name in a device tree"):
        write_fdt(FdtNode({"a\0b": b""}))
    with pytest.raises(ValueError, match="cannot be a name in a device tree"):
        write_fdt(FdtNode({}, {"ä": FdtNode()}))
    with pytest.raises(ValueError, match="has a NUL"):
        texts("a\0b")
