"""What the probe makes of what a host has and has not."""

import json
from pathlib import Path

import pytest

from tagalong.errors import HostError
from tagalong.studies.probe import Answer, ProbeFinding, ProbeReport, probe
from tagalong.studies.probe.findings import CannotTryError, attempt


def failing(error: Exception) -> ProbeFinding:
    def trial() -> str:
        raise error

    return attempt("it", trial)


def test_attempt_that_works_is_a_yes_with_its_value() -> None:
    assert attempt("it", lambda: "4 of them") == ProbeFinding("it", Answer.YES, "4 of them")


@pytest.mark.parametrize("error", [HostError("not there"), OSError("not there")])
def test_attempt_that_the_host_refuses_is_a_no_with_the_reason(error: Exception) -> None:
    assert failing(error) == ProbeFinding("it", Answer.NO, "not there")


def test_attempt_that_cannot_be_made_is_no_no() -> None:
    assert failing(CannotTryError("no pages")) == ProbeFinding("it", Answer.UNKNOWN, "no pages")


def test_attempt_that_fails_for_a_bug_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())


def test_probe_of_this_host_answers_every_question() -> None:
    report = probe()

    assert report["kernel"].answer is Answer.YES
    assert report["page_size"].detail.endswith(" bytes")
    assert report["machine_kvm"].answer in {Answer.YES, Answer.NO}
    assert len({finding.name for finding in report.findings}) == len(report.findings)


def fake_qemu(folder: Path, version: str, *capabilities: str) -> str:
    """Return a program that answers as a QEMU without a machine does."""
    program = folder / "qemu"
    answer = json.dumps({"return": [{"capability": each} for each in capabilities]})
    program.write_text(
        f"#!/bin/sh\nif [ $1 = --version ]; then echo 'QEMU emulator version {version}'; "
        f"else cat > {folder}/asked; echo '{answer}'; fi\n"
    )
    program.chmod(0o755)
    return str(program)


def test_qemu_that_can_pause_before_its_end_can_run_beside_us(tmp_path: Path) -> None:
    qemu = fake_qemu(tmp_path, "10.0.2 (Debian)", "multifd", "pause-before-switchover")

    finding = probe(qemu)["beside_qemu"]

    assert finding.answer is Answer.YES
    assert finding.detail == f"{qemu}, version 10.0.2, waits for its last tags"
    assert "query-migrate-capabilities" in (tmp_path / "asked").read_text()


def test_qemu_that_cannot_pause_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    finding = probe(fake_qemu(tmp_path, "3.1.0", "xbzrle"))["beside_qemu"]

    assert finding.answer is Answer.NO
    assert "version 3.1.0, cannot wait for its last tags (pause-before-switchover)" in (
        finding.detail
    )


def test_qemu_that_is_missing_is_unknown(tmp_path: Path) -> None:
    for name in ("beside_qemu", "beside_guest"):
        finding = probe(str(tmp_path / "none"))[name]

        assert finding.answer is Answer.UNKNOWN
        assert "is not on the PATH; --vmm names another one" in finding.detail


def test_report_as_json_has_an_answer_and_a_detail_for_each() -> None:
    report = ProbeReport((ProbeFinding("kvm", Answer.NO, "there is no /dev/kvm"),))

    text = json.dumps(report.to_json())

    assert json.loads(text) == {"kvm": {"answer": "no", "detail": "there is no /dev/kvm"}}
    with pytest.raises(KeyError):
        report["other"]
