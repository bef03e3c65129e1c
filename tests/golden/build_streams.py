"""Writes the golden streams: python -m tests.golden.build_streams, once per stream version.

They are frozen: what one release of tagalong sent, every later one that speaks the same
version must read. A new version gets new files beside the old ones.
"""

from collections.abc import Iterable
from pathlib import Path

from tagalong.wire import Role
from tests.support.wire_session import PLAYS, streams

FOLDER = Path(__file__).parent


def _paths(version: int, names: Iterable[str]) -> dict[tuple[str, Role], Path]:
    return {
        (name, role): FOLDER / f"stream-v{version}-{name}-{role.name.lower()}.bin"
        for name in names
        for role in Role
    }


PATHS = _paths(4, PLAYS)
OLDER_NAMES = ("main", "channel", "resume")
OLDER_PATHS = {version: _paths(version, OLDER_NAMES) for version in (2, 3)}


def main() -> None:
    for name, play in PLAYS.items():
        for role, stream in streams(play).items():
            if PATHS[name, role].exists():
                continue
            with PATHS[name, role].open("xb") as file:
                file.write(stream)


if __name__ == "__main__":
    main()
