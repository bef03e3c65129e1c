"""Which descriptors fd: means: what was inherited and what was passed, nothing else."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tagalong.errors import HostError, UsageError
from tagalong.migrate.transport.address import FdAddress
from tagalong.migrate.transport.inherited import DescriptorStore


@pytest.fixture
def store() -> DescriptorStore:
    return DescriptorStore()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        if is_open(descriptor):
            os.close(descriptor)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_standard_streams_are_never_taken(store: DescriptorStore) -> None:
    for number, name in enumerate(("standard input", "standard output", "standard error")):
        address = FdAddress(str(number))
        for use in (store.mode, store.duplicate, store.take):
            with pytest.raises(HostError, match=f"^fd:{number}: this is {name} of the process"):
                use(address)
        assert is_open(number)


def test_named_descriptor_is_used_once(store: DescriptorStore, pipe: tuple[int, int]) -> None:
    os.set_inheritable(pipe[0], True)
    store.add("mig", pipe[0])

    assert not os.get_inheritable(pipe[0])
    assert store.take(FdAddress("mig")) == pipe[0]

    with pytest.raises(HostError, match=r"^fd:mig: no descriptor has this name; pass one with"):
        store.take(FdAddress("mig"))


def test_named_descriptor_replaces_and_closes_the_one_before(
    store: DescriptorStore, pipe: tuple[int, int]
) -> None:
    store.add("mig", pipe[0])
    store.add("mig", pipe[1])

    assert not is_open(pipe[0])
    store.close("mig")
    assert not is_open(pipe[1])
    with pytest.raises(UsageError, match=r"^no descriptor is called mig: see getfd$"):
        store.close("mig")


def test_name_that_could_be_a_number_is_refused(
    store: DescriptorStore, pipe: tuple[int, int]
) -> None:
    for name in ("7", "", "-", "a b", "a\n", "x" * 65):
        with pytest.raises(UsageError, match="cannot be a descriptor's name"):
            store.add(name, pipe[0])
    assert is_open(pipe[0])


# What a process that was given descriptor 7 and opens more of its own may use; `said` collects.
_CHILD = """
import os, socket
from tagalong.errors import HostError
from tagalong.migrate.transport.address import FdAddress
from tagalong.migrate.transport.inherited import DESCRIPTORS

said = []
DESCRIPTORS.take_over_inherited()
own = [os.memfd_create("ram"), socket.socketpair()[0].detach()]
for number in (0, 1, 2, *own):
    try:
        DESCRIPTORS.take(FdAddress(str(number)))
    except HostError:
        said.append(f"{number} refused")
try:
    os.fstat(7)
except OSError:
    said.append("7 has moved")
os.dup2(own[0], 7, inheritable=False)
descriptor = DESCRIPTORS.take(FdAddress("7"))
said.append(f"inheritable {os.get_inheritable(descriptor)}")
os.write(descriptor, b"to the pipe")
try:
    DESCRIPTORS.take(FdAddress("7"))
except HostError:
    said.append("7 used")
print(len(own) + 3, *said, sep=";")
"""


def test_process_accepts_what_it_inherited_and_none_of_its_own(pipe: tuple[int, int]) -> None:
    python = sys.executable
    code = f"import os; os.dup2({pipe[1]}, 7); os.execv({python!r}, [{python!r}, '-c', {_CHILD!r}])"

    done = subprocess.run(
        [sys.executable, "-c", code],
        pass_fds=[pipe[1]],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    count, *said = done.stdout.strip().split(";")
    assert [each.split()[-1] for each in said[: int(count)]] == ["refused"] * int(count)
    assert said[int(count) :] == ["7 has moved", "inheritable False", "7 used"]
    assert os.read(pipe[0], 100) == b"to the pipe"
