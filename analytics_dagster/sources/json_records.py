"""JSON cut into records: one object a line, or one array of objects however it is laid out, told apart by the first byte.

A whole export is never parsed at once: the extent of each object is found in the bytes, and only that is decoded, so one
damaged object costs one record and memory stays that of the largest record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.sources.files import SourceStream
from analytics_dagster.sources.records import MAX_RECORD_BYTES, read_lines

_CHUNK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_STRING = rb'"(?:[^"\\\n]++|\\.)*+"'  # JSON strings hold no raw line breaks, so an unclosed one ends with its line
_FLAT = re.compile(rb'\{(?:[^"{}]++|' + _STRING + rb")*+\}")
_TOKEN = re.compile(_STRING + rb'|[{}]|"')
_NEXT_OBJECT = re.compile(rb"\}\s*,\s*(?=\{)")
_BETWEEN = re.compile(rb"[\s,\[\]]*+")
TOO_LONG = f"is longer than {MAX_RECORD_BYTES:,} bytes; only its beginning is kept here"
_CUT_SHORT = "the file ends inside this record; fetch it again"
_UNCLOSED = "a quote is opened and not closed"
_NOT_AN_OBJECT = "is not a JSON object; the file should be an array of objects, or one object a line"


class JsonRecord(NamedTuple):
    """The bytes of one record, to be decoded by its format unless `problem` says why it cannot be."""

    line: int
    raw: bytes
    problem: str | None


def json_records(stream: SourceStream) -> Iterator[JsonRecord]:
    """The records of a JSON array or of JSON lines. Raises UnreadableFileError for a file that is neither."""
    head = stream.sample().removeprefix(_BOM).lstrip()
    if head.startswith(b"["):
        return array_records(stream)
    if not head or head.startswith(b"{"):
        return line_records(stream)
    raise UnreadableFileError(f"{stream.name}: begins with {head[:20]!r}; expected a JSON array of objects, or JSON lines")


def line_records(stream: SourceStream) -> Iterator[JsonRecord]:
    """One record a line; blank lines are none."""
    for number, raw in read_lines(stream, b"\n", crlf=True):
        if not raw or raw.isspace():
            continue
        if len(raw) > MAX_RECORD_BYTES:
            yield JsonRecord(number, raw[:MAX_RECORD_BYTES], TOO_LONG)
        else:
            yield JsonRecord(number, raw, None)


def array_records(stream: SourceStream) -> Iterator[JsonRecord]:
    """The elements of a top-level array."""
    return _ArrayReader(stream).records()


class _ArrayReader:
    """Walks an array with a window of bytes that grows only while one element does not fit."""

    def __init__(self, stream: SourceStream) -> None:
        self._stream = stream
        self._window = b""
        self._at = 0
        self._counted = 0  # how far into the window line breaks are counted
        self._line = 1
        self._ended = False

    def records(self) -> Iterator[JsonRecord]:
        while self._more():
            yield self._record()

    def _more(self) -> bool:
        """Go to the next element; False at the end of the file."""
        while True:
            self._at = _BETWEEN.match(self._window, self._at).end()  # type: ignore[union-attr]  # matches the empty string too
            if self._at < len(self._window):
                return True
            if not self._fill():
                return False

    def _record(self) -> JsonRecord:
        while True:
            end, problem = self._extent()
            if end is not None:
                line = self._line_at(self._at)
                raw = self._window[self._at : end].rstrip()
                self._at = end
                return JsonRecord(line, raw, problem)
            if len(self._window) - self._at > MAX_RECORD_BYTES:
                return self._skip(TOO_LONG)
            if not self._fill():
                return self._skip(_CUT_SHORT)

    def _extent(self) -> tuple[int | None, str | None]:
        """Where the element at the cursor ends, and what is wrong with it; None when the window holds too little to say."""
        window, at = self._window, self._at
        if window[at : at + 1] != b"{":
            return self._not_an_object()
        end = window.find(b"}", at) + 1
        if end and _plainly_whole(window[at:end]):
            return end, None
        if match := _FLAT.match(window, at):
            return self._checked(match.end())
        depth = 0
        for token in _TOKEN.finditer(window, at):
            mark = token[0]
            if mark == b"{":
                depth += 1
            elif mark == b"}":
                depth -= 1
                if depth == 0:
                    return self._checked(token.end())
            elif mark == b'"':
                # An unclosed quote, unless its line is not all here: the element cannot be trusted past it.
                if window.find(b"\n", token.start()) < 0 and not self._ended:
                    return None, None
                return self._resynchronized(token.start())
        return None, None

    def _checked(self, end: int) -> tuple[int, str | None]:
        """`end`, unless an unclosed quote made two elements look like one: then the end of the first of them."""
        border = _NEXT_OBJECT.search(self._window, self._at, end)
        if border is None or _is_json(self._window[self._at : end]):
            return end, None
        return border.start() + 1, _UNCLOSED

    def _resynchronized(self, start: int) -> tuple[int | None, str | None]:
        following = _NEXT_OBJECT.search(self._window, start)
        if following:
            return following.start() + 1, _UNCLOSED
        return None, None

    def _not_an_object(self) -> tuple[int | None, str | None]:
        for position in range(self._at, len(self._window)):
            if self._window[position] in b"{,]":
                return max(position, self._at + 1), _NOT_AN_OBJECT
        return None, None

    def _skip(self, problem: str) -> JsonRecord:
        """Give up the element at the cursor: its beginning is the record, and reading goes on at the next object."""
        line, start = self._line_at(self._at), self._at
        following = _NEXT_OBJECT.search(self._window, start)
        end = following.start() + 1 if following else len(self._window)
        raw = self._window[start : min(end, start + MAX_RECORD_BYTES)].rstrip()
        while following is None:
            self._at = max(self._at, len(self._window) - 1_024)  # the border may stand across two chunks
            if not self._fill():
                self._at = len(self._window)
                return JsonRecord(line, raw, problem)
            following = _NEXT_OBJECT.search(self._window, self._at)
        self._at = following.start() + 1
        return JsonRecord(line, raw, problem)

    def _fill(self) -> bool:
        """Read on, dropping what is behind the cursor."""
        self._line_at(self._at)
        chunk = self._stream.read(_CHUNK)
        if not chunk:
            self._ended = True
            return False
        if not self._window and not self._at:
            chunk = chunk.removeprefix(_BOM)
        self._window = self._window[self._at :] + chunk
        self._at = self._counted = 0
        return True

    def _line_at(self, position: int) -> int:
        self._line += self._window.count(b"\n", self._counted, position)
        self._counted = position
        return self._line


def _plainly_whole(raw: bytes) -> bool:
    """Whether bytes from "{" to the first "}" are one flat object: with even quotes and no escapes that brace is in no text."""
    return raw.count(b"{") == 1 and raw.count(b'"') % 2 == 0 and b"\\" not in raw


def _is_json(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True
