"""Writes the golden streams: python -m tests.golden.build_streams, once per stream version.

They are frozen: what one release of tagalong sent, every later one that speaks the same
version must read. A new version gets new files beside the old ones.
"""

from pathlib import Path

from tagalong.wire import Role
from tests.support.wire_session import streams

FOLDER = Path(__file__).parent
PATHS = {
    Role.SOURCE: FOLDER / "stream-v1-source.bin",
    Role.DESTINATION: FOLDER / "stream-v1-destination.bin",
}


def main() -> None:
    for role, stream in streams().items():
        with PATHS[role].open("xb") as file:
            file.write(stream)


if __name__ == "__main__":
    main()
