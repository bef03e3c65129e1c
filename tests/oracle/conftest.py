"""What the oracle tests share: QEMU's user mode, and our machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fetch_qemu import QemuMissingError, find_qemu
from tests.support.oracle_soft import SoftSide


@pytest.fixture(scope="session")
def qemu() -> Path:
    try:
        return find_qemu()
    except QemuMissingError as error:
        pytest.skip(f"missing qemu-aarch64 (user mode, 7.2 or newer): {error}")


@pytest.fixture(scope="module")
def soft() -> Iterator[SoftSide]:
    side = SoftSide()
    yield side
    side.close()
