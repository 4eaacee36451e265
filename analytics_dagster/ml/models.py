"""Fitted models of one tenant, kept between runs: what was learnt, when, from which days, with which versions.

Bodies are skops files (scikit-learn) or Prophet's own JSON, never pickle: reading one cannot run code. They lie in a
Delta table, one row per metric, so they live wherever the lake does; a store reads it once and writes it once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib.metadata import version
from typing import Protocol

import pyarrow as pa

from analytics_dagster.errors import IntegrityError
from analytics_dagster.lake.schemas import TIMESTAMP, Column, Layer, PartitionBy, TableSchema
from analytics_dagster.ml.anomaly import AnomalyModel
from analytics_dagster.ml.expectation import Seasonality

# The one type in a stored forest that skops does not know by itself; anything else is refused.
_TRUSTED = ("sklearn.tree._tree.Tree",)


class Format(StrEnum):
    """What the bytes of a stored model are."""

    SKOPS = "skops"
    PROPHET_JSON = "prophet-json"


_LIBRARIES = {Format.SKOPS: ("scikit-learn", "skops"), Format.PROPHET_JSON: ("prophet",)}


def _stored_models(name: str, description: str) -> TableSchema:
    return TableSchema(
        Layer.MODELS,
        name,
        description,
        (
            Column("metric", pa.string(), "Declared metric that the model is about.", required=True),
            Column("fitted_at", TIMESTAMP, "When it was fitted (UTC).", required=True),
            Column("first", TIMESTAMP, "First bucket that it learnt from.", required=True),
            Column("last", TIMESTAMP, "Last bucket that it learnt from.", required=True),
            Column("points", pa.int64(), "Buckets with a value among them.", required=True),
            Column("learnt_from", pa.string(), "SHA-256 of the points that it learnt from.", required=True),
            Column("settings", pa.string(), "What it was fitted with, as JSON.", required=True),
            Column("versions", pa.string(), "Library versions that it was fitted with, as JSON.", required=True),
            Column("format", pa.string(), "skops or prophet-json.", required=True),
            Column("content_hash", pa.string(), "SHA-256 of the body.", required=True),
            Column("body", pa.binary(), "The model.", required=True),
        ),
        key="metric",
        partition_by=PartitionBy.NONE,
        time=None,
    )


ANOMALY_MODELS = _stored_models("anomaly_fitted", "The fitted anomaly detector of each KPI.")
FORECAST_MODELS = _stored_models("forecast_fitted", "The fitted forecast model of each KPI.")


class ModelTable(Protocol):
    """What a store needs of a lake table (`lake.Table` has it)."""

    def exists(self) -> bool: ...
    def read(self) -> pa.Table: ...
    def overwrite(self, data: pa.Table, /) -> None: ...


@dataclass(frozen=True)
class Learnt:
    """What a model was fitted on: first and last bucket, points with a value, and a hash of them all."""

    first: datetime
    last: datetime
    points: int
    learnt_from: str


@dataclass(frozen=True)
class StoredModel:
    """One fitted model. `settings` is what it was fitted with: another setting makes it stale at once."""

    metric: str
    fitted_at: datetime
    first: datetime
    last: datetime
    points: int
    learnt_from: str
    settings: str
    versions: str
    format: Format
    content_hash: str
    body: bytes

    @classmethod
    def of(cls, metric: str, learnt: Learnt, settings: str, format: Format, body: bytes, at: datetime) -> StoredModel:
        """Describe a model that was fitted just now."""
        digest = hashlib.sha256(body).hexdigest()
        return cls(
            metric,
            at,
            learnt.first,
            learnt.last,
            learnt.points,
            learnt.learnt_from,
            settings,
            _versions(format),
            format,
            digest,
            body,
        )


class ModelStore:
    """The models of one tenant and kind. Not for two writers at once: the asset that owns the table writes it."""

    def __init__(self, table: ModelTable) -> None:
        self._table = table
        rows = table.read().to_pylist() if table.exists() else []
        self._models = {row["metric"]: StoredModel(**{**row, "format": Format(row["format"])}) for row in rows}
        self._changed = False

    def fitting(self, metric: str, learnt_from: str, settings: str) -> StoredModel | None:
        """The metric's model if it is the one that a fit on these points with these settings would give; else None.

        Raises IntegrityError when the stored bytes are not those that were stored.
        """
        model = self._models.get(metric)
        if model is None or (model.learnt_from, model.settings) != (learnt_from, settings):
            return None
        if model.versions != _versions(model.format):
            return None
        if hashlib.sha256(model.body).hexdigest() != model.content_hash:
            raise IntegrityError(
                f"the stored model of {metric} is damaged: its bytes are not those that were stored; remove the table "
                "that holds it and materialize again, and it is fitted anew"
            )
        return model

    def keep(self, model: StoredModel) -> None:
        """Replace the metric's model; `commit` writes it. One that learnt from later days stays: an old day was made again."""
        stored = self._models.get(model.metric)
        if (
            stored is not None
            and stored.last > model.last
            and (stored.settings, stored.versions) == (model.settings, model.versions)
        ):
            return
        self._models[model.metric] = model
        self._changed = True

    def models(self) -> Sequence[StoredModel]:
        """All models, by metric."""
        return [self._models[metric] for metric in sorted(self._models)]

    def commit(self) -> bool:
        """Write what was kept in one commit; False when there was nothing to write."""
        if not self._changed:
            return False
        rows = [{name: getattr(model, name) for name in ANOMALY_MODELS.arrow.names} for model in self.models()]
        self._table.overwrite(pa.Table.from_pylist(rows, schema=ANOMALY_MODELS.arrow))
        self._changed = False
        return True


def pack_anomaly(model: AnomalyModel) -> bytes:
    """An anomaly model as a skops file."""
    import zipfile

    import skops.io

    parts = {
        "season": model.season,
        "seasonality": str(model.seasonality),
        "forest": model.forest,
        "core": model.core,
        "reach": model.reach,
    }
    return bytes(skops.io.dumps(parts, compression=zipfile.ZIP_DEFLATED, compresslevel=1))


def unpack_anomaly(body: bytes) -> AnomalyModel:
    """Read what `pack_anomaly` wrote. Raises IntegrityError when the file holds a type that no model of ours has."""
    import skops.io

    strange = sorted(set(skops.io.get_untrusted_types(data=body)) - set(_TRUSTED))
    if strange:
        raise IntegrityError(f"a stored anomaly model holds {', '.join(strange)}, which is not ours; it is not loaded")
    parts = skops.io.loads(body, trusted=list(_TRUSTED))
    return AnomalyModel(parts["season"], Seasonality(parts["seasonality"]), parts["forest"], parts["core"], parts["reach"])


def _versions(format: Format) -> str:
    return json.dumps({name: version(name) for name in _LIBRARIES[format]}, sort_keys=True)
