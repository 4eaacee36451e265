"""`app-events`: the page events of a streaming app, one JSON object each (the log that eventsim and Sparkify made known).

Every event is a request to the service; a NextSong is a play as well, and submitting an upgrade, downgrade or
cancellation an event of a subscription. Names, gender and city stay behind: nothing here needs them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.lake.schemas import API_REQUESTS, PLAYS, SUBSCRIPTIONS, TableSchema
from analytics_dagster.sources.files import SourceFile, uncompressed_name
from analytics_dagster.sources.identity import artist_id, device_kind, event_id, track_id
from analytics_dagster.sources.json_objects import decode_object, json_outcomes
from analytics_dagster.sources.parsed import Outcome, Reading, RefusedRecordError, Row
from analytics_dagster.sources.times import epoch_micros

_ENDINGS = (".json", ".jsonl", ".ndjson")
_MARK = b'"page"'
_TIERS = {"paid": "premium", "premium": "premium", "free": "free"}
_SUBSCRIPTION_PAGES = {
    "Submit Upgrade": ("upgrade", "premium"),
    "Submit Downgrade": ("downgrade", "free"),
    "Cancellation Confirmation": ("cancel", None),
}
# Every location in these logs is a US metropolitan area: "Chicago-Naperville-Elgin, IL-IN-WI".
_US_AREA = re.compile(r".+, [A-Z]{2}(?:-[A-Z]{2})*")


class _Event(msgspec.Struct, rename="camel"):
    ts: int
    page: str
    user_id: str | int | None = None
    session_id: str | int | None = None
    item_in_session: int | None = None
    level: str | None = None
    method: str | None = None
    status: int | None = None
    song: str | None = None
    artist: str | None = None
    length: float | None = None
    location: str | None = None
    user_agent: str | None = None


class AppEvents:
    """Page events; see the module."""

    name = "app-events"
    description = "Page events of a streaming app (JSON lines): plays, requests, upgrades, cancellations."
    tables: tuple[TableSchema, ...] = (PLAYS, SUBSCRIPTIONS, API_REQUESTS)

    def belongs(self, name: str, sample: bytes) -> bool:
        return uncompressed_name(name).endswith(_ENDINGS) and (not sample.strip() or _MARK in sample)

    def read(self, file: SourceFile, reading: Reading) -> Iterator[Outcome]:
        decoder = msgspec.json.Decoder(_Event)
        with file.open() as stream:
            sample = stream.sample()
            if sample.strip() and _MARK not in sample:
                raise UnreadableFileError(f"{file.name}: not a log of app events; expected objects with ts, page, userId, ...")
            yield from json_outcomes(stream, lambda raw: _rows(decode_object(raw, decoder), reading), reading)


def _rows(event: _Event, reading: Reading) -> tuple[tuple[str, Row], ...]:
    page = event.page.strip()
    if not page:
        raise RefusedRecordError("page", "is empty; an event needs its page")
    ts = reading.window.check(epoch_micros(event.ts), "ts")
    listener = _text(event.user_id)
    identity = event_id(
        "app-events", ts, listener, _text(event.session_id), event.item_in_session, page, event.method, event.status,
        event.artist, event.song,
    )  # fmt: skip
    request = (identity, ts, listener, page, _text(event.method), event.status, None, "app-events")
    rows: list[tuple[str, Row]] = []
    if page == "NextSong":
        rows.append(("plays", _play(event, identity, ts, listener)))
    elif page in _SUBSCRIPTION_PAGES:
        rows.append(("subscriptions", _subscription(event, page, identity, ts, listener)))
    rows.append(("api_requests", request))
    return tuple(rows)


def _play(event: _Event, identity: str, ts: int, listener: str | None) -> Row:
    title, artist = _text(event.song), _text(event.artist)
    if title is None:
        raise RefusedRecordError("song", "is empty; a NextSong needs a song")
    if event.length is not None and not 0 <= event.length < 1e9:
        raise RefusedRecordError("length", f"{event.length} is not a track's length in seconds")
    return (
        identity, ts, listener, track_id(artist, title), title, artist_id(artist), artist, None, None,
        None if event.length is None else round(event.length * 1_000), None, None, _country(event.location), _tier(event.level),
        device_kind(event.user_agent), None, None, None, _text(event.session_id), "app-events",
    )  # fmt: skip


def _subscription(event: _Event, page: str, identity: str, ts: int, listener: str | None) -> Row:
    if listener is None:
        raise RefusedRecordError("userId", f"is empty; {page} needs to say whose subscription it is")
    kind, to_tier = _SUBSCRIPTION_PAGES[page]
    return (
        identity, ts, listener, kind, _tier(event.level), to_tier, None, None, None, _country(event.location), None, "app-events"
    )  # fmt: skip


def _tier(level: str | None) -> str | None:
    text = _text(level)
    return None if text is None else _TIERS.get(text.lower(), text.lower())


def _country(location: str | None) -> str | None:
    return "US" if location and _US_AREA.fullmatch(location.strip()) else None


def _text(value: str | int | None) -> str | None:
    return None if value is None else str(value).strip() or None
