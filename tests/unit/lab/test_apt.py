"""The private apt's configuration: nothing in it is the system's state."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tagalong.errors import LabSetupError
from tagalong.lab.apt import Apt, system_mirror
from tagalong.lab.observer import SilentObserver

pytestmark = pytest.mark.skipif(
    shutil.which("apt-get") is None, reason="apt-get is not on the PATH"
)

# There is nothing to fetch.
NOWHERE = "file:/no/such/mirror"


@pytest.fixture
def apt(tmp_path: Path) -> Apt:
    """Return an apt whose mirror does not answer; its configuration is written."""
    apt = Apt(tmp_path / "apt", architecture="arm64", mirror=NOWHERE)
    with pytest.raises(LabSetupError):
        apt.update(("bookworm",), SilentObserver())
    return apt


def asked(tmp_path: Path, *command: str) -> str:
    configuration = f"--config-file={tmp_path}/apt/apt.conf"
    run = subprocess.run(
        [command[0], configuration, *command[1:]], capture_output=True, text=True, check=True
    )
    return run.stdout


def test_mirror_that_does_not_answer_is_an_error_with_apts_words(tmp_path: Path) -> None:
    apt = Apt(tmp_path / "apt", architecture="arm64", mirror=NOWHERE)

    with pytest.raises(LabSetupError) as caught:
        apt.update(("bookworm", "trixie"), SilentObserver())

    assert str(caught.value).startswith("cannot fetch the package lists of bookworm, trixie: ")
    assert NOWHERE in "\n".join(caught.value.__notes__)


@pytest.mark.usefixtures("apt")
def test_sources_are_our_suites_and_none_of_the_systems(tmp_path: Path) -> None:
    text = asked(tmp_path, "apt-get", "indextargets", "--no-release-info", "--format",
                 "$(REPO_URI) $(RELEASE)")  # fmt: skip

    assert set(text.splitlines()) == {f"{NOWHERE}/ bookworm"}


def test_system_mirror_is_found_where_no_list_was_ever_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists, sources, configuration = (tmp_path / n for n in ("lists", "sources.list", "apt.conf"))
    (lists / "partial").mkdir(parents=True)
    sources.write_text(f"deb {NOWHERE} bookworm-updates main\n")
    configuration.write_text(
        f'Dir::State::lists "{lists}"; Dir::Etc::sourcelist "{sources}";\n'
        'Dir::Etc::sourceparts "/dev/null";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(configuration))

    assert system_mirror() == f"{NOWHERE}/"


@pytest.mark.usefixtures("apt")
def test_state_and_cache_are_in_our_folder(tmp_path: Path) -> None:
    for name in ("Dir::State::lists", "Dir::State::status", "Dir::Cache::archives"):
        text = asked(tmp_path, "apt-config", "shell", "value", f"{name}/f")
        assert str(tmp_path) in text, name


@pytest.mark.usefixtures("apt")
def test_hooks_of_the_system_do_not_run(tmp_path: Path) -> None:
    text = asked(tmp_path, "apt-config", "dump")

    for hook in ("APT::Update::Post-Invoke-Success", "DPkg::Post-Invoke"):
        assert f"{hook}::" not in text


@pytest.mark.usefixtures("apt")
def test_architecture_is_the_only_one(tmp_path: Path) -> None:
    text = asked(tmp_path, "apt-config", "dump", "APT::Architectures")

    assert text.splitlines()[1:] == ['APT::Architectures:: "arm64";']


def test_package_that_is_unknown_is_an_error_with_apts_words(apt: Apt) -> None:
    with pytest.raises(LabSetupError) as caught:
        apt.closure(["no-such-package"], "bookworm")

    assert str(caught.value).startswith("cannot resolve no-such-package in bookworm: ")
