"""The self-check can fail: Debian 12's own QEMU 7.2 stores tags wrongly, and is rejected."""

from pathlib import Path

import pytest

from tagalong.errors import SelfCheckError
from tagalong.lab import DEFAULT_KERNEL, SilentObserver, set_up
from tagalong.lab.apt import Apt, host_architecture, system_mirror
from tagalong.lab.boot import LabImage
from tagalong.lab.cache import Cache
from tagalong.lab.deb import unpack
from tagalong.lab.packages import QEMU_PACKAGES, STABLE
from tagalong.lab.qemu import Qemu, ask_version, fetched_command
from tagalong.lab.selfcheck import check_tags
from tests.support.lab_command import lab
from tests.support.lab_session import request


@pytest.fixture(scope="module")
def old_qemu() -> Qemu:
    """Fetch QEMU 7.2 from the stable suite, into the lab's cache."""
    wanted = request(DEFAULT_KERNEL)
    cache = Cache(wanted.folder)

    def make(folder: Path) -> dict[str, object]:
        mirror = wanted.mirror or system_mirror()
        apt = Apt(cache.folder("apt") / "stable", architecture=host_architecture(), mirror=mirror)
        apt.update((STABLE,), SilentObserver())
        for deb in apt.download(QEMU_PACKAGES, STABLE, SilentObserver()):
            unpack(deb, folder)
        apt.clean()
        return {}

    folder = cache.piece("qemu-of-stable", {"packages": list(QEMU_PACKAGES)}, make).folder
    command = fetched_command(folder)
    return Qemu(command, ask_version(command), str(folder))


@pytest.fixture
def program(old_qemu: Qemu, tmp_path: Path) -> Path:
    """Return a program that is the old QEMU, for --qemu."""
    path = tmp_path / "qemu-system-aarch64"
    words = " ".join(f"'{word}'" for word in old_qemu.command)
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
    return path


def test_old_qemu_is_refused_by_its_version_with_the_reason(old_qemu: Qemu, program: Path) -> None:
    run = lab("run", "--qemu", str(program), "--", "true")

    assert run.returncode == 64
    assert run.stderr.decode() == (
        f"tagalong: error: cannot use QEMU {old_qemu.version}: before 8.0, system mode stores one "
        "pair of tags for a whole page of 0x1000 bytes, not a tag for each granule of 0x10 bytes; "
        "give QEMU 8.0 or newer\n"
    )


def test_old_qemu_fails_the_check_of_256_granules(old_qemu: Qemu) -> None:
    good = set_up(request(DEFAULT_KERNEL), SilentObserver()).system
    userland_and_modules = good.archives[:2]

    with pytest.raises(SelfCheckError) as caught:
        check_tags(LabImage(old_qemu, good.kernel, userland_and_modules))

    said = str(caught.value)
    assert said.startswith(f"cannot use QEMU {old_qemu.version}: it stores allocation tags wrongly")
    assert "of the 256 granules of a page read back a tag other than the one written" in said
