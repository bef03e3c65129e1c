"""The records of a scan as a Parquet table; pyarrow is an extra (`scan`)."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tagalong.errors import HostError, UsageError
from tagalong.files import NewFile, WrittenFile
from tagalong.scan.items import EXTRA
from tagalong.scan.record import CrashRecord

_ROWS: Final = 10_000
_KINDS: Final[dict[type, str]] = {str: "string", int: "int64", float: "float64"}


def require_pyarrow() -> None:
    """Raise HostError if pyarrow is not installed: before a scan, not after it."""
    _pyarrow()


def write_parquet(path: Path, records: Iterable[CrashRecord]) -> WrittenFile:
    """Write a table under its name when it is complete. Raises HostError, with no file left."""
    arrow, parquet = _pyarrow()
    schema = arrow.schema([(name, _KINDS[kind]) for name, kind in CrashRecord.kinds().items()])
    rows = (each.to_json() for each in records)
    file = NewFile(path)
    try:
        with (
            os.fdopen(os.dup(file.fd), "wb") as target,
            parquet.ParquetWriter(target, schema, compression="zstd") as writer,
        ):
            while batch := [*islice(rows, _ROWS)]:
                writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
        return file.publish()
    finally:
        file.close()


def read_parquet(path: Path) -> Iterator[CrashRecord]:
    """Yield the records of a table. Raises HostError, UsageError if it is no scan's table."""
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    yield CrashRecord.from_json(row)
    except OSError as error:
        raise HostError(f"cannot read {path}: {error}") from error
    except (ValueError, arrow.ArrowException) as error:
        raise UsageError(
            f"cannot go on with {path}: it is no table of a scan ({error}); give another name, or "
            "--fresh to write over it"
        ) from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # noqa: PLC0415 (an extra)
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise HostError(
            f"a .parquet file needs pyarrow, which is not installed: {EXTRA}"
        ) from error
    return pyarrow, pyarrow.parquet
