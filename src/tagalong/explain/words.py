"""Numbers in the sentences of an explanation."""


def bytes_in_words(number: int) -> str:
    """Return a number of bytes.

    >>> bytes_in_words(1), bytes_in_words(40)
    ('1 byte', '40 bytes')
    """
    return f"{number:,} byte{'' if number == 1 else 's'}"


def tag_in_words(tag: int) -> str:
    """Return a tag as it is written everywhere.

    >>> tag_in_words(10)
    '0xa'
    """
    return f"{tag:#x}"
