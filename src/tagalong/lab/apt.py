"""A private apt: package lists, download cache and package state in a folder of the lab.

Needs no root and never writes to the system's apt. It uses the system's mirror, proxy and keys.
No package counts as installed here, so apt's resolver lists everything that a piece needs,
its C library included. apt checks the archive's signature and the hash of each file.
"""

import os
import pwd
from collections.abc import Sequence
from pathlib import Path

from tagalong.lab.observer import Observer
from tagalong.lab.packages import (
    DebPackage,
    debian_mirror,
    parse_madison,
    parse_simulation,
    parse_targets,
)
from tagalong.lab.tools import follow, output_of, require

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def system_mirror() -> str:
    """Return the Debian mirror that the system's apt uses. Raises LabSetupError."""
    require("apt-get", "fetch the lab's pieces")
    # Without --no-release-info, apt leaves out suites whose lists were never fetched. In a
    # fresh container that is every suite.
    text = output_of(
        ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE)",
         "Created-By: Packages"],
        "read the system's apt configuration",
    )  # fmt: skip
    return debian_mirror(parse_targets(text))


def host_architecture() -> str:
    """Return Debian's name for the architecture of this host. Raises LabSetupError."""
    require("dpkg-deb", "unpack the lab's pieces")
    return output_of(
        ["dpkg", "--print-architecture"], "find out the architecture of this host"
    ).strip()


class Apt:
    """A private apt for one architecture, with the suites `suites` of `mirror`."""

    def __init__(self, folder: Path, *, architecture: str, mirror: str) -> None:
        self._folder = folder
        self._architecture = architecture
        self._mirror = mirror
        self._suites: tuple[str, ...] = ()

    def update(self, suites: Sequence[str], observer: Observer) -> None:
        """Fetch the package lists of `suites` that changed. Raises LabSetupError."""
        self._suites = tuple(dict.fromkeys((*self._suites, *suites)))
        self._write_configuration()
        self._follow(["update"], f"fetch the package lists of {', '.join(suites)}", observer)

    def closure(self, packages: Sequence[str], suite: str) -> list[DebPackage]:
        """Return `packages` and their dependencies, from `suite` where it has them.

        Raises LabSetupError if apt cannot resolve them.
        """
        text = output_of(
            [*self._get(), "--simulate", *_install(suite), *packages],
            f"resolve {', '.join(packages)} in {suite}",
        )
        return parse_simulation(text)

    def offered(self, package: str) -> list[tuple[str, str]]:
        """Return version and suite of each `package` in the lists, newest first."""
        text = output_of(
            ["apt-cache", f"--config-file={self._configuration}", "madison", package],
            f"look for {package}",
        )
        return parse_madison(text)

    def download(self, packages: Sequence[str], suite: str, observer: Observer) -> list[Path]:
        """Download `packages` and their dependencies; return the .deb files.

        Files that are already there, even in part, are not downloaded again. Raises LabSetupError.
        """
        archives = self.closure(packages, suite)
        self._follow(
            ["--download-only", "--yes", *_install(suite), *packages],
            f"download {', '.join(packages)}",
            observer,
        )
        return [self._archives / archive.file_name for archive in archives]

    def download_only(self, packages: Sequence[str], suite: str, observer: Observer) -> list[Path]:
        """Download `packages` without their dependencies. Raises LabSetupError."""
        wanted = [a for a in self.closure(packages, suite) if a.package in packages]
        # `apt-get download` writes to the current folder; no option names another one.
        enter = ["env", "--chdir", str(self._archives)]
        exact = [f"{archive.package}={archive.version}" for archive in wanted]
        self._follow(["download", *exact], f"download {', '.join(packages)}", observer, enter)
        return [self._archives / archive.file_name for archive in wanted]

    def clean(self) -> None:
        """Remove the downloaded packages; call it when they have been unpacked."""
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
            # By default apt only warns if a mirror does not answer.
            "APT::Update::Error-Mode": "any",
            # As root, apt would switch to a user who cannot read this folder.
            "APT::Sandbox::User": pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() == 0 else "",
            "Acquire::GzipIndexes": "true",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        # The system's hooks concern the system's package state.
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
