"""One import: every record of some files into landing or quarantine, each counted once.

All files are read and spooled first, then stored tenant by tenant, so a file that turns out unreadable leaves nothing
behind, and an import that is killed while storing is completed by running it again: what is in already is a duplicate.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from analytics_dagster.errors import UserError
from analytics_dagster.ingest.landing import Refused
from analytics_dagster.lake.schemas import FIRST_DAY, TableSchema
from analytics_dagster.sources.files import source_files
from analytics_dagster.sources.parsed import Parsed, Reading, SourceFormat, Window
from analytics_dagster.sources.spool import Spool
from analytics_dagster.tenancy.tenants import TenantStatus, validate_tenant_id

if TYPE_CHECKING:
    from analytics_dagster.installation import Installation

_QUARANTINE = "quarantine"
_REFUSED = pa.schema(
    [("file", pa.string()), ("line", pa.int64()), ("field", pa.string()), ("reason", pa.string()), ("original", pa.binary())]
)
_REFUSED_IN_ONE_WRITE = 10_000
# One landing commit of 250,000 plays needs about 500 MB; one of 2,000,000 needed 1.7 GB.
_ROWS_IN_ONE_COMMIT = 250_000
_PROGRESS_EVERY = 5_000

Progress = Callable[[str, int], None]
"""(what is being read or stored, records so far)"""


@dataclass(frozen=True)
class ImportRequest:
    """What to import. `tenant` may be None only with `tenant_column`; `zone` is that of times that name none."""

    format: SourceFormat
    paths: Sequence[Path]
    tenant: str | None = None
    tenant_column: str | None = None
    zone: tzinfo | None = None


@dataclass(frozen=True)
class ImportResult:
    """Records by what became of them: `read` is the sum of the others."""

    read: int
    kept: int
    duplicate: int
    quarantined: int
    tenants: tuple[str, ...]
    created: tuple[str, ...]
    """Tenants that were not known before."""
    notes: tuple[str, ...]
    """What whoever runs the import should know: zones assumed, columns left out."""


def run_import(request: ImportRequest, installation: Installation, progress: Progress | None = None) -> ImportResult:
    """Import `request.paths`. Raises UnreadableFileError, before anything is stored, for a file that is not of the format."""
    if request.tenant is None and request.tenant_column is None:
        raise UserError("whose data is it? name a tenant with --tenant, or the column that names one with --tenant-column")
    if request.tenant is not None:
        validate_tenant_id(request.tenant)
    window = Window.of(FIRST_DAY, installation.clock.now())
    reading = Reading(window, request.tenant, request.tenant_column, request.zone)
    with tempfile.TemporaryDirectory(prefix="import-") as folder:
        spool = Spool(Path(folder))
        try:
            read = _read_all(request, reading, spool, progress or _silent)
            return _store(request, installation, spool, read, tuple(reading.notes), progress or _silent)
        finally:
            spool.close()


def _read_all(request: ImportRequest, reading: Reading, spool: Spool, progress: Progress) -> int:
    schemas = {table.name: table.arrow for table in request.format.tables}
    read = 0
    for file in source_files(request.paths, request.format.belongs):
        for outcome in request.format.read(file, reading):
            read += 1
            if isinstance(outcome, Parsed):
                for table, row in outcome.rows:
                    spool.add(outcome.tenant, table, schemas[table], row)
            else:
                refused = (file.name, outcome.line, outcome.field, outcome.reason, outcome.original)
                spool.add(outcome.tenant, _QUARANTINE, _REFUSED, refused, len(outcome.original))
            if read % _PROGRESS_EVERY == 0:
                progress(f"reading {file.name}", read)
    progress("read", read)
    return read


def _store(
    request: ImportRequest, installation: Installation, spool: Spool, read: int, notes: tuple[str, ...], progress: Progress
) -> ImportResult:
    tenants = spool.tenants() or ([request.tenant] if request.tenant else [])
    _refuse_suspended(installation, tenants)
    arrival = uuid.uuid4().hex
    counted = request.format.tables[-1].name
    kept = duplicate = quarantined = 0
    created: list[str] = []
    for tenant in tenants:
        progress(f"storing {tenant}", read)
        if installation.tenants.ensure(tenant):
            created.append(tenant)
        # The table that has a row for every record comes last: an import that died before it is then not "all known".
        for table in request.format.tables:
            for rows in _portions(spool, tenant, table):
                appended = installation.landing.append(tenant, table, rows, arrival)
                if table.name == counted:
                    kept += appended.kept
                    duplicate += appended.duplicate
        quarantined += spool.count(tenant, _QUARANTINE)
        for some in _refused(spool, tenant):
            installation.landing.quarantine(tenant, some, arrival, request.format.name)
        installation.landing.complete(tenant, arrival)
    return ImportResult(read, kept, duplicate, quarantined, tuple(tenants), tuple(created), notes)


def _portions(spool: Spool, tenant: str, table: TableSchema) -> Iterator[pa.RecordBatchReader]:
    """What one commit each takes. A catalogue goes in one: of several rows of a key only the last of the import may land."""
    if not spool.count(tenant, table.name):
        return
    if table.time is None:
        yield spool.reader(tenant, table.name)
    else:
        yield from spool.readers(tenant, table.name, _ROWS_IN_ONE_COMMIT)


def _refused(spool: Spool, tenant: str) -> Iterator[list[Refused]]:
    if not spool.count(tenant, _QUARANTINE):
        return
    some: list[Refused] = []
    for batch in spool.reader(tenant, _QUARANTINE):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            some.append(Refused(*row))
            if len(some) == _REFUSED_IN_ONE_WRITE:
                yield some
                some = []
    if some:
        yield some


def _refuse_suspended(installation: Installation, tenants: Sequence[str]) -> None:
    suspended = {record.tenant for record in installation.tenants.records() if record.status is TenantStatus.SUSPENDED}
    if named := sorted(suspended.intersection(tenants)):
        raise UserError(f"tenant {', '.join(named)} is suspended and takes no data; `analytics tenant add` makes it active again")


def _silent(what: str, records: int) -> None:
    """No progress is shown."""
