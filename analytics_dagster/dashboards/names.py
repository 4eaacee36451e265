"""What people call the artists, tracks and playlists whose ids stand on a page: as the tenant's catalogue last described them.

Ids stay what figures are split and filtered by; a name may belong to several, and may change.
"""

from __future__ import annotations

from collections.abc import Collection

from analytics_dagster.lake.compute import identifier, session
from analytics_dagster.lake.lake import TenantLake
from analytics_dagster.lake.schemas import ARTISTS, PLAYLISTS, TRACKS

_DESCRIBED = {"artist_id": (ARTISTS, "name"), "track_id": (TRACKS, "title"), "playlist_id": (PLAYLISTS, "name")}


def names_of(lake: TenantLake, dimension: str, elements: Collection[str]) -> dict[str, str]:
    """The name of each of a dimension's values that has one; none for dimensions whose values are words themselves."""
    if dimension not in _DESCRIBED or not elements:
        return {}
    table, name = _DESCRIBED[dimension]
    key, wanted = identifier(table.key), list(elements)
    query = f"SELECT {key}, max({identifier(name)}) FROM {lake.table(table).sql()} WHERE {key} IN (SELECT unnest(?)) GROUP BY 1"
    with session() as connection:
        return {element: said for element, said in connection.execute(query, [wanted]).fetchall() if said}
