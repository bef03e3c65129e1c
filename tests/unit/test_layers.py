"""The one-way dependencies of ARCHITECTURE.md, read from the imports themselves."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import tagalong
from tests.support.cases import check_each

SOURCE = Path(tagalong.__file__).parent

# What each part may import of the others; those of OPEN_TO_ALL are open to all.
ALLOWED: dict[str, set[str]] = {
    "printable": set(),
    "errors": set(),
    "_lazy": set(),
    "_native": set(),
    "progress": set(),
    "files": set(),
    "socket_files": set(),
    "write_behind": set(),
    "binary": set(),
    "mte": set(),
    "disassembly": set(),
    "memory": {"mte"},
    "machine": {"mte", "memory"},
    "access": {"mte", "memory"},
    "paging": {"mte", "memory", "machine"},
    "devices": {"binary", "mte", "memory", "machine"},
    "boot": {"binary", "mte", "memory", "machine"},
    "soft": {"disassembly", "mte", "memory", "machine", "devices", "access"},
    "kvm": {"mte", "memory", "machine", "devices", "access"},
    "wire": {"binary", "mte"},
    "machine_records": {"machine", "memory", "wire"},
    "migrate": {
        "files", "socket_files", "mte", "memory", "machine", "machine_records", "wire",
        "write_behind",
    },
    "core": {
        "binary", "files", "mte", "memory", "machine", "machine_records", "wire", "write_behind",
    },
    "snapshot": {"binary", "files", "mte", "memory", "machine", "core", "paging"},
    "qemu": {"access", "core", "files", "machine", "memory", "mte", "snapshot"},
    "explain": {
        "binary", "control", "core", "disassembly", "drgn", "files", "machine", "memory", "mte",
        "paging", "qapi", "snapshot",
    },
    "qmp": {"socket_files"},
    "drgn": {"binary", "core", "machine", "memory", "mte", "paging"},
    "qapi": {"access", "core", "machine", "migrate", "qmp", "snapshot"},
    "vmm": {
        "files", "socket_files", "mte", "memory", "machine", "devices", "boot", "soft", "kvm",
        "migrate", "core", "access", "snapshot", "qapi", "qmp",
    },
    "control": {"files", "migrate", "qapi", "qmp", "snapshot"},
    "beside": {
        "binary", "control", "files", "machine", "memory", "migrate", "mte", "qapi", "qemu", "qmp",
        "snapshot", "socket_files", "vmm",
    },
    "studies": {
        "access", "disassembly", "mte", "memory", "machine", "boot", "soft", "kvm", "migrate",
        "qapi", "vmm", "control", "beside",
    },
    "views": {"core", "explain", "files", "memory", "mte"},
    "scan": {"explain", "files", "views"},
    "lab": {"binary", "files"},
    "cli": {
        "access", "beside", "boot", "control", "core", "devices", "explain", "lab", "machine",
        "migrate", "mte", "qapi", "qemu", "scan", "snapshot", "studies", "views", "vmm",
    },
    "__main__": {"cli"},
}  # fmt: skip
OPEN_TO_ALL = {"errors", "printable", "_lazy", "_native", "progress", ""}

# What the package itself offers; it imports them when they are used.
PUBLIC = {
    "access", "boot", "core", "kvm", "machine", "memory", "migrate", "mte", "paging",
    "qemu", "snapshot", "soft",
}  # fmt: skip

# The sans-I/O rule: the protocol knows bytes and records, not how they travel.
FORBIDDEN_TO_WIRE = {"socket", "threading", "asyncio", "selectors", "select", "ssl", "os", "time"}


def modules() -> list[Path]:
    return sorted(p for p in SOURCE.rglob("*.py") if "_lib" not in p.parts)


def part_of(path: Path) -> str:
    relative = path.relative_to(SOURCE).with_suffix("")
    return "" if relative.name == "__init__" and len(relative.parts) == 1 else relative.parts[0]


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_parts(path: Path) -> set[str]:
    known = set(ALLOWED) | OPEN_TO_ALL
    parts = {n.split(".")[1] for n in imported_names(path) if n.startswith("tagalong.")}
    return parts & known


def test_every_part_has_a_place_in_the_diagram() -> None:
    parts = {part_of(path) for path in modules()} - {""}

    assert parts == set(ALLOWED)


def test_imports_point_one_way() -> None:
    check_each(modules(), check_imports, lambda path: str(path.relative_to(SOURCE)))


def check_imports(path: Path) -> None:
    part = part_of(path)

    allowed = ALLOWED[part] if part else PUBLIC
    forbidden = imported_parts(path) - allowed - OPEN_TO_ALL - {part}

    assert not forbidden, f"{part} must not import {sorted(forbidden)}"


def test_diagram_has_no_cycle() -> None:
    def below(part: str, seen: tuple[str, ...] = ()) -> None:
        assert part not in seen, f"cycle: {' -> '.join((*seen, part))}"
        for other in ALLOWED[part]:
            below(other, (*seen, part))

    for part in ALLOWED:
        below(part)


def test_wire_does_no_io() -> None:
    paths = sorted((SOURCE / "wire").glob("*.py"))
    assert len(paths) > 5
    for path in paths:
        roots = {name.split(".")[0] for name in imported_names(path)}
        assert not roots & FORBIDDEN_TO_WIRE, path.name


def test_transport_knows_neither_the_protocol_nor_pages() -> None:
    for path in (SOURCE / "migrate" / "transport").glob("*.py"):
        own = {name for name in imported_names(path) if name.startswith("tagalong.migrate.")}
        foreign = {name for name in own if not name.startswith("tagalong.migrate.transport")}
        assert not foreign, path.name
        allowed = {
            "_lazy", "_native", "errors", "files", "migrate", "socket_files", "write_behind",
        }  # fmt: skip
        assert imported_parts(path) <= allowed, path.name


def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))

    assert len(places) > 100
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_only_the_runtime_dependencies_are_imported() -> None:
    declared = {"capstone", "click", "numpy", "qemu", "rich", "xxhash", "zstandard"}
    extras = {
        SOURCE / "drgn.py": {"drgn"},
        SOURCE / "scan" / "items.py": {"aiohttp", "fsspec"},
        SOURCE / "explain" / "drgn_frames.py": {"drgn"},
        SOURCE / "scan" / "parquet.py": {"pyarrow"},
        SOURCE / "scan" / "runner.py": {"distributed"},
    }

    for path in modules():
        used = {name.split(".")[0] for name in imported_names(path)}
        found = used - sys.stdlib_module_names - {"tagalong", ""}
        assert found <= declared | extras.get(path, set()), path.name
