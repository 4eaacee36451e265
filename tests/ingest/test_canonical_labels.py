"""Canonical labels: one text for one set of labels, the text that JSON's own encoder makes of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.ingest.points import RefusedValueError, canonical_labels

KEYS = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,5}", fullmatch=True).filter(lambda key: key not in ("alertname", "severity"))


@given(st.dictionaries(KEYS, st.text(max_size=20) | st.integers() | st.booleans(), max_size=6))
def test_labels_are_compact_json_in_the_order_of_their_keys(labels: dict[str, str | int | bool]) -> None:
    said = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in sorted(labels.items())}
    kept = {key: value for key, value in said.items() if value}
    assert canonical_labels(labels) == json.dumps(kept, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("character", [chr(code) for code in (*range(0x20), 0x22, 0x5C, 0x7F, 0x2028, 0x1F600)])
def test_every_character_is_written_as_json_writes_it(character: str) -> None:
    assert canonical_labels({"a": character}) == json.dumps({"a": character}, separators=(",", ":"), ensure_ascii=False)


def test_texts_of_numpy_are_texts() -> None:
    assert canonical_labels({np.str_("b"): np.str_("c")}) == '{"b":"c"}'


@pytest.mark.parametrize("labels", [{1: "x"}, {"": "x"}, {"a b": "x"}, {"a" * 129: "x"}, {"tenant_id": "x"}, {"__a": "x"}])
def test_a_key_is_refused_however_often_it_comes(labels: dict[str, object]) -> None:
    for _ in range(2):
        with pytest.raises(RefusedValueError, match="labels"):
            canonical_labels(labels)


def test_half_of_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(RefusedValueError, match="lone surrogate"):
        canonical_labels({"a": "\ud800"})
