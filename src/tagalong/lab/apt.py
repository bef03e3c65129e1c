"""A private apt: its own lists, cache and package state, in a folder that is ours.

Needs no root and leaves the system's state alone; of the system it reads its mirror, its
proxy and its keys. As no package counts as installed here, apt's resolver lists everything
that a piece needs. It checks the archive's signature and every file's hash.
"""

import os
import pwd
from collections.abc import Sequence
from pathlib import Path

from tagalong.lab.observer import Observer
from tagalong.lab.packages import (
    Archive,
    debian_mirror,
    parse_madison,
    parse_simulation,
    parse_targets,
)
from tagalong.lab.tools import follow, output_of, require

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def system_mirror() -> str:
    """Return the Debian mirror that this system's own apt uses. Raises LabSetupError."""
    require("apt-get", "fetch the lab's pieces")
    # Without --no-release-info, suites of which no list was ever fetched are left out: all
    # of them, in a fresh container.
    text = output_of(
        ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE)",
         "Created-By: Packages"],
        "read the system's apt configuration",
    )  # fmt: skip
    return debian_mirror(parse_targets(text))


def host_architecture() -> str:
    """Return Debian's name of this host's architecture. Raises LabSetupError."""
    require("dpkg-deb", "unpack the lab's pieces")
    return output_of(["dpkg", "--print-architecture"], "ask for this host's architecture").strip()


class Apt:
    """A private apt for one architecture, with the suites `suites` of `mirror`."""

    def __init__(self, folder: Path, *, architecture: str, mirror: str) -> None:
        self._folder = folder
        self._architecture = architecture
        self._mirror = mirror
        self._suites: tuple[str, ...] = ()

    def update(self, suites: Sequence[str], observer: Observer) -> None:
        """Fetch the lists of `suites`, as far as they changed. Raises LabSetupError."""
        self._suites = tuple(dict.fromkeys((*self._suites, *suites)))
        self._write_configuration()
        self._follow(["update"], f"fetch the package lists of {', '.join(suites)}", observer)

    def closure(self, packages: Sequence[str], suite: str) -> list[Archive]:
        """Return `packages` and all that they depend on, preferring `suite`.

        Raises LabSetupError if apt cannot resolve them.
        """
        text = output_of(
            [*self._get(), "--simulate", *_install(suite), *packages],
            f"resolve {', '.join(packages)} in {suite}",
        )
        return parse_simulation(text)

    def offered(self, package: str) -> list[tuple[str, str]]:
        """Return version and suite of each `package` in the lists, the newest first."""
        text = output_of(
            ["apt-cache", f"--config-file={self._configuration}", "madison", package],
            f"look for {package}",
        )
        return parse_madison(text)

    def download(self, packages: Sequence[str], suite: str, observer: Observer) -> list[Path]:
        """Fetch `packages` and all that they depend on; return the .deb files.

        What was fetched before, even in part, is not fetched again. Raises LabSetupError.
        """
        archives = self.closure(packages, suite)
        self._follow(
            ["--download-only", "--yes", *_install(suite), *packages],
            f"download {', '.join(packages)}",
            observer,
        )
        return [self._archives / archive.file_name for archive in archives]

    def download_only(self, packages: Sequence[str], suite: str, observer: Observer) -> list[Path]:
        """Fetch `packages` and nothing that they depend on. Raises LabSetupError."""
        wanted = [a for a in self.closure(packages, suite) if a.package in packages]
        # `apt-get download` writes to the current folder and has no option for another.
        enter = ["env", "--chdir", str(self._archives)]
        exact = [f"{archive.package}={archive.version}" for archive in wanted]
        self._follow(["download", *exact], f"download {', '.join(packages)}", observer, enter)
        return [self._archives / archive.file_name for archive in wanted]

    def clean(self) -> None:
        """Remove the downloaded packages: what was needed of them is unpacked by now."""
        for file in (*self._archives.glob("*.deb"), *self._archives.parent.glob("*.bin")):
            file.unlink()

    @property
    def _configuration(self) -> Path:
        return self._folder / "apt.conf"

    @property
    def _archives(self) -> Path:
        return self._folder / "cache" / "archives"

    def _get(self) -> list[str]:
        return ["apt-get", f"--config-file={self._configuration}"]

    def _follow(
        self, arguments: list[str], doing: str, observer: Observer, enter: Sequence[str] = ()
    ) -> None:
        def on_line(line: str) -> None:
            # "dlstatus:FILE:PERCENT:WORDS"
            kind, _, rest = line.partition(":")
            fields = rest.split(":", 2)
            if kind == "dlstatus" and len(fields) == 3:
                observer.progress(float(fields[1]) / 100, fields[2])

        follow(
            [*enter, *self._get(), *arguments], doing, on_line,
            status=lambda descriptor: ["-o", f"APT::Status-Fd={descriptor}"],
        )  # fmt: skip

    def _write_configuration(self) -> None:
        for name in ("lists/partial", "cache/archives/partial", "log"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
        sources = "".join(f"deb {signed}{self._mirror} {suite} main\n" for suite in self._suites)
        (self._folder / "sources.list").write_text(sources)
        self._configuration.write_text(self._configuration_text())

    def _configuration_text(self) -> str:
        folder = self._folder
        settings = {
            "Dir::State": folder,
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::State::extended_states": folder / "extended_states",
            "Dir::Cache": folder / "cache",
            "Dir::Cache::archives": self._archives,
            "Dir::Cache::pkgcache": folder / "cache" / "pkgcache.bin",
            "Dir::Cache::srcpkgcache": folder / "cache" / "srcpkgcache.bin",
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Log": folder / "log",
            "APT::Architecture": self._architecture,
            "APT::Default-Release": "",
            "APT::Get::List-Cleanup": "false",
            "APT::Keep-Downloaded-Packages": "true",
            # Otherwise a mirror that does not answer is only worth a warning.
            "APT::Update::Error-Mode": "any",
            # For root, apt would give up its rights to a user who cannot read our folder.
            "APT::Sandbox::User": pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() == 0 else "",
            "Acquire::GzipIndexes": "true",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        # Hooks of the system are about the system's state.
        cleared = (
            "APT::Architectures", "APT::Update::Pre-Invoke", "APT::Update::Post-Invoke",
            "APT::Update::Post-Invoke-Success", "DPkg::Pre-Invoke", "DPkg::Post-Invoke",
            "DPkg::Pre-Install-Pkgs",
        )  # fmt: skip
        lines = [f"#clear {name};" for name in cleared]
        lines += [f'{name} "{value}";' for name, value in settings.items()]
        lines.append(f'APT::Architectures {{ "{self._architecture}"; }};')
        return "\n".join(lines) + "\n"


def _install(suite: str) -> list[str]:
    return ["--no-install-recommends", f"--target-release={suite}", "install"]
