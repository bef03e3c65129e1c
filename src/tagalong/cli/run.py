"""`tagalong run`: a VM with a control socket, new, arriving by migration, or restored."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from tagalong import migrate
from tagalong.cli.device_options import (
    console_option,
    disk_option,
    net_option,
    rng_option,
    virtio_backings,
    virtio_consoles,
)
from tagalong.cli.message import announce
from tagalong.cli.options import access_option, machine_option
from tagalong.cli.output import queued_messages
from tagalong.cli.values import FILE, RAM_SIZE, SIZE
from tagalong.errors import UsageError
from tagalong.machine import Clock
from tagalong.migrate import DESCRIPTORS
from tagalong.vmm.launch import run_vm
from tagalong.vmm.options import (
    ArrivingVm,
    ExpectedMachine,
    KernelFiles,
    NewLinux,
    NewVm,
    RestoredVm,
    RunOptions,
    VmOrigin,
)

_Parameters = tuple[click.Parameter, ...]

_EPILOG = """\b
Examples:
  tagalong run --guest churn --guest-args "tag-only=50" --control a.sock
  tagalong run --incoming tcp:0.0.0.0:4444 --control b.sock
  tagalong run --incoming tcp:0.0.0.0:4444 --tls-dir pki --control b.sock
  tagalong run --incoming file:/srv/vm --control b.sock
  tagalong run --restore vm.core --control b.sock
  tagalong run --guest ./mine.elf --control a.sock --paused
  tagalong run --guest selftest
  tagalong run --kernel Image --initrd initrd.cpio --append "console=ttyAMA0"
  tagalong run --kernel Image --initrd initrd.cpio --disk root.img --net user
\b
Exit status: 0 the guest powered off, or the VM was told to quit; 1 the guest
powered off and reported its own failure; 20 to 29 the machine stopped, 25 at
an instruction that it does not implement; 40 to 45 a migration that was
awaited failed; 128+N ended by signal N.
"""


def _parameters(*options: Callable[[Callable[[], None]], Callable[[], None]]) -> _Parameters:
    """Return the options that these decorators add to a command."""

    def command() -> None:
        pass

    for option in reversed(options):
        command = option(command)
    return tuple(click.command(command).params)


COMMON = _parameters(
    machine_option,
    access_option,
    click.option(
        "--ram",
        "ram_bytes",
        type=RAM_SIZE,
        metavar="SIZE",
        help="Guest RAM, as in 64M (the default; 256M for --kernel).",
    ),
    click.option("--vcpus", "vcpu_count", type=click.IntRange(min=1), help="Default: 1."),
    click.option("--control", type=FILE, help="QMP control socket to create."),
    click.option(
        "--console",
        metavar="stdout|stdio|pty|unix:PATH|null",
        help="Where the guest's console is, its UART. Default: stdout, without input; null if a "
        "virtio console is there.",
    ),
    console_option,
    disk_option,
    net_option,
    click.option(
        "--clock",
        type=click.Choice([clock.value for clock in Clock]),
        help="What the guest's time follows: its own instructions, so that the same seed gives the "
        "same run (default of machine soft), or the host's clock (default if the console takes "
        "input; all that kvm has).",
    ),
    click.option(
        "--no-reboot", is_flag=True, help="End where the guest would be reset, and start anew."
    ),
    click.option("--paused", is_flag=True, help="Do not start the guest; tagalong cont does."),
    click.option(
        "--exit-with-parent",
        "parent_pid",
        type=int,
        metavar="PID",
        help="End when the parent process PID ends.",
    ),
)

_NEW = _parameters(
    click.option(
        "--guest",
        metavar="NAME|PATH.elf",
        help="Guest program: churn, paged, retag, selftest, speed, or a file.",
    ),
    click.option("--guest-args", "guest_arguments", metavar='"K=V ..."', help="Its knobs."),
)

_KERNEL = _parameters(
    click.option(
        "--kernel",
        type=FILE,
        metavar="FILE",
        help="Linux for arm64: an Image, plain or packed (gzip, zstd, EFI zboot), or a flat image. "
        "With --incoming or --restore: what the VM starts after a reset.",
    ),
)

_WITH_KERNEL = _parameters(
    click.option("--initrd", type=FILE, metavar="FILE", help="Its initial RAM disk."),
    click.option("--append", "command_line", metavar="TEXT", help="Its command line."),
)

_DUMP_DTB = _parameters(
    click.option(
        "--dump-dtb",
        "dump_dtb",
        type=FILE,
        metavar="FILE",
        help="Write the device tree that the kernel would get to FILE, and end.",
    ),
)

_SEED = _parameters(
    click.option(
        "--seed",
        type=click.IntRange(min=0, max=(1 << 64) - 1),
        help="Same seed, same run. Default: 0.",
    ),
    rng_option,
)

_INCOMING = _parameters(
    click.option(
        "--incoming",
        metavar="URI",
        help="Wait for a migration on tcp:HOST:PORT (port 0: any) or unix:PATH, or take it from "
        "file:PATH, exec:COMMAND or fd:NUMBER.",
    ),
    click.option(
        "--tls-dir",
        "tls_folder",
        type=FILE,
        metavar="FOLDER",
        help="Take it over TLS only, with ca-cert.pem, server-cert.pem and server-key.pem.",
    ),
    click.option(
        "--tls-admit",
        "tls_admitted",
        multiple=True,
        metavar="NAME",
        help="Admit only a source whose certificate has this name; may be given again.",
    ),
    click.option(
        "--prealloc",
        is_flag=True,
        help="Make the memory (--ram) of an arriving VM ready while waiting (machine soft).",
    ),
)

_RESTORE = _parameters(
    click.option(
        "--restore",
        metavar="FILE",
        type=FILE,
        help="Continue from a snapshot. FILE is mapped: it must stay as it is while the VM runs.",
    ),
)

NOT_NEW = _parameters(
    click.option(
        "--allow-cpu-mismatch",
        is_flag=True,
        help="Accept a VM whose CPU identifies itself differently, and list how.",
    ),
    click.option(
        "--max-ram",
        "max_ram_bytes",
        type=SIZE,
        metavar="SIZE",
        help="Refuse an arriving or restored VM with more RAM than this. Default: 64G.",
    ),
)


_NEEDS_KERNEL = "needs --kernel; leave it out, or give a kernel"


def run_process(context: click.Context, options: RunOptions) -> None:
    """Run a VM in this process, which is given to it, and exit with the VM's status."""
    DESCRIPTORS.take_over_inherited()
    with queued_messages():
        status = run_vm(options, announce=announce)
    context.exit(status)


@click.pass_context
def _run(context: click.Context, /, **values: Any) -> None:
    """Run a VM until its guest powers off.

    The guest's console goes to standard output, messages to standard error; with --console stdio
    it takes input, too: Ctrl-A x ends the VM then. After the VM was migrated away, the process
    holds its memory until it is told to quit.
    """
    run_process(context, run_options(values))


command = click.Command(
    "run",
    callback=_run,
    help=_run.__doc__,
    epilog=_EPILOG,
    params=[
        *COMMON,
        *_NEW,
        *_KERNEL,
        *_WITH_KERNEL,
        *_DUMP_DTB,
        *_SEED,
        *_INCOMING,
        *_RESTORE,
        *NOT_NEW,
    ],
)


def run_options(values: Mapping[str, Any]) -> RunOptions:
    """Return what the values of the options ask for; missing ones count as not given.

    Raises UsageError for options that contradict each other.
    """
    given = {name: value for name, value in values.items() if _is_given(value)}
    common = {str(each.name): given.pop(str(each.name)) for each in COMMON if each.name in given}
    sizes = {"ram_bytes", "vcpu_count"} & set(common)
    shape: dict[str, Any] = {name: common.pop(name) for name in sizes}
    disks, networks = common.pop("disks", ()), common.pop("networks", ())
    has_rng = given.pop("has_rng", False)
    origin = _origin(given, shape)
    is_new = isinstance(origin, NewVm | NewLinux)
    if has_rng and not is_new:
        raise UsageError("--rng is for a new VM: one that exists has one or not; leave it out")
    devices = virtio_backings(disks, networks, has_rng=has_rng, is_new=is_new)
    common["virtio_consoles"] = virtio_consoles(common.pop("virtio_consoles", ()))
    if "clock" in common:
        common["clock"] = Clock(common["clock"])
    return RunOptions(origin, devices=devices, **common)


def _origin(given: dict[str, Any], shape: Mapping[str, Any]) -> VmOrigin:
    incoming, restore = given.pop("incoming", None), given.pop("restore", None)
    if incoming is not None and restore is not None:
        raise UsageError("--incoming and --restore exclude each other; give one of them")
    if incoming is not None:
        return _arriving(incoming, given, shape)
    if restore is not None:
        _refuse(
            given,
            (*_NEW, *_DUMP_DTB, *_SEED),
            "cannot be used with --restore: the guest is in it; leave it out",
        )
        _refuse(given, _INCOMING, "needs --incoming; leave it out, or wait for a VM")
        files = _kernel_files(given)
        return RestoredVm(restore, ExpectedMachine(**shape, **given), files)
    return _new(given, shape)


def _new(given: dict[str, Any], shape: Mapping[str, Any]) -> NewVm | NewLinux:
    if "guest" in given and "kernel" in given:
        raise UsageError("--guest and --kernel exclude each other; give one of them")
    _refuse(given, _INCOMING, "needs --incoming; leave it out, or wait for a VM")
    _refuse(given, NOT_NEW, "needs --incoming or --restore; leave it out")
    if "kernel" in given:
        _refuse(given, _NEW, "is for --guest; a kernel's command line is --append; leave it out")
    files = _kernel_files(given)
    if files is not None:
        return NewLinux(files, **given, **shape)
    _refuse(given, _DUMP_DTB, _NEEDS_KERNEL)
    if "guest" in given:
        return NewVm(**given, **shape)
    raise UsageError(
        "nothing to run; give --guest NAME, --kernel FILE, --incoming URI to wait for a VM, or "
        "--restore FILE"
    )


def _kernel_files(given: dict[str, Any]) -> KernelFiles | None:
    """Take the kernel and what belongs to it out of what was given; None without one."""
    kernel = given.pop("kernel", None)
    if kernel is None:
        _refuse(given, _WITH_KERNEL, _NEEDS_KERNEL)
        return None
    return KernelFiles(kernel, given.pop("initrd", None), given.pop("command_line", ""))


def _arriving(uri: str, given: dict[str, Any], shape: Mapping[str, Any]) -> ArrivingVm:
    _refuse(
        given,
        (*_NEW, *_DUMP_DTB, *_SEED),
        "cannot be used with --incoming: the guest arrives; leave it out",
    )
    files = _kernel_files(given)
    folder, admitted = given.pop("tls_folder", None), given.pop("tls_admitted", ())
    if admitted and folder is None:
        raise UsageError("--tls-admit needs --tls-dir: it names certificates; give both")
    return ArrivingVm(
        uri,
        prealloc=given.pop("prealloc", False),
        tls=migrate.TlsCredentials(folder, admitted=admitted) if folder is not None else None,
        expected=ExpectedMachine(**shape, **given),
        restart=files,
    )


def _refuse(given: Mapping[str, Any], options: _Parameters, reason: str) -> None:
    for option in options:
        if option.name in given:
            raise UsageError(f"{option.opts[0]} {reason}")


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value != ()
