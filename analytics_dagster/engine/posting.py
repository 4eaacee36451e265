"""One request of the remote engine: points to a body, a body to the server until it answers, an answer to what it means."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from typing import Any, NoReturn

import httpx
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import tenacity

from analytics_dagster.engine.refusals import RefusedPointsError
from analytics_dagster.errors import (
    AuthenticationError,
    ForeignTenantError,
    LogFullError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RetryableError,
    ServerError,
    UserError,
)
from analytics_dagster.ingest.log.payloads import SegmentSeries, SeriesNumbers
from analytics_dagster.ingest.points import Points, RowRefusal

ROUTE = "/analytics/metrics"
NO_TENANT = ""
"""Stands in a series for "whichever the key writes for"."""

_ARROW = "application/vnd.apache.arrow.stream"
_COLUMNS = ["tenant_id", "name", "metric_type", "labels", "timestamp", "value"]
# Smaller bodies are not worth the work on either side.
_COMPRESSED_FROM = 1_024
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
# Answers after which the same request may succeed, beside all 5xx: timeout, the same key being worked on, too early, quota.
_TRY_AGAIN = frozenset({408, 409, 425, 429})


class TooLargeError(UserError):
    """The server takes no body of this size."""


class ForeignRowsError(ForeignTenantError):
    """Some row names a tenant that the key does not write for; the server says which in `detail`."""

    def __init__(self, told: str) -> None:
        super(ForeignTenantError, self).__init__(told)
        self.tenant = ""


class _NotNowError(Exception):
    """The server did not take a request now; `error` is what the caller is told when patience ends."""

    def __init__(self, error: RetryableError, pause: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.pause = error, pause


def encoded(points: Sequence[Points]) -> bytes:
    """All rows, in order, as an Arrow stream of the columns that the server takes."""
    series, _, payload = SeriesNumbers().encode(points)
    named = SegmentSeries()
    if series is not None:
        named.add(series, 1)
    rows = named.decode(payload).rename_columns(_COLUMNS)
    tenants = rows.column("tenant_id").unify_dictionaries()
    distinct = tenants.chunk(0).dictionary.to_pylist()
    if distinct == [NO_TENANT]:
        rows = rows.drop_columns(["tenant_id"])
    elif NO_TENANT in distinct:
        texts = tenants.cast(pa.string())
        rows = rows.set_column(0, "tenant_id", pc.if_else(pc.equal(texts, NO_TENANT), None, texts))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


class Poster:
    """Posts to one server with one key. Safe in any thread."""

    def __init__(self, url: str, key: str | None, *, retry_for: float, timeout: float, connections: int, verify: bool) -> None:
        headers = {"content-type": _ARROW, **({"authorization": f"Bearer {key}"} if key else {})}
        self.url = url
        self._retry_for = retry_for
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.Client(headers=headers, timeout=timeout, limits=limits, verify=verify)

    def post(self, points: Sequence[Points]) -> None:
        """Returns when the server has made all rows durable. One Idempotency-Key for all tries, so none counts twice.

        Raises what `Engine` promises; a RetryableError only after trying for `retry_for` seconds.
        """
        body, headers = encoded(points), {"idempotency-key": uuid.uuid4().hex}
        if len(body) >= _COMPRESSED_FROM:
            body = bytes(pa.compress(body, codec="zstd", asbytes=True))
            headers["content-encoding"] = "zstd"
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_NotNowError),
            stop=tenacity.stop_before_delay(self._retry_for),
            wait=self._pause,
            reraise=True,
        )
        try:
            retrying(self._once, body, headers, sum(map(len, points)))
        except _NotNowError as given_up:
            raise given_up.error from None

    def close(self) -> None:
        self._client.close()

    def _once(self, body: bytes, headers: dict[str, str], rows: int) -> None:
        try:
            answer = self._client.post(self.url + ROUTE, content=body, headers=headers)
        except httpx.TransportError as error:
            raise _NotNowError(
                ServerError(
                    f"{self.url} does not answer: {error or type(error).__name__}; whether it has the points is not known"
                )
            ) from None
        if answer.status_code != 202:
            _refuse(self.url, answer, rows)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """Jittered, so that clients that were refused together do not come back together; at least what the server asks for."""
        most = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(state.attempt_number, 10))
        jittered = random.uniform(_FIRST_PAUSE / 2, most)
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.pause if isinstance(error, _NotNowError) else None
        return jittered if asked is None else asked + jittered * 0.1


def _refuse(url: str, answer: httpx.Response, rows: int) -> NoReturn:
    problem = _problem(answer)
    detail = str(problem.get("detail") or problem.get("title") or answer.text[:200] or answer.reason_phrase)
    told = f"{url} answered {answer.status_code}: {detail}"
    status = answer.status_code
    if status in _TRY_AGAIN or status >= 500:
        pause = _retry_after(answer)
        if status == 429:
            raise _NotNowError(QuotaExceededError(told, pause), pause)
        if str(problem.get("type", "")).endswith("log-full"):
            raise _NotNowError(LogFullError(told, pause or 5.0), pause)
        raise _NotNowError(ServerError(told), pause)
    if status == 422 and isinstance(problem.get("errors"), list) and problem["errors"]:
        refused = [_row(entry) for entry in problem["errors"]]
        raise RefusedPointsError(refused, rows, count=int(problem.get("refused", len(refused))))
    if status == 403 and str(problem.get("type", "")).endswith("foreign-tenant"):
        raise ForeignRowsError(told)
    kinds: dict[int, type[UserError]] = {
        401: AuthenticationError,
        403: PermissionDeniedError,
        404: NotFoundError,
        413: TooLargeError,
    }
    raise kinds.get(status, UserError)(told)


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _row(entry: dict[str, Any]) -> RowRefusal:
    return RowRefusal(int(entry["index"]), entry.get("field"), str(entry.get("value", "")), str(entry.get("reason", "")))


def _retry_after(answer: httpx.Response) -> float | None:
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
