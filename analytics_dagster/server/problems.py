"""What went wrong, as an answer: RFC 9457 problem documents, and which status each error of ours is.

Ways in that speak another house's protocol write their own shape; they read the same `Problem`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from analytics_dagster import errors
from analytics_dagster.ingest.points import MAX_REFUSALS_NAMED, RefusedValueError, RowRefusal
from analytics_dagster.ingest.wire.bodies import BodyTooLargeError, UnknownEncodingError
from analytics_dagster.tenancy.token_buckets import RateExceededError, RateState

CONTENT_TYPE = b"application/problem+json"
_TYPE = "urn:analytics-dagster:problem:"
# A client that is told nothing better may ask again after this many seconds.
DEFAULT_RETRY_AFTER = 5


class Problem(Exception):  # noqa: N818 - it is an answer, named as RFC 9457 names it
    """An answer that is not the one that was asked for. Raised anywhere below a route, written by the route's door."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str = "",
        members: Mapping[str, Any] | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = kind
        self.members = dict(members or {})
        self.headers = list(headers)

    def document(self, request_id: str) -> dict[str, Any]:
        """The members of RFC 9457, and our own: `request_id` finds the request in the log."""
        return {
            "type": f"{_TYPE}{self.kind}" if self.kind else "about:blank",
            "title": "Unprocessable Content" if self.status == 422 else HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
            **self.members,
        }

    def body(self, request_id: str) -> bytes:
        return msgspec.json.encode(self.document(request_id))


def retry_after(seconds: float | None) -> tuple[bytes, bytes]:
    """The header Retry-After: whole seconds, at least one."""
    return b"retry-after", str(max(1, round(DEFAULT_RETRY_AFTER if seconds is None else seconds))).encode()


def row_errors(refused: Sequence[RowRefusal]) -> list[dict[str, Any]]:
    """The first refusals as they are told to a client."""
    return [{"index": r.index, "field": r.field, "value": r.value, "reason": r.reason} for r in refused[:MAX_REFUSALS_NAMED]]


def bad_rows(refused: Sequence[RowRefusal], rows: int) -> Problem:
    """The answer to a body with rows that are not taken, of which nothing was stored."""
    first = refused[0]
    where = f"{first.field} " if first.field else ""
    told = f"; the first {MAX_REFUSALS_NAMED} are in errors" if len(refused) > MAX_REFUSALS_NAMED else ""
    partly = "; with ?partial=true the others would be stored" if len(refused) < rows else ""
    return Problem(
        422,
        f"{len(refused)} of {rows} rows cannot be taken and nothing was stored: row {first.index}: {where}{first.value!r} "
        f"{first.reason}{told}{partly}",
        kind="bad-rows",
        members={"refused": len(refused), "errors": row_errors(refused)},
    )


def bad_parameters(found: Sequence[Mapping[str, Any]]) -> Problem:
    """The answer to parameters or a body that are not what the route takes; `found` is what pydantic says of each."""
    told = [_told(one) for one in found]
    first = told[0]
    detail = f"{first['field']}: {first['reason']}" if first["field"] else first["reason"]
    return Problem(400, detail, kind="bad-parameters", members={"errors": told})


def _told(found: Mapping[str, Any]) -> dict[str, str]:
    where = [str(part) for part in found["loc"]]
    return {"field": ".".join(where[1:]) or where[0], "reason": str(found["msg"])}


def problem_of(error: Exception) -> Problem | None:
    """The answer that an error of ours means, None for one that is nobody's fault but ours."""
    match error:
        case Problem():
            return error
        case errors.AuthenticationError():
            return Problem(401, str(error), headers=[(b"www-authenticate", b'Bearer realm="analytics"')])
        case errors.ForeignTenantError():
            return Problem(403, str(error), kind="foreign-tenant")
        case errors.PermissionDeniedError():
            return Problem(403, str(error))
        case errors.NotFoundError():
            return Problem(404, str(error))
        case errors.ConflictError():
            return Problem(409, str(error), kind="conflict")
        case errors.LogFullError():
            return Problem(503, str(error), kind="log-full", headers=[retry_after(error.retry_after)])
        case RateExceededError():
            headers = [retry_after(error.retry_after), *rate_headers(error.state)]
            return Problem(429, str(error), kind="quota", headers=headers)
        case errors.QuotaExceededError():
            return Problem(429, str(error), kind="quota", headers=[retry_after(error.retry_after)])
        case BodyTooLargeError():
            return Problem(413, str(error))
        case UnknownEncodingError():
            return Problem(415, str(error), headers=[(b"accept-encoding", b"gzip, zstd, deflate, snappy")])
        case RefusedValueError():
            return Problem(422, str(error), kind="bad-rows")
        case errors.RetryableError():
            return Problem(503, str(error), headers=[retry_after(None)])
        case errors.UserError():
            return Problem(400, str(error))
    return None


def rate_headers(state: RateState) -> list[tuple[bytes, bytes]]:
    """RateLimit fields; names are lower case in ASGI."""
    return [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in state.headers().items()]


INTERNAL = "something went wrong here; the log has it under this request_id"
