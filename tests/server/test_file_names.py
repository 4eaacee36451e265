"""What a file is called in an answer's header."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from fastapi import Response
from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.server.html import named_file


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("acme-overview.pdf", 'inline; filename="acme-overview.pdf"'),
        ("acme-日本.csv", "inline; filename=\"acme-__.csv\"; filename*=UTF-8''acme-%E6%97%A5%E6%9C%AC.csv"),
        ('a"; b\r\nx: y', "inline; filename=\"a___b__x__y\"; filename*=UTF-8''a%22%3B%20b%0D%0Ax%3A%20y"),
    ],
)
def test_a_file_has_its_name_in_ascii_and_where_that_says_less_in_full(name: str, header: str) -> None:
    assert named_file(name) == {"content-disposition": header}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_makes_a_header_from_which_it_is_read_back(name: str) -> None:
    header = Response(headers=named_file(name)).headers["content-disposition"]
    assert re.fullmatch(r"""inline; filename="[A-Za-z0-9._-]+"(; filename\*=UTF-8''[A-Za-z0-9._~%-]+)?""", header)
    assert unquote(header.rpartition("''")[2]) == name if "''" in header else f'"{name}"' in header
