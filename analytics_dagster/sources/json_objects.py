"""One JSON record decoded into the structure that its format expects, with a wrong field named as the source names it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from analytics_dagster.errors import UnreadableFileError
from analytics_dagster.sources.files import SourceStream
from analytics_dagster.sources.json_records import JsonRecord, json_records
from analytics_dagster.sources.parsed import Outcome, Parsed, Reading, RefusedRecordError, Row, outcomes
from analytics_dagster.sources.records import decode

S = TypeVar("S")
_FIELD = re.compile(r"`\$\.([^`]+)`")
_MISSING = re.compile(r"missing required field `([^`]+)`")
_ANY = msgspec.json.Decoder(dict[str, Any])


def decode_object(raw: bytes, decoder: msgspec.json.Decoder[S]) -> S:
    """Decode `raw`; bytes that are not UTF-8 are read as Windows-1252 first. Raises RefusedRecordError naming the field."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _decode_again(raw, decoder, str(error))


def decode_any(raw: bytes) -> dict[str, Any]:
    """An object with whatever it holds. Raises RefusedRecordError."""
    return decode_object(raw, _ANY)


def json_outcomes(
    stream: SourceStream, rows: Callable[[bytes], tuple[tuple[str, Row], ...]], reading: Reading
) -> Iterator[Outcome]:
    """Every record of a JSON file through `rows`, each given to the tenant that --tenant-column names in it."""
    column = reading.tenant_column
    sample = stream.sample()
    if column and sample.strip() and f'"{column}"'.encode() not in sample:
        raise UnreadableFileError(f"{stream.name}: no record has a field {column!r} for --tenant-column")

    def tenant_of(raw: bytes) -> object:
        return decode_any(raw).get(column) if column else None

    def convert(raw: bytes) -> Parsed:
        return Parsed(reading.tenant_of(tenant_of(raw)), rows(raw))

    return outcomes(undecoded(json_records(stream)), convert, reading, tenant_of)


def undecoded(records: Iterable[JsonRecord]) -> Iterator[tuple[int, bytes, bytes | None, str | None]]:
    """Records as `parsed.outcomes` takes them: the original bytes are also the values that the format decodes."""
    for line, raw, problem in records:
        yield line, raw, None if problem else raw, problem


def _decode_again(raw: bytes, decoder: msgspec.json.Decoder[S], reason: str) -> S:
    recoded = decode(raw).encode()
    if recoded != raw:
        try:
            return decoder.decode(recoded)
        except msgspec.ValidationError as error:
            raise _refusal(str(error)) from None
        except msgspec.DecodeError as error:
            reason = str(error)
    raise RefusedRecordError(None, f"is not a JSON object: {reason[:1].lower()}{reason[1:]}")


def _refusal(message: str) -> RefusedRecordError:
    where, missing = _FIELD.search(message), _MISSING.search(message)
    reason = f"{message[:1].lower()}{message[1:]}"
    if missing:
        return RefusedRecordError(f"{where[1]}.{missing[1]}" if where else missing[1], "is missing")
    return RefusedRecordError(where[1] if where else None, reason.split(" - at ")[0])
