"""Who is who among plays without a registry: ids derived from what a record says, the same on every machine and way in.

Two records of one source with equal identity fields are one event; anything different in them is another event.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from hashlib import blake2b

import msgspec

ONLY_LISTENER = "me"
"""The listener of a personal export that names none (Spotify's newer exports, Last.fm's CSVs)."""


def event_id(*fields: object) -> str:
    """32 hexadecimal digits from the fields (texts, numbers, None) in their order.

    Hashed as JSON, where None, "" and the borders between fields cannot be mistaken for one another.
    """
    return blake2b(msgspec.json.encode(fields), digest_size=16).hexdigest()


@lru_cache(maxsize=65_536)
def track_id(artist: str | None, title: str | None) -> str | None:
    """An id for a track that its source gives none: a hash of artist and title, blind to case, width and spacing."""
    if artist is None and title is None:
        return None
    return event_id("track", _normalised(artist), _normalised(title))


@lru_cache(maxsize=65_536)
def artist_id(artist: str | None) -> str | None:
    """An id for an artist that its source gives none: a hash of the name, blind to case, width and spacing."""
    return None if artist is None else event_id("artist", _normalised(artist))


def _normalised(text: str | None) -> str:
    return " ".join(unicodedata.normalize("NFKC", text or "").casefold().split())


# What platform and user-agent strings begin with or contain, in the order that decides ("Android ... Linux" is Android).
_DEVICES = (
    ("ipad", "ios"), ("iphone", "ios"), ("ios", "ios"), ("android", "android"), ("windows phone", "windows_phone"),
    ("web_player", "web"), ("webplayer", "web"), ("web player", "web"), ("chromecast", "cast"), ("cast", "cast"),
    ("sonos", "speaker"), ("playstation", "console"), ("ps3", "console"), ("ps4", "console"), ("ps5", "console"),
    ("xbox", "console"), ("windows", "windows"), ("os x", "macos"), ("osx", "macos"), ("macintosh", "macos"),
    ("macos", "macos"), ("linux", "linux"), ("x11", "linux"), ("tizen", "tv"), ("webos", "tv"), ("_tv", "tv"), ("tv", "tv"),
)  # fmt: skip


@lru_cache(maxsize=4_096)
def device_kind(text: str | None) -> str | None:
    """A kind of device from a platform or user-agent string, `other` when none is recognized: few values, fit to group by."""
    if not text:
        return None
    lowered = text.lower()
    return next((kind for mark, kind in _DEVICES if mark in lowered), "other")
