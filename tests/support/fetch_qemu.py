"""Finds qemu-aarch64 (user mode) for the oracle tests, or fetches it without root.

    python -m tests.support.fetch_qemu

`make test` runs this before the tests. Taken is, in this order: what the environment variable
TAGALONG_QEMU_AARCH64 names, qemu-aarch64 or qemu-aarch64-static on PATH, the one fetched before
(.cache/qemu-user of the checkout). If none of them is new enough, the distribution's package is
downloaded through apt with a state of its own in a scratch folder: nothing of the system's apt
changes, and the mirrors are the ones that the system itself has configured. Only the one
executable is kept.

Without QEMU the oracle tests are skipped and say so; this command says why, and exits with 0.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

MINIMUM = (7, 2)
VARIABLE = "TAGALONG_QEMU_AARCH64"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "qemu-user"

_NAMES = ("qemu-aarch64", "qemu-aarch64-static")
# Where the executable is linked statically: in the first until Debian 12 and Ubuntu 24.04, in
# the second after them.
_PACKAGES = ("qemu-user-static", "qemu-user")
_VERSION_TIMEOUT_S = 20
_APT_TIMEOUT_S = 600


class QemuMissingError(Exception):
    """There is no usable qemu-aarch64; the message says what was tried."""


def find_qemu() -> Path:
    """Return the oracle's executable. Raises QemuMissingError; downloads nothing."""
    named = os.environ.get(VARIABLE)
    if named:
        complaint = _complaint(Path(named))
        if complaint:
            raise QemuMissingError(f"{VARIABLE}={named}: {complaint}")
        return Path(named)
    complaints = []
    for path in _candidates():
        complaint = _complaint(path)
        if not complaint:
            return path
        complaints.append(f"{path}: {complaint}")
    raise QemuMissingError(
        "; ".join(complaints) or f"none of {', '.join(_NAMES)} on PATH, none in {CACHE}"
    )


def _candidates() -> list[Path]:
    on_path = [Path(found) for name in _NAMES if (found := shutil.which(name))]
    return on_path + [path for name in _NAMES if (path := CACHE / name).exists()]


def _complaint(path: Path) -> str:
    """Return why the executable at `path` cannot be used, or nothing."""
    try:
        done = subprocess.run(
            [str(path), "--version"],
            capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not run: {error}"
    found = re.search(r"version (\d+)\.(\d+)", done.stdout)
    if not found:
        return f"--version says {done.stdout.partition(chr(10))[0]!r}"
    version = (int(found[1]), int(found[2]))
    if version < MINIMUM:
        return f"version {version[0]}.{version[1]} is older than {MINIMUM[0]}.{MINIMUM[1]}"
    return ""


def fetch() -> Path:
    """Download the distribution's package and keep its executable. Raises QemuMissingError."""
    missing = [tool for tool in ("apt-get", "dpkg-deb") if not shutil.which(tool)]
    if missing:
        raise QemuMissingError(f"cannot fetch it here: this host has no {' and no '.join(missing)}")
    CACHE.mkdir(parents=True, exist_ok=True)
    # On the cache's own file system, so that the executable can be renamed into place.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=CACHE) as scratch:
        apt = _private_apt(Path(scratch))
        complaints = _failures_of_update(apt, Path(scratch))
        for package in _PACKAGES:
            try:
                return _install(apt, package, Path(scratch))
            except QemuMissingError as error:
                complaints.append(f"{package}: {error}")
    raise QemuMissingError("; ".join(complaints))


def _failures_of_update(apt: list[str], scratch: Path) -> list[str]:
    """Fetch the lists of packages; one broken source of many need not matter."""
    try:
        _run([*apt, "update"], scratch)
    except QemuMissingError as error:
        return [str(error)]
    return []


def _private_apt(scratch: Path) -> list[str]:
    """Return an apt-get command whose state and cache are in `scratch`, and nobody else's."""
    configuration = scratch / "apt.conf"
    for folder in ("lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    # Hooks of the system would act on the system's cache, and some need root.
    configuration.write_text(
        f'Dir::State::Lists "{scratch}/lists";\n'
        f'Dir::Cache "{scratch}/cache";\n'
        'Dir::Log "/dev/null";\n'
        'APT::Sandbox::User "";\n'
        'Acquire::Languages "none";\n'
        'APT::Update::Error-Mode "any";\n'
        "#clear APT::Update::Pre-Invoke;\n"
        "#clear APT::Update::Post-Invoke;\n"
        "#clear APT::Update::Post-Invoke-Success;\n"
        "#clear DPkg::Pre-Invoke;\n"
        "#clear DPkg::Post-Invoke;\n"
    )
    return ["apt-get", "--quiet", f"--config-file={configuration}"]


def _install(apt: list[str], package: str, scratch: Path) -> Path:
    """Download one package and move its executable into the cache, if it can be used."""
    _run([*apt, "download", package], scratch)
    archives = sorted(scratch.glob(f"{package}_*.deb"))
    if not archives:
        raise QemuMissingError("apt-get download left no package")
    extracted = _extract(archives[0], scratch)
    complaint = _complaint(extracted)
    if complaint:
        raise QemuMissingError(complaint)
    return extracted.replace(CACHE / extracted.name)


def _extract(archive: Path, scratch: Path) -> Path:
    """Unpack the executable alone: the whole package has some 200 MB of other machines."""
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as files,
        ):
            for member in files:
                if member.isfile() and Path(member.name).name in _NAMES:
                    target = _write(files, member, scratch)
                    process.kill()
                    return target
    except (OSError, tarfile.TarError) as error:
        raise QemuMissingError(f"{archive.name}: {error}") from error
    raise QemuMissingError(f"{archive.name} has no {' or '.join(_NAMES)}")


def _write(files: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> Path:
    target = folder / Path(member.name).name
    content = files.extractfile(member)
    if content is not None:
        with content, target.open("wb") as sink:
            shutil.copyfileobj(content, sink)
        target.chmod(0o755)
    return target


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, timeout=_APT_TIMEOUT_S, check=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        last = " ".join(error.output.split()[-40:])
        raise QemuMissingError(f"{' '.join(command[:1] + command[3:])} failed: {last}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QemuMissingError(str(error)) from error


def main() -> None:
    """Find or fetch, and say on stderr what the oracle tests will use."""
    try:
        say(f"oracle: {find_qemu()}")
        return
    except QemuMissingError as error:
        say(f"No qemu-aarch64 of version {MINIMUM[0]}.{MINIMUM[1]} or newer here ({error}).")
    if os.environ.get(VARIABLE):
        say("The oracle tests will be skipped.")
        return
    say("Fetching QEMU's user mode for the oracle tests (once, 20 to 60 MB) ...")
    try:
        say(f"oracle: {fetch()}")
    except QemuMissingError as error:
        say(f"{error}\nThe oracle tests will be skipped. Name your own with {VARIABLE}=PATH.")


def say(message: str) -> None:
    sys.stderr.write(f"{message}\n")


if __name__ == "__main__":
    main()
