"""Text of crash reports: read whole up to a limit, shown safely, taken apart by lines."""

import quopri
import re
from pathlib import Path
from typing import Final

import zstandard

from tagalong.errors import CrashReportError
from tagalong.files import name_failure
from tagalong.printable import printable

MAX_REPORT_BYTES: Final = 64 << 20
MAX_LINE: Final = 4096
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_MAX_WINDOW_BYTES: Final = 64 << 20

MAX_LINES: Final = 1 << 20
_MAIL, _MAIL_HEAD_BYTES = b"Content-Transfer-Encoding: quoted-printable", 64 << 10

# What mail, dmesg, journalctl, serial consoles, logcat and Android Studio put before a line.
_PREFIX: Final = re.compile(
    r"^(?:> )*(<\d{1,3}>)?"
    r"(\[\s*\d+\.\d+\]\s?(\[\s*[TC]\d+\]\s?)?|"
    r"\w{3} +\d+ [\d:]{8} \S+ kernel: (\[\s*\d+\.\d+\]\s?)?|"
    r"[\d-]{5,10} [\d:.]{8,15} +\d+ +\d+ [VDIWEF] \S+ *: |"
    r"\d{4}-[\d-]{5} [\d:.]{12} +\d+-\d+ +\S+ +\S+ +[VDIWEFA] {1,2})?"
)


def read_report(path: Path) -> bytes:
    """Return all of a report, unpacked if it is compressed with zstd.

    Raises HostError if it cannot be read, CrashReportError if it is larger than 64 MiB.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_REPORT_BYTES + 1)
    except (OSError, ValueError) as error:
        raise name_failure("cannot open", path, error) from error
    if raw.startswith(_ZSTD_MAGIC):
        raw = _unpacked(raw)
    if len(raw) > MAX_REPORT_BYTES:
        raise CrashReportError(
            f"{path} is larger than {MAX_REPORT_BYTES:#x} bytes; give the part with the report",
            offset=MAX_REPORT_BYTES,
        )
    return raw


def _unpacked(raw: bytes) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        with decompressor.stream_reader(raw, read_across_frames=True) as reader:
            return reader.read(MAX_REPORT_BYTES + 1)
    except zstandard.ZstdError as error:
        raise CrashReportError(f"it does not decompress: {error}") from error


def lines_of(raw: bytes) -> list[str]:
    """Return the lines without what a logger put before them; nothing steers a terminal.

    Raises CrashReportError if there are more than MAX_LINES.
    """
    if raw.count(b"\n") >= MAX_LINES:
        raise CrashReportError(
            f"it has more than {MAX_LINES:#x} lines; give the part with the report"
        )
    if _MAIL in raw[:_MAIL_HEAD_BYTES]:
        raw = quopri.decodestring(raw)
    return [
        printable(_PREFIX.sub("", line[:MAX_LINE].rstrip("\r"), count=1).expandtabs())
        for line in raw.decode("utf-8", "replace").split("\n")
    ]
