"""Feeds the stream's receiver with what a fuzzer makes up: it refuses, or takes a sound record.

    python -m tests.faults.fuzz_stream --seconds 600 [--corpus FOLDER]

An input begins with a byte that chooses a moment of a conversation and who listens; the rest
are records (a byte for the type, two for the length, the payload), which get right
checksums, so that the fuzzer comes past them. Coverage guides it (atheris). Exit status 0:
nothing but RemoteProtocolError was raised, whatever came.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tagalong.wire"]):
    from tagalong.errors import RemoteProtocolError
    from tagalong.wire import NEED_DATA, TRANSITIONS, Connection, Phase, RecordType, Role
    from tests.support.wire_session import (
        PLAYS,
        Pair,
        pair_in,
        raw_record,
        records_in,
        records_said_by,
        streams,
    )

_MAX_INPUT_BYTES = 1 << 14
_MOMENTS = [(role, phase, "") for role in Role for phase in Phase if not phase.is_final]
_MOMENTS += [(Role.DESTINATION, Phase.COPYING, "runs")]
"""Who listens, when, and of which play; "" is the first one in which that happens."""
_STREAM_HEADER = streams()[Role.SOURCE][:16]


def one_input(data: bytes) -> None:
    """Let a listener hear one input; raises what it must not raise."""
    if not data:
        return
    role, phase, play = _MOMENTS[data[0] % len(_MOMENTS)]
    pair, said = _pair_at(phase, play, role.peer)
    listener = pair.end(role)
    error = _hear(listener, _stream(said, data[1:]))
    assert error is None or 0 <= error.offset <= listener.bytes_received, error


def _pair_at(phase: Phase, name: str, speaker: Role) -> tuple[Pair, int]:
    """Return a conversation at a moment, and how many records the speaker has sent in it."""
    if not name:
        return pair_in(phase), records_said_by(speaker, phase)
    pair, said = Pair.new(), 0
    for role, record in PLAYS[name].script:
        if pair.source.phase is phase:
            break
        pair.say(role, record)
        said += role is speaker
    return pair, said


def _stream(number: int, data: bytes) -> bytes:
    """Return the records that `data` describe, the first with that number."""
    stream, at = b"", 0
    if number == 0:
        stream = _STREAM_HEADER
    while at + 3 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 3], "little")
        payload = data[at + 3 : at + 3 + size]
        stream += raw_record(number, data[at], payload)
        number, at = number + 1, at + 3 + size
    return stream


def _hear(listener: Connection, stream: bytes) -> RemoteProtocolError | None:
    """Return how the stream was refused, None if all of it is sound so far."""
    try:
        listener.receive_data(stream)
        while not listener.phase.is_final and listener.next_record() is not NEED_DATA:
            pass
    except RemoteProtocolError as error:
        return error
    return None


def write_corpus(folder: Path) -> None:
    """Write every record of the sound streams as an input, at a moment where it is allowed."""
    for name, play in PLAYS.items():
        for role, stream in streams(play).items():
            for number, (_, record) in enumerate(records_in(stream)):
                body = record[:1] + len(record[16:]).to_bytes(2, "little") + record[16:]
                moment = _moment_for(role, RecordType(record[0]), name)
                path = folder / f"{name}-{role.name}-{number}"
                path.write_bytes(bytes([moment]) + body)


def _moment_for(sender: Role, kind: RecordType, play: str) -> int:
    """Return a moment at which the peer may hear such a record, of `play` if there is one."""
    possible = [
        number
        for number, (listener, phase, _) in enumerate(_MOMENTS)
        if listener is sender.peer and (phase, sender, kind) in TRANSITIONS
    ]
    return next((number for number in possible if _MOMENTS[number][2] == play), possible[0])


def main() -> None:
    """Fuzz for as long as asked for; does not return."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path)
    arguments = parser.parse_args()
    folder = arguments.corpus or Path(tempfile.mkdtemp(prefix="tagalong-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    write_corpus(folder)
    flags = [f"-max_total_time={arguments.seconds}", f"-max_len={_MAX_INPUT_BYTES}", "-timeout=20"]
    artifacts = f"-artifact_prefix={folder}/crash-"
    atheris.Setup([sys.argv[0], *flags, "-rss_limit_mb=2048", artifacts, str(folder)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
