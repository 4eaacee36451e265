"""The formats that `analytics import` takes, one module each. Adding one is a module with a `SourceFormat`, and a line here."""

from __future__ import annotations

from analytics_dagster.errors import NotFoundError
from analytics_dagster.sources.formats.app_events import AppEvents
from analytics_dagster.sources.formats.lastfm import LastFm
from analytics_dagster.sources.formats.listenbrainz import ListenBrainz
from analytics_dagster.sources.formats.own_columns import own_formats
from analytics_dagster.sources.formats.radio_log import RadioLog
from analytics_dagster.sources.formats.spotify_history import SpotifyHistory
from analytics_dagster.sources.parsed import SourceFormat

_ALL: tuple[SourceFormat, ...] = (SpotifyHistory(), ListenBrainz(), LastFm(), RadioLog(), AppEvents(), *own_formats())
FORMATS: dict[str, SourceFormat] = {format.name: format for format in _ALL}


def format_named(name: str) -> SourceFormat:
    """Raises NotFoundError naming the formats that there are."""
    if name not in FORMATS:
        raise NotFoundError(f"no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]
