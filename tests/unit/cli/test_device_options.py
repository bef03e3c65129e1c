"""What --disk, --net and --rng mean, and what is refused."""

from pathlib import Path

import pytest

from tagalong.cli.device_options import virtio_backings, virtio_consoles
from tagalong.cli.run import run_options
from tagalong.devices import DiskBacking, NetworkBacking
from tagalong.errors import UsageError
from tagalong.machine import Clock


def test_devices_are_named_by_their_order() -> None:
    found = virtio_backings(
        ["root.img", "data,,1.img,readonly,serial=s1", "x.img,name=swap"],
        ["user", "unix:/run/n,,1.sock,mac=52:54:00:00:00:01", "tap:t0,name=lan"],
        has_rng=True,
        is_new=True,
    )

    assert found.disks == {
        "disk0": DiskBacking(Path("root.img")),
        "disk1": DiskBacking(Path("data,1.img"), read_only=True, serial="s1"),
        "swap": DiskBacking(Path("x.img")),
    }
    assert found.networks == {
        "net0": NetworkBacking("user"),
        "net1": NetworkBacking("unix", "/run/n,1.sock", bytes.fromhex("525400000001")),
        "lan": NetworkBacking("tap", "t0"),
    }
    assert found.entropy == ["rng0"]


def test_values_that_make_no_sense_are_refused() -> None:
    cases: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {
        (("",), ()): "--disk '' is empty; see tagalong run --help",
        ((",readonly",), ()): "--disk ',readonly' is empty",
        (("a,rw",), ()): "--disk a,rw: 'rw' is not one of name=, readonly, serial=",
        (("a,readonly=on",), ()): "'readonly=on' is not one of",
        (("a,serial",), ()): "'serial' is not one of",
        (("a,name=",), ()): "--disk a,name=: '' is no name of a device",
        (("a,name=x", "b,name=x"), ()): "two devices are called 'x'",
        (("a", "b,name=disk0"), ()): "two devices are called 'disk0'",
        ((), ("bridge:br0",)): "--net bridge:br0: no such network; write user, unix:PATH or tap:",
        ((), ("users",)): "--net users: no such network",
        ((), ("tap:",)): "--net tap:: write tap: and what to connect to behind it",
        ((), ("unix",)): "--net unix: write unix: and what to connect to behind it",
        ((), ("user,mac=1:2",)): "'1:2' is no address of a network card",
        ((), ("user,mac=01:00:00:00:00:00",)): "is no address of a network card",
        ((), ("user,mac=52-54-00-00-00-01",)): "is no address of a network card",
    }

    for (disks, networks), message in cases.items():
        with pytest.raises(UsageError) as caught:
            virtio_backings(disks, networks, has_rng=False, is_new=True)
        assert message in str(caught.value)


def test_what_the_guest_sees_is_for_new_vms_only() -> None:
    for disks, networks in ((["a,serial=1"], []), ([], ["user,mac=52:54:00:00:00:01"])):
        with pytest.raises(UsageError, match="= is for a new VM: one that exists has its own"):
            virtio_backings(disks, networks, has_rng=False, is_new=False)
    with pytest.raises(UsageError, match="--rng is for a new VM"):
        run_options({"incoming": "tcp:127.0.0.1:0", "has_rng": True})


def test_options_of_the_command_reach_the_vm() -> None:
    options = run_options(
        {"incoming": "tcp:127.0.0.1:0", "disks": ("a.img",), "networks": ("user",)}
    )

    assert list(options.devices.disks) == ["disk0"]
    assert list(options.devices.networks) == ["net0"]


def test_clock_is_the_machine_s_own_unless_it_is_given() -> None:
    assert run_options({"guest": "churn"}).clock is None
    assert run_options({"guest": "churn", "clock": "host"}).clock is Clock.HOST


def test_consoles_are_named_by_their_order() -> None:
    assert virtio_consoles(["unix:/run/a,,b.sock", "pty,name=log", "null"]) == {
        "console0": "unix:/run/a,b.sock",
        "log": "pty",
        "console2": "null",
    }
    with pytest.raises(UsageError, match="'size=80' is not one of name="):
        virtio_consoles(["pty,size=80"])


@pytest.mark.parametrize(
    ("console", "virtio", "uart"),
    [
        (None, [], "stdout"),
        (None, ["pty"], "stdout"),
        (None, ["stdio"], "null"),
        ("pty", ["stdout"], "pty"),
        ("null", [], "null"),
    ],
)
def test_uart_gives_way_to_a_virtio_console_at_standard_output(
    console: str | None, virtio: list[str], uart: str
) -> None:
    options = run_options({"guest": "churn", "console": console, "virtio_consoles": virtio})

    assert options.uart_console == uart


@pytest.mark.parametrize(
    ("console", "virtio"),
    [("stdout", ["stdio"]), (None, ["stdout", "stdio"]), ("stdio", ["stdio"])],
)
def test_two_consoles_at_standard_output_are_refused(
    console: str | None, virtio: list[str]
) -> None:
    with pytest.raises(UsageError, match="2 consoles are at standard output"):
        run_options({"guest": "churn", "console": console, "virtio_consoles": virtio})
