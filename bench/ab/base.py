"""The base of a comparison: which revision it is, and a tree of it with its own build."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FOLDER = ROOT / "build" / "ab"


def base_revision(asked: str | None, root: Path = ROOT) -> str:
    """Return the full name of the base's commit.

    It is the one asked for; else the newest tag; else the last commit that had another version.
    Raises SystemExit if the repository has neither.
    """
    if asked:
        found = _git(root, "rev-parse", "--verify", "--quiet", f"{asked}^{{commit}}")
        if not found:
            raise SystemExit(f"cannot compare with {asked}: git knows no such revision")
        return found
    if tag := _git(root, "describe", "--tags", "--abbrev=0"):
        return _git(root, "rev-parse", f"{tag}^{{commit}}")
    return _last_of_another_version(root)


def _last_of_another_version(root: Path) -> str:
    """Return the parent of the commit that gave pyproject.toml its version."""
    changes = _git(root, "log", "--format=%H", "-G^version = ", "--", "pyproject.toml").split()
    if len(changes) < 2:
        raise SystemExit(
            "cannot find a release to compare with: there is no tag, and pyproject.toml has had "
            "one version; give a revision: make ab BASE=main"
        )
    return _git(root, "rev-parse", f"{changes[0]}^")


def checked_out(revision: str) -> Path:
    """Return a tree of that revision, built; it is made once and stays. Raises SystemExit."""
    tree = _FOLDER / revision
    if not (tree / ".built").exists():
        # One that was removed by hand, or whose build was interrupted, is in git's books still.
        _git(ROOT, "worktree", "remove", "--force", str(tree))
        _git(ROOT, "worktree", "prune")
        print(f"building {revision[:12]} in {tree} ...", file=sys.stderr)
        _run(ROOT, "git", "worktree", "add", "--quiet", "--detach", str(tree), revision)
        _run(tree, sys.executable, "native/toolchain.py")
        (tree / ".built").touch()
    return tree


def environment_of(tree: Path) -> dict[str, str]:
    """Return the environment in which `import tagalong` finds that tree's."""
    return {**os.environ, "PYTHONPATH": str(tree / "src")}


def _git(root: Path, *arguments: str) -> str:
    """Return what git prints; "" if it fails."""
    ran = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return ran.stdout.strip() if ran.returncode == 0 else ""


def _run(folder: Path, *command: str) -> None:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)} failed in {folder}: {ran.stderr.strip()}")
