from __future__ import annotations

import datetime as dt
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from influxdb_client.client.write.point import Point

from analytics_dagster.errors import ForeignTenantError, UserError
from analytics_dagster.ingest.wire import refusals
from analytics_dagster.ingest.wire.bodies import UnreadableBodyError
from analytics_dagster.ingest.wire.influx import InfluxReader, InfluxWritten
from tests.ingest.wire.arrivals import LATEST_US, NOW, NOW_US, Row, admission, rows

NS = NOW_US * 1_000


def taken(text: str | bytes, precision: str | None = None) -> InfluxWritten:
    return InfluxReader().read(text.encode() if isinstance(text, str) else text, precision, admission(), NOW_US)


def figures(text: str | bytes, precision: str | None = None) -> dict[str, float]:
    got = taken(text, precision)
    assert got.parsed.refused == []
    return {row.name: row.value for row in rows(got.parsed.points)}


def test_each_figure_of_a_line_becomes_a_point_of_measurement_and_field() -> None:
    got = taken(f"cpu,host=a,region=eu usage_idle=12.5,cores=8i,up=t,seen=3u,value=1 {NS}")

    labels = {"host": "a", "region": "eu"}
    assert rows(got.parsed.points) == [
        Row("acme", "gauge", name, labels, NOW_US, value)
        for name, value in [("cpu_usage_idle", 12.5), ("cpu_cores", 8.0), ("cpu_up", 1.0), ("cpu_seen", 3.0), ("cpu", 1.0)]
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0), ("-1.5", -1.5), ("+2", 2.0),
        ("1.", 1.0), (".5", 0.5), ("1e3", 1000.0), ("-1.2E-3", -0.0012), ("0", 0.0), ("7i", 7.0),
        ("-7i", -7.0), ("9223372036854775807i", 9223372036854775807.0), ("18446744073709551615u", 18446744073709551615.0),
        *[(text, 1.0) for text in ("t", "T", "true", "True", "TRUE")],
        *[(text, 0.0) for text in ("f", "F", "false", "False", "FALSE")],
    ],
)  # fmt: skip
def test_a_value_may_be_written_as(text: str, value: float) -> None:
    assert figures(f"m f={text} {NS}") == {"m_f": value}
    assert figures(f'm s="",f={text} {NS}') == {"m_f": value}


@pytest.mark.parametrize(
    "text",
    [
        "", "abc", "NaN", "nan", "inf", "-inf", "infinity", "1_000", "0x10", "1.5i", "1e3i", "-1u", "9223372036854775808i",
        "i", "u", "tRue", "1,2", "1e999", "'a'", "1 2 3",
    ],
)  # fmt: skip
def test_a_value_may_not_be_written_as(text: str) -> None:
    good = f"m f=1 {NS}"
    for line in (f"m f={text} {NS}", f'm s="",f={text} {NS}', f"m g=1,f={text},h=2 {NS}"):
        got = taken(f"{good}\n{line}\n{good}")
        assert [row.value for row in rows(got.parsed.points)] == [1.0, 1.0]
        assert [each.index for each in got.parsed.refused] == [1]


@pytest.mark.parametrize(
    "line",
    [
        "m", "m f", "m =1", ",a=b f=1", "m,a f=1", "m,a= f=1", "m,=b f=1", "m,,a=b f=1", "m,a=b,a=c f=1", "m f=1 12x",
        "m f=1 1.5", "m f=1,", 'm f="abc', "m f=1 2 3", "m,a=b,c f=1", "\xff f=1", "... value=1",
    ],
)  # fmt: skip
def test_what_is_no_line_is_refused_with_its_place(line: str) -> None:
    got = taken(line.encode("latin-1") + b"\nm f=1\n")

    assert [(each.index, bool(each.reason)) for each in got.parsed.refused] == [(0, True)]
    assert [row.name for row in rows(got.parsed.points)] == ["m_f"]


def test_blank_lines_comments_and_white_space_are_skipped() -> None:
    assert figures(f'\n# a comment f=1\n  m f=1 {NS}  \r\n\t\n#"\nm g=2\r\n\n') == {"m_f": 1.0, "m_g": 2.0}


def test_texts_are_ignored_and_counted_and_never_refused() -> None:
    got = taken('host,h=a os="Linux \\"6.1\\", x=1\nnew line",uptime=3i 1772366400000000000\nhost,h=a os="b"\nhost up=1')

    assert {row.name: row.value for row in rows(got.parsed.points)} == {"host_uptime": 3.0, "host_up": 1.0}
    assert (got.ignored, got.parsed.refused) == (2, [])


def test_escapes_are_resolved() -> None:
    got = rows(taken('my\\ me\\,ter,ta\\ g\\=1=a\\,b\\ c\\=d\\\\e,q=x"y f\\ i\\=e\\,ld=1 ' + str(NS)).parsed.points)

    assert (got[0].name, got[0].labels) == ("my_me_ter_f_i_e_ld", {"ta_g_1": "a,b c=d\\\\e", "q": 'x"y'})


@pytest.mark.parametrize(
    ("precision", "time"),
    [(None, NS), ("ns", NS), ("n", NS), ("us", NOW_US), ("u", NOW_US), ("ms", NOW_US // 10**3), ("s", NOW_US // 10**6),
     ("m", NOW_US // 60_000_000), ("h", NOW_US // 3_600_000_000)],
)  # fmt: skip
def test_times_come_in_every_precision(precision: str | None, time: int) -> None:
    assert [row.ts for row in rows(taken(f"m f=1 {time}", precision).parsed.points)] == [NOW_US]


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="precision 'days'"):
        taken("m f=1", "days")


def test_a_line_without_a_time_is_of_now() -> None:
    assert [row.ts for row in rows(taken("m f=1\nm,a=b f=1").parsed.points)] == [NOW_US, NOW_US]


@pytest.mark.parametrize("time", [0, -5, LATEST_US * 1_000 + 10**6, 10**18, 99999999999999999999, 9999999999999999999])
def test_a_time_that_cannot_be_taken_costs_its_own_line(time: int) -> None:
    got = taken(f"m f=1,g=2 {NS}\nm f=3,g=4 {time}\nm f=5,g=6 {NS}")

    assert [row.value for row in rows(got.parsed.points)] == [1.0, 2.0, 5.0, 6.0]
    assert [(each.index, each.field) for each in got.parsed.refused] == [(1, "timestamp")]


def test_a_body_of_nothing_but_refusals_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MOST_REFUSED", 2)

    assert len(taken("x\nm f=1 0").parsed.refused) == 2
    for body in ("x\n" * 3, "m f=1 0\n" * 3, "x\nx\nm f=1 0"):
        with pytest.raises(UnreadableBodyError, match="more than 2 rows"):
            taken(body)


def test_tags_in_any_order_are_one_series() -> None:
    assert taken("m,a=1,b=2 f=1\nm,b=2,a=1 f=1").parsed.points.series.tolist() == [0, 0]


def test_a_tag_names_the_tenant_and_is_taken_out() -> None:
    body = b"m,host=a,tenant_id=acme f=1\nm,tenant_id=other f=2"

    got = InfluxReader().read(body, None, admission("acme", "acme", "other"), NOW_US)
    assert [(row.tenant, row.labels) for row in rows(got.parsed.points)] == [("acme", {"host": "a"}), ("other", {})]
    with pytest.raises(ForeignTenantError):
        InfluxReader().read(body, None, admission("acme"), NOW_US)


words = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"], exclude_characters="\\"), min_size=1
)
keys = st.from_regex(r"[a-z][a-z0-9]{0,7}", fullmatch=True).filter(lambda key: key not in ("alertname", "severity", "value"))
values = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | words
fields = st.dictionaries(keys, values, min_size=1, max_size=5)
lines = st.lists(st.tuples(keys, st.dictionaries(keys, words, max_size=3), fields, st.integers(-(10**6), 0)), max_size=8)


def encoded(made: list[Any]) -> bytes:
    written = []
    for name, tags, values, ago in made:
        point = Point(f"m{name}").time(NOW + dt.timedelta(seconds=ago))
        for key, value in tags.items():
            point = point.tag(key, value)
        for key, value in values.items():
            point = point.field(key, value)
        written.append(point.to_line_protocol())
    return "\n".join(line for line in written if line).encode()


@given(lines)
def test_what_the_official_client_writes_is_read_back(made: list[Any]) -> None:
    got = InfluxReader().read(encoded(made), None, admission(), NOW_US)

    expected = [
        (f"m{name}_{key}", len(tags), NOW_US + ago * 1_000_000, float(value))
        for name, tags, values, ago in made
        for key, value in sorted(values.items())
        if not isinstance(value, str)
    ]
    assert [(row.name, len(row.labels), row.ts, row.value) for row in rows(got.parsed.points)] == expected
    assert got.ignored == sum(isinstance(value, str) for _, _, values, _ in made for value in values.values())


@given(lines, st.data())
def test_known_series_and_the_long_way_give_what_unknown_series_gave(made: list[Any], data: st.DataObject) -> None:
    body = bytearray(encoded(made))
    for _ in range(data.draw(st.integers(0, 3)) if body else 0):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b' ,="\\\n\xffit1.'))
    admitted, reader = admission(), InfluxReader()

    def outcome(text: bytes) -> object:
        got = reader.read(text, None, admitted, NOW_US)
        return rows(got.parsed.points), got.ignored, [each.index for each in got.parsed.refused]

    first = outcome(bytes(body))
    assert outcome(bytes(body)) == first
    # A tab anywhere sends every line the long way.
    assert outcome(bytes(body) + b"\n\t") == first


@given(st.binary(max_size=200) | st.text('m,ta=b f1"\\\n i.', max_size=80).map(str.encode), st.sampled_from([None, "s", "h"]))
def test_no_bytes_raise_anything(body: bytes, precision: str | None) -> None:
    got = InfluxReader().read(body, precision, admission(), NOW_US)
    assert all(math.isfinite(row.value) for row in rows(got.parsed.points))
