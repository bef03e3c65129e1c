"""Arguments of control commands that no operator would write: each is answered, none is a bug."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from tests.support.vm_processes import Qmp, until, vm_process

QUIET = ("--guest", "churn", "--ram", "16M", "--paused")

LONG = "x" * 5000
STRINGS = (
    LONG,
    f"{LONG}/{LONG}",
    "/".join(["y" * 200] * 25),
    f"/{'z' * 107}",
    "\x01\x1b[2J\u202e\u2028",
    "..",
    " ",
    "%s%n{0}",
    "/dev/null/x",
    "/proc/self/mem",
    "\U0001f600" * 100,
)


def commands(text: str, folder: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield every command that takes a text, with this one in each place."""
    for scheme in ("tcp", "unix", "file", "exec", "fd", "tcp:host", text):
        if not (scheme == "exec" and ("/" in text or text in {"..", " "})):
            yield "migrate", {"uri": f"{scheme}:{text}"}
    yield "migrate", {"uri": f"file:{folder}/v,offset={text}"}
    yield "migrate", {"uri": "tcp:127.0.0.1:1", "x-access": text}
    yield "migrate", {"uri": f"tcp:{text}:1", "resume": True}
    yield "migrate-recover", {"uri": f"unix:{text}"}
    yield "migrate-set-parameters", {"tls-creds": text, "tls-hostname": text}
    yield "migrate", {"uri": "tcp:127.0.0.1:1"}
    yield "migrate-set-parameters", {"tls-creds": "", "tls-hostname": ""}
    yield "migrate-set-parameters", {"multifd-compression": text}
    yield "migrate-set-capabilities", {"capabilities": [{"capability": text, "state": True}]}
    for command in ("x-snapshot", "dump-guest-memory"):
        more = {"paging": False} if command == "dump-guest-memory" else {}
        yield command, {"protocol": f"file:{text}", **more}
        yield command, {"protocol": text, **more}
        yield command, {"protocol": f"file:{folder}/s", "x-access": text, **more}
    yield "dump-guest-memory", {"protocol": "file:x", "paging": True, "x-space": text}
    yield "dump-guest-memory", {"protocol": "file:x", "paging": False, "format": text}


def settled(qmp: Qmp) -> list[Mapping[str, object]]:
    """Return what query-migrate and query-dump say once nothing is under way."""

    def answers() -> list[Mapping[str, object]]:
        replies = (qmp.execute(name)["return"] for name in ("query-migrate", "query-dump"))
        return [cast("Mapping[str, object]", reply) for reply in replies]

    until(
        lambda: all(
            each.get("status", "none") in {"none", "completed", "failed", "cancelled"}
            for each in answers()
        ),
        "the end of what was begun",
    )
    return answers()


def test_texts_that_no_operator_would_write_are_answered_and_are_no_bugs(tmp_path: Path) -> None:
    with vm_process(tmp_path, "vm", *QUIET) as vm, vm.qmp() as qmp:
        for text in STRINGS:
            for command, arguments in commands(text, tmp_path):
                reply = qmp.execute(command, **arguments)
                said = [str(reply.get("error", "")), *map(str, settled(qmp))]

                assert not any("internal error" in each for each in said), (command, arguments)
                if qmp.state() == "postmigrate":
                    qmp.execute("x-reclaim")
                assert qmp.state() in {"prelaunch", "paused"}, (command, arguments)

        assert "bug in tagalong" not in vm.messages
        assert not vm.has_ended()
