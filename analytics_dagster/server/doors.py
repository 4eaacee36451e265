"""Every plain route, with its part of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from analytics_dagster.ingest.points import MetricType
from analytics_dagster.server.door import WRITE_REFUSALS, Door
from analytics_dagster.server.influx import as_influx, take_lines
from analytics_dagster.server.listenbrainz import as_listenbrainz, take_listens, validate_token
from analytics_dagster.server.native import ARROW, ROUTE, take_points
from analytics_dagster.server.otlp import as_status, take_data_points
from analytics_dagster.server.prometheus import as_text, take_samples
from analytics_dagster.tenancy.roles import Permission

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_OBJECT = {"type": "object"}
_TENANT = {
    "name": "tenant",
    "in": "query",
    "schema": {"type": "string", "maxLength": 63},
    "description": "Tenant of rows that name none, for a key of several. The header `X-Scope-OrgID` does the same.",
}
_POINT: dict[str, Any] = {
    "type": "object",
    "title": "Point",
    "required": ["name", "value"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 255},
        "value": {"type": "number"},
        "timestamp": {
            "description": "RFC 3339, or seconds since 1970. Left out: when the request came.",
            "oneOf": [{"type": "string", "format": "date-time"}, {"type": "number"}],
        },
        "metric_type": {"type": "string", "enum": [kind.value for kind in MetricType], "default": "gauge"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "tenant_id": {"type": "string", "description": "Only of use to a key of several tenants; another's is 403."},
    },
}
_ACCEPTED: dict[str, Any] = {
    "description": "On disk.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["accepted"],
                "properties": {
                    "accepted": {"type": "integer"},
                    "quarantined": {"type": "integer"},
                    "errors": {"type": "array", "maxItems": 100, "items": {"type": "object"}},
                },
            }
        }
    },
}
_STORED = {"description": "Stored. The answer has no body."}


def _parameter(name: str, description: str, schema: dict[str, Any] | None = None, where: str = "query") -> dict[str, Any]:
    return {"name": name, "in": where, "schema": schema or {"type": "string"}, "description": description}


_POINTS = {
    "summary": "Send points",
    "description": "Answers when they are on disk. One bad row refuses the body, unless `partial` says otherwise.",
    "parameters": [
        _parameter("partial", "Store the good rows, set the bad aside, and tell of both.", {"type": "boolean", "default": False}),
        _TENANT,
        _parameter(
            "Idempotency-Key",
            "Makes a retry safe for 24 hours: the same request again gets the first answer.",
            {"type": "string", "minLength": 1, "maxLength": 255},
            "header",
        ),
        _parameter("Content-Encoding", "gzip, zstd, deflate or snappy.", where="header"),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"oneOf": [_POINT, {"type": "array", "items": _POINT}]}},
            "application/x-ndjson": {"schema": {"type": "string", "description": "One point a line."}},
            ARROW: _BINARY,
        },
    },
    "responses": {"202": _ACCEPTED},
}
_REMOTE_WRITE = {
    "summary": "Prometheus remote write 1.0",
    "description": "Good samples are stored; 400 names those that were not.",
    "parameters": [_TENANT],
    "requestBody": {"required": True, "content": {"application/x-protobuf": _BINARY}},
    "responses": {"204": _STORED},
}


def _lines(version: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": f"InfluxDB line protocol, as clients of version {version} send it",
        "description": "Lines that can be taken are stored; 400 names those that were not.",
        "parameters": [
            *parameters,
            _parameter("precision", "Unit of the lines' times: ns, us, ms, s, m or h. Default: ns."),
            _TENANT,
        ],
        "requestBody": {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}},
        "responses": {"204": _STORED},
    }


_OTLP = {
    "summary": "OpenTelemetry metrics (OTLP/HTTP)",
    "description": "Data points that cannot be taken are told as partial success; they must be cumulative.",
    "parameters": [_TENANT],
    "requestBody": {"required": True, "content": {"application/x-protobuf": _BINARY, "application/json": {"schema": _OBJECT}}},
    "responses": {
        "200": {
            "description": "An ExportMetricsServiceResponse, in the encoding of the request.",
            "content": {"application/x-protobuf": _BINARY, "application/json": {"schema": _OBJECT}},
        }
    },
}
_LISTENS = {
    "summary": "ListenBrainz: submit listens",
    "description": "Listens become plays of the listener whom the key is named after. `Authorization: Token KEY`.",
    "parameters": [_TENANT],
    "requestBody": {"required": True, "content": {"application/json": {"schema": _OBJECT}}},
    "responses": {"200": {"description": "On disk.", "content": {"application/json": {"schema": _OBJECT}}}},
}
_TOKEN = {
    "summary": "ListenBrainz: does this key work?",
    "description": "`valid` says so; the status is 200 either way. `?token=` is refused: addresses end up in logs.",
    "responses": {"200": {"description": "The verdict.", "content": {"application/json": {"schema": _OBJECT}}}},
}

DOORS = (
    Door("POST", ROUTE, Permission.METRICS_WRITE, take_points, _POINTS, (*WRITE_REFUSALS, 409, 422)),
    Door(
        "POST",
        "/api/v1/write",
        Permission.METRICS_WRITE,
        take_samples,
        _REMOTE_WRITE,
        refusal=as_text,
        refusal_types=("text/plain",),
    ),
    Door(
        "POST",
        "/write",
        Permission.METRICS_WRITE,
        take_lines,
        _lines("1", _parameter("db", "Not needed; the name of one of the key's tenants chooses it.")),
        refusal=as_influx,
        refusal_types=("application/json",),
    ),
    Door(
        "POST",
        "/api/v2/write",
        Permission.METRICS_WRITE,
        take_lines,
        _lines(
            "2",
            _parameter("org", "Taken and not needed."),
            _parameter("bucket", "Not needed; the name of one of the key's tenants chooses it."),
        ),
        refusal=as_influx,
        refusal_types=("application/json",),
    ),
    Door(
        "POST",
        "/v1/metrics",
        Permission.METRICS_WRITE,
        take_data_points,
        _OTLP,
        refusal=as_status,
        refusal_types=("application/json", "application/x-protobuf"),
    ),
    Door(
        "POST",
        "/1/submit-listens",
        Permission.PLAYS_WRITE,
        take_listens,
        _LISTENS,
        refusal=as_listenbrainz,
        refusal_types=("application/json",),
    ),
    Door(
        "GET",
        "/1/validate-token",
        None,
        validate_token,
        _TOKEN,
        (400, 421, 500, 503),
        refusal=as_listenbrainz,
        refusal_types=("application/json",),
        many=False,
    ),
)
