"""Where QMP messages end, however the bytes arrive."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagalong.qmp.framing import MAX_MESSAGE_BYTES, MessageSplitter, OversizedMessageError

STOP = b'{"execute": "stop"}'
CONT = b'{"execute": "cont"}'

json_objects = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=12),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@pytest.mark.parametrize("separator", [b"", b"\n", b"\r\n", b" \t\n\n"])
def test_feed_two_messages_yields_both_whatever_separates_them(separator: bytes) -> None:
    splitter = MessageSplitter()

    messages = list(splitter.feed(STOP + separator + CONT))

    assert messages == [STOP, CONT]


def test_feed_message_over_several_lines_yields_it_whole() -> None:
    message = b'{\r\n\t"execute":\n "stop"\n}'

    assert list(MessageSplitter().feed(message)) == [message]


@pytest.mark.parametrize(
    "text",
    [
        rb'{"a": "}"}',
        rb'{"a": "\"}"}',
        rb'{"a": "\\"}',
        rb'{"a": "\\\"}{"}',
        rb'{"a": [{}, [], {"b": "]"}]}',
        b'{"a": "\xc3\xa9}"}',
    ],
)
def test_feed_brackets_and_quotes_in_strings_do_not_end_a_message(text: bytes) -> None:
    assert list(MessageSplitter().feed(text + STOP)) == [text, STOP]


@given(objects=st.lists(json_objects, min_size=1, max_size=4), ascii_only=st.booleans())
@settings(max_examples=60)
def test_feed_byte_by_byte_yields_what_was_written(
    objects: list[dict[str, object]], ascii_only: bool
) -> None:
    splitter = MessageSplitter()
    stream = b"".join(json.dumps(o, ensure_ascii=ascii_only).encode() for o in objects)

    messages = [m for i in range(len(stream)) for m in splitter.feed(stream[i : i + 1])]

    assert [json.loads(m) for m in messages] == objects


def test_feed_line_that_is_no_message_yields_the_line() -> None:
    assert list(MessageSplitter().feed(b"hello } there\n" + STOP)) == [b"hello } there", STOP]


def test_feed_line_end_inside_string_ends_the_message() -> None:
    assert list(MessageSplitter().feed(b'{"execute": "sto\n' + CONT)) == [
        b'{"execute": "sto',
        CONT,
    ]


@pytest.mark.parametrize("control", [b"\x00", b"\x0b", b"\x1b", b"\xff"])
@pytest.mark.parametrize("pending", [b'{"execute": ', b'{"execute": "st', b"hello", b'{"a": "\\'])
def test_feed_control_character_ends_whatever_is_pending(pending: bytes, control: bytes) -> None:
    assert list(MessageSplitter().feed(pending + control + STOP)) == [pending + control, STOP]


def test_feed_limit_reached_exactly_yields_the_message() -> None:
    message = b'{"a": "%s"}' % (b"x" * (MAX_MESSAGE_BYTES - 9))
    assert len(message) == MAX_MESSAGE_BYTES

    assert list(MessageSplitter().feed(message)) == [message]


@pytest.mark.parametrize("end", [b'"}', b""])
def test_feed_limit_exceeded_raises_once_it_is_clear(end: bytes) -> None:
    splitter = MessageSplitter()

    with pytest.raises(OversizedMessageError, match=r"^QMP message exceeds 65536 bytes$"):
        list(splitter.feed(b'{"a": "' + b"x" * MAX_MESSAGE_BYTES + end))


def test_feed_whitespace_only_keeps_nothing() -> None:
    splitter = MessageSplitter()

    for _ in range(3):
        assert list(splitter.feed(b" \n" * MAX_MESSAGE_BYTES)) == []
