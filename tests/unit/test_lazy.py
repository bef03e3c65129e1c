"""Names and modules load when they are used, and what type checkers see is what loads."""

import ast
import gc
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import tagalong
from tagalong._lazy import loading, module_when_used, names_of

SOURCE = Path(tagalong.__file__).parent


def lazy_packages() -> list[Path]:
    return [path for path in SOURCE.rglob("__init__.py") if "names_of(" in path.read_text()]


def typed_names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield module and name of all that is imported under TYPE_CHECKING."""
    for block in tree.body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for node in block.body:
                assert isinstance(node, ast.ImportFrom)
                yield from ((node.module or "", alias.name) for alias in node.names)


def loaded_names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield module and name of all that is in the table for the interpreter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "names_of":
            table: dict[str, tuple[str, ...]] = ast.literal_eval(node.args[1])
            yield from ((module, name) for module, names in table.items() for name in names)


def test_every_package_that_offers_names_of_its_modules_loads_them_when_used() -> None:
    for path in SOURCE.rglob("__init__.py"):
        imported = [
            ast.unparse(node)
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tagalong")
        ]
        assert imported in ([], ["from tagalong._lazy import names_of"]), path


def test_table_of_every_package_is_what_type_checkers_see() -> None:
    assert len(lazy_packages()) > 15
    for path in lazy_packages():
        tree = ast.parse(path.read_text())
        assert sorted(typed_names(tree)) == sorted(loaded_names(tree)), path


def test_no_module_has_the_name_of_something_that_its_package_offers() -> None:
    for path in lazy_packages():
        beside = {each.stem for each in path.parent.glob("*.py")}
        beside |= {each.parent.name for each in path.parent.glob("*/__init__.py")}
        offered = {
            name
            for module, name in loaded_names(ast.parse(path.read_text()))
            if module != "tagalong"
        }
        assert not beside & offered, path


def test_every_name_of_every_package_loads() -> None:
    for path in lazy_packages():
        parts = path.parent.relative_to(SOURCE.parent).parts
        package = importlib.import_module(".".join(parts))
        for module, name in loaded_names(ast.parse(path.read_text())):
            value = getattr(package, name)
            home = importlib.import_module(module)
            assert value is getattr(home, name), f"{package.__name__}.{name}"
            assert name in dir(package)


def test_name_that_a_package_does_not_offer_is_an_attribute_error() -> None:
    load, names = names_of("tagalong.mte", {"tagalong.mte.pointers": ("address_of",)})

    assert "address_of" in names()
    with pytest.raises(
        AttributeError, match=r"^module 'tagalong\.mte' has no attribute 'nothing'$"
    ):
        load("nothing")


def test_module_when_used_loads_at_the_first_use_of_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loaded_late.py").write_text("VALUE = 7\n")
    monkeypatch.syspath_prepend(tmp_path)

    module = module_when_used("loaded_late")

    assert "loaded_late" not in sys.modules
    assert module.VALUE == 7
    assert "loaded_late" in sys.modules
    del sys.modules["loaded_late"]
    assert module.VALUE == 7  # kept: no second load
    assert "loaded_late" not in sys.modules


@pytest.mark.parametrize("collects", [True, False])
def test_loading_collects_no_garbage_meanwhile_and_then_as_before(*, collects: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()

        with suppress(KeyError), loading():
            meanwhile = gc.isenabled()
            raise KeyError

        assert not meanwhile
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()


@pytest.fixture
def collecting() -> Iterator[None]:
    before = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if before else gc.disable)()


class Loader(threading.Thread):
    """A thread that loads modules from its start until `end`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._began = threading.Event()
        self._may_end = threading.Event()

    def run(self) -> None:
        with loading():
            self._began.set()
            self._may_end.wait()

    def begin(self) -> None:
        self.start()
        self._began.wait()

    def end(self) -> None:
        self._may_end.set()
        self.join()


@pytest.mark.usefixtures("collecting")
@pytest.mark.parametrize("first_ends_first", [True, False])
def test_loading_in_two_threads_collects_again_when_the_last_has_ended(
    *, first_ends_first: bool
) -> None:
    threads = [Loader(), Loader()]
    for thread in threads:
        thread.begin()
    if not first_ends_first:
        threads.reverse()

    threads[0].end()
    meanwhile = gc.isenabled()
    threads[1].end()

    assert not meanwhile
    assert gc.isenabled()


@pytest.mark.usefixtures("collecting")
def test_loading_within_loading_collects_again_at_the_end_of_the_whole() -> None:
    with loading():
        with loading():
            pass
        assert not gc.isenabled()

    assert gc.isenabled()


@pytest.mark.usefixtures("collecting")
@pytest.mark.parametrize("forks_while_it_loads", [True, False])
def test_child_that_forked_while_another_thread_loads_collects(
    *, forks_while_it_loads: bool
) -> None:
    other = Loader()
    other.begin()

    if forks_while_it_loads:
        with loading():
            status = status_of_child(lambda: not gc.isenabled())
    else:
        status = status_of_child(gc.isenabled)
    other.end()

    assert status == 0


def status_of_child(is_right: Callable[[], bool]) -> int:
    """Fork, and return the status of a child that ends with 0 if `is_right` there."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child = os.fork()  # newer Pythons warn if there are threads, which is the point here
    if not child:
        os._exit(0 if is_right() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
