from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.sources.files import SourceFile, SourceStream
from analytics_dagster.sources.records import (
    MAX_RECORD_BYTES,
    MAX_RECORD_LINES,
    DelimitedFile,
    Dialect,
    Record,
    decode,
    detect_dialect,
    read_lines,
    split_fields,
    split_records,
)

CELLS = st.text(st.characters(exclude_characters="\r\x00", exclude_categories=["Cs"]), max_size=12)


def records(content: bytes, width: int = 0, dialect: Dialect | None = None) -> list[Record]:
    dialect = dialect or Dialect(",", b"\n", crlf=False)
    lines = read_lines(SourceStream(io.BytesIO(content), "test"), dialect.line_end, crlf=dialect.crlf)
    return list(split_records(lines, dialect, width))


def fields(content: bytes, width: int = 0, dialect: Dialect | None = None) -> list[list[str] | None]:
    return [record.fields for record in records(content, width, dialect)]


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=20), st.sampled_from(["\n", "\r\n"]), st.sampled_from(",;\t"))
def test_what_csv_wrote_is_read_as_csv_reads_it(rows: list[list[str]], end: str, delimiter: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(rows)
    expected = [row for row in csv.reader(io.StringIO(text.getvalue(), newline=""), delimiter=delimiter) if "".join(row).strip()]
    read = fields(text.getvalue().encode(), 3, Dialect(delimiter, b"\n", crlf=end == "\r\n"))
    assert [row for row in read if row and "".join(row).strip()] == expected


@given(st.text('ab",;x', max_size=30))
def test_one_line_with_closed_quotes_splits_as_csv_splits_it(line: str) -> None:
    [record] = records(f"x{line}".encode()) or [None]
    assert record is not None
    if record.fields is not None:
        assert record.fields == next(csv.reader([f"x{line}"]))


@given(st.binary(max_size=400))
def test_any_bytes_are_accounted_for_line_by_line(content: bytes) -> None:
    found = records(content)
    covered = 0
    for record in found:
        covered += record.raw.count(b"\n") + 1
        assert content.split(b"\n")[record.line - 1].startswith(record.raw.split(b"\n")[0])
    blank = sum(1 for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if not line.strip())
    inside = sum(1 for record in found for line in record.raw.split(b"\n") if not line.strip())
    assert covered + blank - inside == content.count(b"\n") + 1


def test_a_record_may_span_lines_inside_quotes() -> None:
    found = records(b'a,"one\ntwo",c\nd,e,f\n', 3)
    assert [(r.line, r.fields) for r in found] == [(1, ["a", "one\ntwo", "c"]), (3, ["d", "e", "f"])]
    assert found[0].raw == b'a,"one\ntwo",c'


def test_an_unclosed_quote_costs_one_record() -> None:
    found = records(b'a,b,c\nd,"e,f\ng,h,i\nj,k,l\n', 3)
    assert [r.fields for r in found] == [["a", "b", "c"], None, ["g", "h", "i"], ["j", "k", "l"]]
    assert found[1].raw == b'd,"e,f'
    assert "quote" in str(found[1].problem)


def test_an_unclosed_quote_does_not_take_the_next_quoted_line_with_it() -> None:
    found = records(b'a,"b,c\nd,"e",f\ng,h,i\n', 3)
    assert [r.fields for r in found] == [None, ["d", "e", "f"], ["g", "h", "i"]]


def test_an_unclosed_quote_is_looked_for_in_a_bounded_number_of_lines() -> None:
    lines = [b'x,"open,z'] + [b"a,b,c"] * (MAX_RECORD_LINES * 3) + [b'd",e']
    found = records(b"\n".join(lines), 3)
    assert found[0].fields is None
    assert sum(1 for r in found if r.fields == ["a", "b", "c"]) == MAX_RECORD_LINES * 3


def test_a_line_without_end_is_cut_and_reading_goes_on() -> None:
    found = records(b"a,b\n" + b"x" * (3 * MAX_RECORD_BYTES) + b"\nc,d\n")
    assert [r.line for r in found] == [1, 2, 3]
    assert len(found[1].raw) == MAX_RECORD_BYTES
    assert "longer" in str(found[1].problem)
    assert found[2].fields == ["c", "d"]


def test_bare_carriage_returns_end_lines_where_nothing_else_does() -> None:
    dialect = detect_dialect(b'a,b,c\r1,"\r",3\r4,5,6\r')
    assert dialect.line_end == b"\r"
    assert fields(b'a,b,c\r1,"\r",3\r4,5,6\r', 3, dialect) == [["a", "b", "c"], ["1", "\r", "3"], ["4", "5", "6"]]


def test_bare_carriage_returns_stay_inside_fields_where_line_feeds_end_lines() -> None:
    content = b'a,b,c\n1,\r,3\n4,5,6\n7,\r,"8,9"\n'
    dialect = detect_dialect(content)
    assert dialect == Dialect(",", b"\n", crlf=False)
    assert fields(content, 3, dialect)[1:] == [["1", "\r", "3"], ["4", "5", "6"], ["7", "\r", "8,9"]]


def test_line_feeds_inside_quotes_do_not_end_lines_of_a_file_with_carriage_returns() -> None:
    content = b'a,b,c\r1,"x\ny",3\r4,5,6\r7,8,9\r'
    dialect = detect_dialect(content)
    assert dialect.line_end == b"\r"
    assert fields(content, 3, dialect)[1] == ["1", "x\ny", "3"]


@pytest.mark.parametrize(
    ("content", "delimiter"),
    [
        (b"a;b;c\n1,5;2;3\n4,5;5;6\n", ";"),
        (b"u1\t2009\tx\tA, B, C, D\nu1\t2009\ty\tE\n", "\t"),
        (b"artist,album,track\nX;Y,b,c\nZ,b,c\n", ","),
        (b"a|b\n1|2\n", "|"),
        (b"only\none\n", ","),
    ],
)
def test_the_delimiter_is_the_one_that_lines_agree_on(content: bytes, delimiter: str) -> None:
    assert detect_dialect(content).delimiter == delimiter


def test_a_record_that_is_not_utf8_is_windows_1252() -> None:
    assert decode("naïve – 日本".encode()) == "naïve – 日本"
    assert decode(b"na\xefve \x96 x") == "naïve – x"
    assert decode(b"\x81\xe9") == "\x81é"


def test_mojibake_stays_as_it_was_written() -> None:
    assert decode("BeyoncÃ©".encode()) == "BeyoncÃ©"


def test_a_byte_order_mark_is_not_part_of_the_first_header(tmp_path: Path) -> None:
    path = tmp_path / "bom.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    with SourceFile("bom.csv", path).open() as stream:
        source = DelimitedFile(stream)
        assert source.first == ["a", "b"]
        assert [r.fields for r in source.records(header=True, width=2)] == [["1", "2"]]


def test_utf16_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "u.csv"
    path.write_bytes("a,b\n1,2\n".encode("utf-16"))
    with SourceFile("u.csv", path).open() as stream, pytest.raises(UnreadableFileError, match="UTF-8"):
        DelimitedFile(stream)


def test_text_after_a_closing_quote_is_taken_along_as_csv_does() -> None:
    line = '"Heroes" (single),"a""b",c"d'
    assert split_fields(line, ",") == next(csv.reader([line])) == ["Heroes (single)", 'a"b', 'c"d']


def test_a_first_line_that_a_feed_ends_is_the_header_whatever_dirt_comes_later() -> None:
    sample = b"station,played_at,title,artist\n\xff\r\r\xe2w\xe2;\na,2018-01-01 10:02,T,X\n"
    assert detect_dialect(sample) == Dialect(",", b"\n", crlf=False)
