"""Words that people and data bring: what of them can be drawn or sent, and what is refused where they are written."""

from __future__ import annotations

import re
import unicodedata

# https://www.w3.org/TR/xml/#charsets. What draws pictures ends the process where one of these stands in a text.
_NOT_OF_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Controls, halves of surrogate pairs, line and paragraph separators. Not all that is not `str.isprintable`: emoji are joined by
# format characters, and names have no-break spaces.
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})


def drawable(text: str) -> str:
    """`text` without the characters that XML 1.0 does not allow, escaped or not."""
    return _NOT_OF_XML.sub("", text)


def one_line(text: str) -> str:
    """`text` itself. Raises ValueError naming the first line break or other character that nobody can see."""
    for place, character in enumerate(text, start=1):
        if unicodedata.category(character) in _UNSEEN or drawable(character) != character:
            raise ValueError(f"has U+{ord(character):04X} as character {place}; write one line of characters that can be seen")
    return text
