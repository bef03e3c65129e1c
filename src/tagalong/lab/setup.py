"""Sets the lab up: fetches, builds and checks missing pieces, and returns a bootable image.

Each piece is made once (cache.py). If all of them exist, this reads a few records and the
checkout's files and takes a fraction of a second.

No version and no address is written down. A private apt (apt.py) asks the mirror that the
system's own apt uses, and counts no package as installed, so that it lists all that an emulator
needs with its C library; so the emulator runs on any distribution. And no emulator is used before
it has read back a tag for each of the 256 granules of a page (selfcheck.py).
"""

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tagalong.errors import LabSetupError
from tagalong.lab import checkout, guest, kernel, packages, userland, vmm, wheels
from tagalong.lab.apt import Apt, host_architecture, system_mirror
from tagalong.lab.boot import LabImage
from tagalong.lab.bytecode import HOST_PYTHON
from tagalong.lab.cache import Cache, CachedPiece, Record, digest_of_files, identity_of
from tagalong.lab.deb import unpack
from tagalong.lab.debian import find_kernel
from tagalong.lab.observer import Observer
from tagalong.lab.qemu import Qemu, ask_version, check_version, fetched_command
from tagalong.lab.selfcheck import check_tags

# Increase it when the same sources are to give another piece.
_FORM = 1

_GUEST_ARCHITECTURE = "arm64"


@dataclass(frozen=True)
class LabRequest:
    """What to make the lab of. None selects Debian's, fetched with apt.

    `kernel` is a name ("6.12", "7.3-16k") or the path of an arm64 image, `qemu` a program,
    `rootfs` a folder or a tar archive with Python and busybox for arm64.
    """

    folder: Path
    kernel: str = packages.DEFAULT_KERNEL
    qemu: str | None = None
    rootfs: Path | None = None
    mirror: str | None = None
    with_vmm: bool = False
    with_guest: bool = False


@dataclass(frozen=True)
class Lab:
    """A lab that is set up: the image it boots, and facts about its pieces for people."""

    system: LabImage
    facts: Record


def set_up(request: LabRequest, observer: Observer) -> Lab:
    """Make missing pieces and return the lab.

    Raises LabSetupError if a piece cannot be made, SelfCheckError if the emulator stores tags
    wrongly, LostMachineError if it ends during that check. Complete pieces stay in the cache,
    and the next call continues with the rest.
    """
    return _Setup(request, observer).lab()


def forget(folder: Path) -> None:
    """Remove the fetched pieces; the next set-up fetches the mirror's current versions."""
    cache = Cache(folder)
    for name in ("qemu", "kernel", "userland", "packages", "vmm", "guest-parts"):
        cache.forget(name)


def cross_built(root: Path, cache: Cache, observer: Observer) -> CachedPiece:
    """Return what native/toolchain.py builds for arm64 of the checkout `root`.

    It is built once per state of the sources. Raises LabSetupError.
    """

    def make(folder: Path) -> Record:
        observer.step("Building the native library for arm64")
        checkout.cross_build(root, folder, cache.folder("zig"))
        return {}

    sources = digest_of_files(root, checkout.native_sources(root))
    return cache.piece("native", {"form": _FORM, "sources": sources}, make)


class _Setup:
    def __init__(self, request: LabRequest, observer: Observer) -> None:
        self._request = request
        self._observer = observer
        self._cache = Cache(request.folder, self._wait)
        self._root = checkout.find_checkout()

    def lab(self) -> Lab:
        qemu = self._qemu()
        check_version(qemu)
        image, modules, release = self._kernel()
        base = (self._userland.folder / userland.ARCHIVE, *modules)
        packages_piece, checkout_piece = self._packages(), self._checkout()
        checked = self._check(LabImage(qemu, image, base))
        archives = (
            *base,
            packages_piece.folder / wheels.ARCHIVE,
            checkout_piece.folder / checkout.ARCHIVE,
            *(self._vmm(image) if self._request.with_vmm else ()),
            *((self._guest(),) if self._request.with_guest else ()),
        )
        facts: Record = {
            "folder": str(self._cache.root),
            "qemu": qemu.version,
            "kernel": release,
            "python": self._python,
            "packages": packages_piece.facts["packages"],
            "checkout": str(self._root),
            "granules_checked": checked.facts["granules"],
        }
        return Lab(LabImage(qemu, image, archives), facts)

    def _qemu(self) -> Qemu:
        own = self._request.qemu
        if own is not None:
            found = shutil.which(own)
            if found is None:
                raise LabSetupError(f"cannot use --qemu {own}: no such program is on the PATH")
            program = Path(found).absolute()
            return Qemu((str(program),), ask_version([str(program)]), identity_of(program))

        def make(folder: Path) -> Record:
            self._observer.step("Fetching QEMU")
            suites = (packages.STABLE, packages.QEMU_SUITE)
            self._host_apt.update(suites, self._observer)
            debs = self._host_apt.download(
                packages.QEMU_PACKAGES, packages.QEMU_SUITE, self._observer
            )
            for deb in debs:
                unpack(deb, folder)
            self._host_apt.clean()
            return {"version": ask_version(fetched_command(folder))}

        wanted: Record = {"form": _FORM, "packages": list(packages.QEMU_PACKAGES)}
        piece = self._cache.piece("qemu", wanted, make)
        return Qemu(fetched_command(piece.folder), piece.text("version"), piece.key)

    def _kernel(self) -> tuple[Path, tuple[Path, ...], str]:
        """Return the kernel's image, the archives with its modules, and its release."""
        wanted = self._request.kernel
        if packages.kernel_name(wanted) is None:
            image = Path(wanted)
            if not image.is_file():
                raise LabSetupError(
                    f"cannot use --kernel {wanted}: it is neither one of Debian's "
                    f"({', '.join(packages.KERNELS)}) nor a file"
                )
            return image, (), str(image)

        def make(folder: Path) -> Record:
            self._observer.step(f"Fetching Linux {wanted}")
            found = find_kernel(self._apt, wanted, self._observer)
            parts = packages.kernel_parts(self._apt.closure([found.exact], found.suite))
            debs = self._apt.download_only(parts, found.suite, self._observer)
            release = kernel.extract(debs, folder)
            self._apt.clean()
            return {"release": release, "version": found.version}

        made_from: Record = {"form": _FORM, "version": wanted, "modules": list(kernel.NEEDED)}
        piece = self._cache.piece("kernel", made_from, make)
        return piece.folder / kernel.IMAGE, (piece.folder / kernel.MODULES,), piece.text("release")

    @cached_property
    def _userland(self) -> CachedPiece:
        own = self._request.rootfs

        def make(folder: Path) -> Record:
            target = folder / userland.ARCHIVE
            if own is not None:
                self._observer.step(f"Packing {own}")
                return {"python": userland.write(userland.from_own(own), target)}
            self._observer.step("Fetching Python and busybox for arm64")
            self._apt.update((packages.USERLAND_SUITE,), self._observer)
            debs = self._apt.download(
                packages.USERLAND_PACKAGES, packages.USERLAND_SUITE, self._observer
            )
            python = userland.write(userland.from_packages(debs), target)
            self._apt.clean()
            return {"python": python}

        return self._cache.piece("userland", {"form": _FORM, **userland.made_from(own)}, make)

    @property
    def _python(self) -> str:
        return self._userland.text("python")

    @property
    def _python_facts(self) -> Record:
        return {"form": _FORM, "python": self._python, "bytecode": HOST_PYTHON}

    def _packages(self) -> CachedPiece:
        wanted = wheels.WheelRequirements.of_checkout(self._root)

        def make(folder: Path) -> Record:
            self._observer.step("Fetching Python packages for arm64")
            downloads = folder / "wheels"
            files = wheels.download(
                wanted, python=self._python, folder=downloads,
                cache=self._cache.folder("pip"), observer=self._observer,
            )  # fmt: skip
            names = wheels.write(files, folder / wheels.ARCHIVE, python=self._python)
            for file in files:
                file.unlink()
            self._cache.forget("pip")
            return {"packages": names}

        made_from: Record = {**wanted.made_from(), **self._python_facts}
        return self._cache.piece("packages", made_from, make)

    def _native(self) -> CachedPiece:
        return cross_built(self._root, self._cache, self._observer)

    def _checkout(self) -> CachedPiece:
        native = self._native()
        files = checkout.all_files(self._root)

        def make(folder: Path) -> Record:
            checkout.write(
                self._root, files, native.folder, folder / checkout.ARCHIVE, python=self._python
            )
            return {}

        made_from: Record = {
            **self._python_facts,
            "files": digest_of_files(self._root, files),
            "native": native.key,
        }
        return self._cache.piece("checkout", made_from, make)

    def _vmm(self, kernel_image: Path) -> tuple[Path, Path]:
        """Return the archives with QEMU for arm64, and with a Linux guest of the lab's kernel."""

        def fetch(folder: Path) -> Record:
            self._observer.step("Fetching QEMU for arm64, as a VMM in the lab")
            suites = (packages.STABLE, packages.QEMU_SUITE)
            self._apt.update(suites, self._observer)
            debs = self._apt.download(packages.QEMU_PACKAGES, packages.QEMU_SUITE, self._observer)
            vmm.write(debs, folder / vmm.ARCHIVE)
            busybox = self._apt.download_only(
                (packages.BUSYBOX_PACKAGE,), packages.USERLAND_SUITE, self._observer
            )
            vmm.extract_busybox(busybox, folder / vmm.BUSYBOX)
            self._apt.clean()
            return {}

        wanted: Record = {"form": _FORM, "packages": list(packages.QEMU_PACKAGES)}
        fetched, native = self._cache.piece("vmm", wanted, fetch), self._native()

        def make(folder: Path) -> Record:
            keeper = native.folder / checkout.LINUX_PROGRAMS / "tagkeeper"
            busybox = fetched.folder / vmm.BUSYBOX
            vmm.write_guest(kernel_image, busybox, keeper, folder / vmm.ARCHIVE)
            return {}

        made_from: Record = {
            "form": _FORM,
            "kernel": identity_of(kernel_image),
            "native": native.key,
            "vmm": fetched.key,
        }
        whole = self._cache.piece("vmm-guest", made_from, make)
        return fetched.folder / vmm.ARCHIVE, whole.folder / vmm.ARCHIVE

    def _guest(self) -> Path:
        """Return the archive with the Linux guest of `tagalong guest fetch`."""
        request = guest.GuestRequest(self._cache.root, mirror=self._request.mirror)
        made = guest.set_up_guest(request, self._observer)

        def make(folder: Path) -> Record:
            guest.write_for_lab(made, folder / guest.LAB_ARCHIVE)
            return {}

        made_from: Record = {"form": _FORM, "kernel": str(made.kernel), "initrd": str(made.initrd)}
        return self._cache.piece("lab-guest", made_from, make).folder / guest.LAB_ARCHIVE

    def _check(self, system: LabImage) -> CachedPiece:
        def make(_: Path) -> Record:
            self._observer.step(f"Checking that QEMU {system.qemu.version} stores tags")
            return {"granules": check_tags(system)}

        made_from: Record = {
            "form": _FORM,
            "qemu": system.qemu.identity,
            "kernel": identity_of(system.kernel),
            "userland": self._userland.key,
        }
        return self._cache.piece("selfcheck", made_from, make)

    @cached_property
    def _mirror(self) -> str:
        return self._request.mirror or system_mirror()

    @cached_property
    def _host_apt(self) -> Apt:
        return self._make_apt(host_architecture())

    @cached_property
    def _apt(self) -> Apt:
        return self._make_apt(_GUEST_ARCHITECTURE)

    def _make_apt(self, architecture: str) -> Apt:
        folder = self._cache.folder("apt") / architecture
        return Apt(folder, architecture=architecture, mirror=self._mirror)

    def _wait(self) -> None:
        self._observer.step("Waiting for another set-up of the same folder")
