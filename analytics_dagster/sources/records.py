"""Delimited text cut into records, with each record's line number and original bytes.

Python's csv module cannot say where a record began, gives up at a bare carriage return, and lets one unclosed quote
swallow the file. Here the line end is found per file, a record may span lines only inside a properly closed quote and
within bounds, and whatever cannot be a record is handed on as one with its problem named, reading on at the next line.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.sources.files import SAMPLE_BYTES, SourceStream

MAX_RECORD_BYTES = 1 << 20
MAX_RECORD_LINES = 100
_CHUNK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_LINES = 200
_TOO_LONG = f"is longer than {MAX_RECORD_BYTES:,} bytes; only its beginning is kept here"
_UNCLOSED = "a quote is opened and not closed; close it, or write a quote inside a field twice"


class Line(NamedTuple):
    """A line without its end; `number` counts from 1."""

    number: int
    raw: bytes


class Record(NamedTuple):
    """One record. `fields` is None when it cannot be split, and `problem` then says why."""

    line: int
    raw: bytes
    fields: list[str] | None
    problem: str | None


@dataclass(frozen=True)
class Dialect:
    """How one file is written. `line_end` is what lines are cut at; `crlf` says to take a trailing CR off them too."""

    delimiter: str
    line_end: bytes
    crlf: bool


def decode(raw: bytes) -> str:
    """UTF-8; a record that is not is Windows-1252, and with bytes that has not, Latin-1.

    Text that was spoiled before it came here (UTF-8 read as Latin-1) stays as written: what it was cannot be known.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        try:
            return raw.decode("cp1252")
        except UnicodeDecodeError:
            return raw.decode("latin-1")


def read_lines(stream: SourceStream, line_end: bytes, *, crlf: bool = False) -> Iterator[Line]:
    """Lines without their ends, numbered from 1. One longer than MAX_RECORD_BYTES comes cut, one byte over the limit."""
    number, rest, skipping, first = 1, b"", False, True
    while chunk := stream.read(_CHUNK):
        if first:
            first = False
            chunk = chunk.removeprefix(_BOM)
        lines = (rest + chunk).split(line_end)
        rest = lines.pop()
        if skipping and lines:
            skipping = False
            del lines[0]
            number += 1
        for raw in lines:
            yield Line(number, _ended(raw, crlf))
            number += 1
        if skipping:
            rest = b""
        elif len(rest) > MAX_RECORD_BYTES:
            yield Line(number, rest[: MAX_RECORD_BYTES + 1])
            rest, skipping = b"", True
    if rest:
        yield Line(number, _ended(rest, crlf))


def _ended(raw: bytes, crlf: bool) -> bytes:
    raw = raw[:-1] if crlf and raw.endswith(b"\r") else raw
    return raw if len(raw) <= MAX_RECORD_BYTES else raw[: MAX_RECORD_BYTES + 1]


class DelimitedFile:
    """One delimited file: its dialect, its first record, and its records."""

    def __init__(self, stream: SourceStream) -> None:
        sample = stream.sample().removeprefix(_BOM)
        if sample.startswith(_UTF16):
            raise UnreadableFileError(f"{stream.name}: is UTF-16; save it as UTF-8 (CSV UTF-8 in spreadsheet programs)")
        self._stream = stream
        self.name = stream.name
        self.dialect = detect_dialect(sample)
        self.sampled = list(self._sample_records(sample))

    @property
    def first(self) -> list[str]:
        """The fields of the first record, stripped; empty for a file without any."""
        return [field.strip() for field in self.sampled[0]] if self.sampled else []

    def records(self, *, header: bool, width: int, quoted: bool = True) -> Iterator[Record]:
        """Every record after the header, blank lines left out. `width` is the number of fields that is right."""
        lines = read_lines(self._stream, self.dialect.line_end, crlf=self.dialect.crlf)
        records = split_records(lines, self.dialect, width, quoted=quoted)
        if header:
            next(records, None)
        return records

    def _sample_records(self, sample: bytes) -> Iterator[list[str]]:
        lines = sample.split(self.dialect.line_end)
        if len(lines) > 1 and len(sample) > SAMPLE_BYTES - len(_BOM) - 1:
            lines.pop()  # the sample ends somewhere inside it
        for raw in lines[:5_000]:
            if raw.strip():
                yield split_fields(decode(raw), self.dialect.delimiter)


def split_records(lines: Iterator[Line], dialect: Dialect, width: int, *, quoted: bool = True) -> Iterator[Record]:
    """Records of `lines`. A record spans lines only where its quotes close properly and it then has `width` fields
    (0: any number); else its first line alone is the bad record, and the next line is looked at afresh.
    """
    delimiter = dialect.delimiter
    pending: deque[Line] = deque()
    while True:
        line = pending.popleft() if pending else next(lines, None)
        if line is None:
            return
        number, raw = line
        if not raw or raw.isspace():
            continue
        if len(raw) > MAX_RECORD_BYTES:
            yield Record(number, raw[:MAX_RECORD_BYTES], None, _TOO_LONG)
        elif not quoted or b'"' not in raw:
            yield Record(number, raw, decode(raw).split(delimiter), None)
        else:
            text = decode(raw)
            fields = _split_strictly(text, delimiter)
            if fields is None and _closed(delimiter).fullmatch(text):
                fields = split_fields(text, delimiter)
            yield _spanning(line, lines, pending, dialect, width) if fields is None else Record(number, raw, fields, None)


def _split_strictly(text: str, delimiter: str) -> list[str] | None:
    """The fields of one well-formed record, by Python's csv, which is three times as fast; None for anything else."""
    try:
        return next(csv.reader((text,), delimiter=delimiter, strict=True))
    except csv.Error:
        return None


def _spanning(first: Line, lines: Iterator[Line], pending: deque[Line], dialect: Dialect, width: int) -> Record:
    """The record that begins with an unclosed quote at `first`. Lines it turns out not to need go back to `pending`."""
    taken: list[Line] = [first]
    size = len(first.raw)
    separator = b"\r\n" if dialect.crlf else dialect.line_end
    record: Record | None = None
    while record is None and len(taken) < MAX_RECORD_LINES:
        line = pending.popleft() if pending else next(lines, None)
        if line is None:
            break
        taken.append(line)
        size += len(line.raw) + len(separator)
        if size > MAX_RECORD_BYTES:
            break
        if b'"' in line.raw:
            raw = separator.join(part.raw for part in taken)
            text = decode(raw)
            if _closed(dialect.delimiter).fullmatch(text):
                fields = split_fields(text, dialect.delimiter)
                if not _strict(dialect.delimiter).fullmatch(text) or width not in (0, len(fields)):
                    break
                record = Record(first.number, raw, fields, None)
    if record is None:
        pending.extendleft(reversed(taken[1:]))
        return Record(first.number, first.raw, None, _UNCLOSED)
    return record


def split_fields(text: str, delimiter: str) -> list[str]:
    """The fields of one record, as Python's csv reads them: text after a closing quote is taken along."""
    if '"' not in text:
        return text.split(delimiter)
    fields: list[str] = []
    position, end = 0, len(text)
    pattern = _field(delimiter)
    while True:
        match = pattern.match(text, position)
        assert match is not None  # the pattern's last alternative matches anything up to a delimiter
        inside = match[1]
        fields.append(match[3] if inside is None else inside.replace('""', '"') + match[2])
        position = match.end() + 1
        if position > end:
            return fields


@lru_cache(maxsize=8)
def _field(delimiter: str) -> re.Pattern[str]:
    d = re.escape(delimiter)
    return re.compile(rf'"((?:[^"]++|"")*+)"([^{d}]*)|([^{d}]*)')


@lru_cache(maxsize=8)
def _closed(delimiter: str) -> re.Pattern[str]:
    """A text whose quotes are all closed, leniently: more text may follow a closing quote."""
    d = re.escape(delimiter)
    field = rf'(?:"(?:[^"]++|"")*+"[^{d}]*+|(?!")[^{d}]*+)'
    return re.compile(rf"{field}(?:{d}{field})*+")


@lru_cache(maxsize=8)
def _strict(delimiter: str) -> re.Pattern[str]:
    """A text whose quoted fields end where their quote closes."""
    d = re.escape(delimiter)
    field = rf'(?:"(?:[^"]++|"")*+"|(?!")[^{d}]*+)'
    return re.compile(rf"{field}(?:{d}{field})*+\r?")


def detect_dialect(sample: bytes) -> Dialect:
    """Line end and delimiter under which the most lines of `sample` have as many fields as the first.

    Bare carriage returns end lines in old files and stand inside fields in others: only the file itself tells.
    """
    carriage, feed, both = sample.count(b"\r"), sample.count(b"\n"), sample.count(b"\r\n")
    if not carriage or carriage == both or b"\n" in sample.partition(b"\r")[0]:
        ends = [b"\n"]  # whatever comes later: a first line that a feed ends
    elif not feed:
        ends = [b"\r"]
    else:
        ends = [b"\n", b"\r"]
    scored = [(*_agreement(sample, end, delimiter), end, delimiter) for end in ends for delimiter in _DELIMITERS]
    _, _, line_end, delimiter = max(scored, key=lambda entry: entry[:2])
    return Dialect(delimiter, line_end, crlf=line_end == b"\n" and both > 0 and both >= feed / 2)


def _agreement(sample: bytes, line_end: bytes, delimiter: str) -> tuple[float, int]:
    """(share of lines with as many fields as the first, that number); (0, 1) where the first is one field."""
    lines = [line for line in sample.split(line_end, _SAMPLE_LINES)[:_SAMPLE_LINES] if line.strip()]
    counts = [len(split_fields(decode(line), delimiter)) for line in lines]
    if not counts or counts[0] == 1:
        return 0.0, 1
    return counts.count(counts[0]) / len(counts), counts[0]
