"""What is public can be imported, is documented, and loads only when it is used."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import tagalong

SOURCE = Path(tagalong.__file__)
PRIVATE = (
    "beside",
    "binary",
    "cli",
    "control",
    "devices",
    "explain",
    "lab",
    "qapi",
    "qmp",
    "scan",
    "studies",
    "views",
    "vmm",
    "wire",
)


def public_packages() -> list[ModuleType]:
    values = (getattr(tagalong, name) for name in tagalong.__all__)
    return [value for value in values if isinstance(value, ModuleType)]


def test_every_name_of_all_exists_and_is_the_one_that_type_checkers_see() -> None:
    (typed,) = (
        node
        for node in ast.parse(SOURCE.read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.name: each.module
        for each in typed.body
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }

    assert set(seen) | {"__version__"} == set(tagalong.__all__)
    for name, module in seen.items():
        home = import_module(module or "")
        expected = getattr(home, name, None) or import_module(f"{module}.{name}")
        assert getattr(tagalong, name) is expected, name


def test_public_packages_export_what_exists_and_document_it() -> None:
    for package in public_packages():
        assert package.__doc__, package.__name__
        for name in getattr(package, "__all__", ()):
            value = getattr(package, name)
            assert not isinstance(value, type) or value.__doc__, f"{package.__name__}.{name}"


def test_private_packages_say_so() -> None:
    for name in PRIVATE:
        assert "Private:" in (import_module(f"tagalong.{name}").__doc__ or ""), name


def test_every_package_is_public_or_private() -> None:
    packages = {each.parent.name for each in SOURCE.parent.glob("*/__init__.py")}

    assert packages == {*PRIVATE, *(each.__name__.split(".")[1] for each in public_packages()
                                    if hasattr(each, "__path__"))}  # fmt: skip


def test_import_of_tagalong_loads_nothing_else() -> None:
    script = "import sys, tagalong; print([n for n in sys.modules if n.startswith('tagalong.')])"

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ran.stdout == "['tagalong._lazy']\n"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'tagalong' has no attribute 'nothing'$"):
        _ = tagalong.nothing  # type: ignore[attr-defined]


def test_dir_lists_what_is_public_before_it_is_loaded() -> None:
    assert set(tagalong.__all__) <= set(dir(tagalong))
