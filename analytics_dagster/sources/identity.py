"""Who is who in files: the ids of `ingest.play_ids`, under the name by which the formats know them.

They live with the ingest rooms because a play that a client submits must have the id that importing it would give.
"""

from __future__ import annotations

from analytics_dagster.ingest.play_ids import ONLY_LISTENER, artist_id, device_kind, event_id, track_id

__all__ = ["ONLY_LISTENER", "artist_id", "device_kind", "event_id", "track_id"]
