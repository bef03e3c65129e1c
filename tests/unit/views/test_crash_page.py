"""The page about a crash says what the explanation says, whatever its texts hold."""

from dataclasses import replace

from tagalong.explain.crash import CheckMode, NoMemory, StackFrame, TagFault
from tagalong.views.granules import granules_of_fault
from tagalong.views.page.crash_page import crash_page
from tests.support.explained import BLOCK, FAULT, START, explanation
from tests.support.page_parts import PageParts

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e"


def test_page_tells_the_story_with_its_evidence() -> None:
    page = PageParts(crash_page(explanation()))

    for words in (
        "Most likely (90 %): the pointer's block was freed",
        "90 %", "use-after-free", "10 %", "overflow",
        "for: the pointer's block was freed (12 times more often)",
        "against: the pointer's block was freed (4 times less often)",
        "0x7f0000001028", "str x1, [x0, #8] at 0x401000", "write of 8 bytes",
        "0x03007f0000001020", "pointer to the heap", "holds the pointer",
        "main the pointer's block was freed (core.1234+0x1000)", "not known",
        "limit: the pointer's block was freed", "a note about the pointer's block was freed",
    ):  # fmt: skip
        assert words in page.text, words
    assert "wild-pointer" not in page.text  # below a tenth of a percent


def test_page_says_who_allocated_and_who_freed_the_block() -> None:
    found = explanation()
    freed = (StackFrame(0x40_2000, "release+0x8", "lib.so", 0x2000, source="a.c:7"),)
    block = replace(BLOCK, allocating_thread=41, freeing_thread=42, freed_by=freed)
    first = replace(found.hypotheses[0], block=block)

    page = PageParts(crash_page(replace(found, hypotheses=(first, *found.hypotheses[1:]))))

    assert "Allocated by thread 41" in page.text
    assert "Freed by thread 42" in page.text
    assert "0x402000 release+0x8 (lib.so+0x2000) at a.c:7" in page.text


def test_page_shows_memory_with_tags_around_the_fault() -> None:
    page = PageParts(crash_page(explanation()))

    assert "0x7f0000001020 5 20212223 24252627 28292a2b 2c2d2e2f !\"#$%&'()*+,-./" in page.text
    (here,) = [each for each in page.named("tr") if each.get("class") == "here"]
    assert here["aria-label"] == "the fault"


def test_map_of_the_page_has_fault_and_block() -> None:
    data = PageParts(crash_page(explanation())).data

    fault, block = data["marks"]
    assert (fault["start"], fault["letter"]) == (hex(FAULT), "")
    assert (block["start"], block["end"], block["letter"]) == (
        hex(BLOCK.start), hex(BLOCK.end), "A",
    )  # fmt: skip
    assert data["details"][hex(START + 0x1000)].startswith("5" * 64 + "0")


def test_hostile_text_stays_text() -> None:
    page = PageParts(crash_page(explanation(HOSTILE, HOSTILE)))

    assert len(page.named("script")) == 2
    assert page.named("img") == []
    assert not [name for _, each in page.elements for name in each if name.startswith("on")]
    shown = f"{HOSTILE[:-1]}\ufffd"
    assert page.text.count(shown) >= 10
    assert page.data["marks"][0]["text"] == "the fault"


def test_page_of_a_crash_without_place_or_memory_has_what_is_known() -> None:
    whole = explanation()
    fault = TagFault(CheckMode.ASYNC, "SEGV_MTEAERR")
    crash = replace(whole.crash, fault=fault, memory=NoMemory(), registers=None, access=None)

    page = PageParts(
        crash_page(replace(whole, crash=crash, neighbourhood=None, register_classes=()))
    )

    assert "asynchronous" in page.text
    assert page.data["regions"] == []
    assert "Memory around the fault" not in page.text
    assert "Registers" not in page.text


def test_page_without_a_failed_check_says_so() -> None:
    page = PageParts(crash_page(replace(explanation(), hypotheses=())))

    assert "No tag check failed, so there is nothing to weigh." in page.text
    assert "Hypotheses" not in page.text


def test_fault_has_pointer_and_block_to_draw() -> None:
    window = granules_of_fault(explanation())

    assert window is not None
    assert window.pointer == 0x0300_7F00_0000_1028
    assert window.pointer_granule == (FAULT - window.start) // 16
    assert window.pointer_text == "the fault, logical tag 3, allocation tag 5"
    (block,) = window.blocks
    assert block.text == (
        "[0x7f0000001000, 0x7f0000001030)  48 bytes, tag 3, freed (chunk headers)"
    )


def test_fault_without_a_place_has_nothing_to_draw() -> None:
    assert granules_of_fault(replace(explanation(), neighbourhood=None)) is None
