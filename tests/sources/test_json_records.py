from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.sources.files import SourceStream
from analytics_dagster.sources.json_records import JsonRecord, json_records

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=6), VALUES, max_size=4)


class Dripping(io.BytesIO):
    """Gives a few bytes at a time, whatever is asked for: every border falls inside a chunk border once."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(7, size) if size and size > 0 else 7)


def records(content: bytes, dripping: bool = False) -> list[JsonRecord]:
    return list(json_records(SourceStream(Dripping(content) if dripping else io.BytesIO(content), "test.json")))


@given(st.lists(OBJECTS, max_size=6), st.sampled_from([None, 0, 2]), st.booleans())
def test_an_array_comes_apart_however_it_is_laid_out(objects: list[object], indent: int | None, ascii: bool) -> None:
    found = records(json.dumps(objects, indent=indent, ensure_ascii=ascii).encode())
    assert [json.loads(record.raw) for record in found] == objects
    assert all(record.problem is None for record in found)


@given(st.lists(OBJECTS, max_size=6))
def test_lines_come_apart_into_their_objects(objects: list[object]) -> None:
    found = records("\n\n".join(json.dumps(o) for o in objects).encode())
    assert [json.loads(record.raw) for record in found] == objects


@given(st.binary(max_size=300))
def test_no_bytes_stop_the_reader_of_arrays(content: bytes) -> None:
    assert all(record.raw for record in records(b"[" + content))


def test_an_array_is_read_across_chunks_with_its_line_numbers() -> None:
    content = json.dumps([{"a": "x" * 900, "b": {"c": [1, {"d": "}"}]}} for _ in range(5_000)], indent=1).encode()
    found = records(content)
    assert len(found) == 5_000
    lines = content.split(b"\n")
    for record in found[::499]:
        assert lines[record.line - 1].strip() == b"{"
        assert json.loads(record.raw)["b"]["c"][1]["d"] == "}"


def test_a_damaged_object_costs_one_record() -> None:
    content = b'[\n {"a": 1},\n {"a": oops},\n {"a": "unclosed},\n {"a": 4},\n {"a": 5}\n]\n'
    found = records(content)
    assert [record.line for record in found] == [2, 3, 4, 5, 6]
    assert found[2].raw == b'{"a": "unclosed}'
    assert found[2].problem
    assert found[4].raw == b'{"a": 5}'


def test_an_unclosed_quote_on_one_long_line_costs_few_records() -> None:
    objects = [b'{"n": %d, "s": "t"}' % n for n in range(20)]
    objects[5] = b'{"n": 5, "s": "t}'
    found = records(b"[" + b",".join(objects) + b"]")
    whole = {json.loads(r.raw)["n"] for r in found if r.problem is None and _loads(r.raw)}
    assert len(whole) >= 18


def test_a_file_that_ends_early_has_its_last_record_refused() -> None:
    found = records(b'[{"a": 1}, {"a": 2')
    assert found[0].problem is None
    assert "ends" in str(found[1].problem)
    assert len(found) == 2


def test_elements_that_are_no_objects_are_records_with_a_problem() -> None:
    found = records(b'[1, "two", null, {"a": 1}]')
    assert [record.problem is None for record in found] == [False, False, False, True]


def test_what_is_no_json_is_unreadable() -> None:
    with pytest.raises(UnreadableFileError, match="expected a JSON array"):
        records(b"a,b,c\n1,2,3\n")


def _loads(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except ValueError:
        return False
    return True
