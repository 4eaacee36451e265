"""Metrics that a tenant declares for itself: kept in the database, every version of them, and nobody else's.

One declaration is one metric and, where its parts are not measured yet, the one semantic model that it needs. It is checked with
everything else that the tenant can ask for before it is kept, and may name nothing but columns of its source table in plain
expressions: whoever declares is not trusted as the people are who write the files of the installation.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from analytics_dagster.clock import Clock
from analytics_dagster.errors import ConflictError, DeclarationError, NotFoundError, UserError
from analytics_dagster.metrics import forms
from analytics_dagster.metrics.declarations import Catalogue, did_you_mean
from analytics_dagster.metrics.documents import Document, describe, parse_document, refuse_aliases
from analytics_dagster.metrics.expressions import ExpressionError, require_plain
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.tenancy.audit import Audit

if TYPE_CHECKING:
    import sqlalchemy as sa

    from analytics_dagster.lake.database import Database
    from analytics_dagster.metrics.declarations import Family

MOST_CHARACTERS = 20_000
RESERVED_COLUMNS = frozenset({
    "ts", "day", "month", "value", "count", "measure", "dimension", "days", "given", "combination", "start", "within", "id",
    "ids", "n", "v", "figure", "rank", "suppressed",
})  # fmt: skip
"""Columns that tables and partitions, what is computed on the way, and answers have besides a model's own."""
_NUMBERED = re.compile(r"(n|m|sets)\d+")
MOST_DIMENSIONS, MOST_MEASURES = 6, 12
"""Of one semantic model: its table has a row for each combination of dimension values that occurs."""

Texts = tuple[tuple[str, str], ...]
"""Names and YAML of a tenant's declarations, by name."""


@dataclass(frozen=True)
class SavedMetric:
    """One version of a declaration. `text` None: with this version it was removed."""

    name: str
    version: int
    text: str | None
    author: str
    saved_at: dt.datetime


@dataclass(frozen=True)
class OwnCatalogue:
    """What a tenant can ask for. `problems`: own declarations that are left out (a metric of the installation has their name
    since, or is gone) -> why.
    """

    catalogue: Catalogue
    own: frozenset[str]
    problems: Mapping[str, str]

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that the tenant declared."""
        return tuple(family for family in self.catalogue.families if family.own)


@lru_cache(maxsize=256)
def own_catalogue(extra: Path | None, texts: Texts) -> OwnCatalogue:
    """The installation's catalogue with a tenant's declarations. One that cannot be loaded any more is left out, so that the
    others stay. Raises DeclarationError for what the installation itself declares.
    """
    try:
        return OwnCatalogue(_load(extra, texts), frozenset(name for name, _ in texts), {})
    except DeclarationError:
        kept: Texts = ()
        waiting, problems = dict(texts), dict[str, str]()
        found = load_catalogue(extra)
        while True:  # one may be made from another that comes later
            taken = 0
            for name, text in list(waiting.items()):
                try:
                    found, kept = _load(extra, (*kept, (name, text))), (*kept, (name, text))
                    taken += bool(waiting.pop(name))
                except DeclarationError as error:
                    problems[name] = str(error)
            if not taken:
                return OwnCatalogue(found, frozenset(name for name, _ in kept), {name: problems[name] for name in waiting})


def _load(extra: Path | None, texts: Texts) -> Catalogue:
    """The same, where each of them must load. Raises DeclarationError."""
    try:
        return load_catalogue(extra, texts)
    except RecursionError:  # how deep a stack may be is not the declaration's alone: whoever asks has a part of it
        raise DeclarationError("metrics are made from each other too deeply, or an expression is nested too deeply") from None


class OwnMetrics:
    """The declarations of an installation's tenants. `extra` is the installation's own folder of declarations."""

    def __init__(self, database: Database, clock: Clock, extra: Path | None) -> None:
        self._database, self._clock, self._extra = database, clock, extra
        self._audit = Audit(database, clock)

    def catalogue(self, tenant: str, base: Callable[[], Catalogue]) -> Catalogue:
        """What a tenant can ask for now; what `base` gives (the installation's catalogue) where it declared nothing."""
        texts = _texts(self.all(tenant))
        return own_catalogue(self._extra, texts).catalogue if texts else base()

    def of(self, tenant: str) -> OwnCatalogue:
        """The same with what is its own, and what cannot be used."""
        return own_catalogue(self._extra, _texts(self.all(tenant)))

    def all(self, tenant: str) -> list[SavedMetric]:
        """The newest version of each declaration that is not removed, by name."""
        newest = {saved.name: saved for saved in self._rows(tenant)}
        return [saved for _, saved in sorted(newest.items()) if saved.text is not None]

    def tenants(self) -> list[str]:
        """The tenants that ever declared something."""
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import own_metrics as table

        with self._database.read() as connection:
            return sorted(connection.execute(sa.select(table.c.tenant).distinct()).scalars())

    def get(self, tenant: str, name: str) -> SavedMetric:
        """Raises NotFoundError with the nearest names."""
        found = {saved.name: saved for saved in self.all(tenant)}
        if name not in found:
            raise NotFoundError(f"no own metric {name!r}{did_you_mean(name, found)}")
        return found[name]

    def versions(self, tenant: str, name: str) -> list[SavedMetric]:
        """All versions, newest first; also of one that was removed. Raises NotFoundError for one that never was."""
        found = [saved for saved in self._rows(tenant) if saved.name == name]
        if not found:
            raise NotFoundError(f"no own metric {name!r}")
        return found[::-1]

    def save(
        self, tenant: str, name: str, text: str, author: str, *, based_on: int, most: int = 0, request_id: str | None = None
    ) -> SavedMetric:
        """Check a declaration and add it as a version. `based_on` is the version that was changed, 0 for a new one; `most` how
        many a tenant may have, 0 for no limit.

        Raises DeclarationError with line and field, UserError for one too many, ConflictError when `based_on` is not the newest.
        """
        saved = self.all(tenant)
        others = tuple((one.name, one.text or "") for one in saved if one.name != name)
        if most and len(others) >= most:
            raise UserError(
                f"there are {len(others)} own metrics, {most} are allowed; remove one first, or ask for a higher quota"
            )
        check_own(load_catalogue(self._extra), name, text)
        loaded = _load(self._extra, (*_loading(self._extra, others), (name, text)))
        for family in loaded.families:
            if family.own and family.origin.file == f"{name}.yaml":
                check_bound(family)
        return self._add(tenant, name, text, author, based_on, request_id)

    def remove(self, tenant: str, name: str, author: str, *, based_on: int, request_id: str | None = None) -> SavedMetric:
        """Its versions stay. Raises ConflictError while another of the tenant's metrics is made from it."""
        self.get(tenant, name)
        others = tuple((one.name, one.text or "") for one in self.all(tenant) if one.name != name)
        before = self.of(tenant)
        broken = sorted(set(own_catalogue(self._extra, others).problems) - set(before.problems))
        if broken:
            raise ConflictError(f"the own metric {broken[0]!r} is made from {name!r}; remove or change that first")
        return self._add(tenant, name, None, author, based_on, request_id)

    def _rows(self, tenant: str) -> list[SavedMetric]:
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import own_metrics as table

        query = sa.select(table).where(table.c.tenant == tenant).order_by(table.c.name, table.c.version)
        with self._database.read() as connection:
            return [_saved(row) for row in connection.execute(query)]

    def _add(self, tenant: str, name: str, text: str | None, author: str, based_on: int, request_id: str | None) -> SavedMetric:
        import sqlalchemy as sa

        from analytics_dagster.lake.state_tables import own_metrics as table

        now = self._clock.now()
        mine = sa.select(table).where(table.c.tenant == tenant, table.c.name == name).order_by(table.c.version.desc()).limit(1)

        def write(connection: sa.Connection) -> SavedMetric:
            newest = connection.execute(mine).one_or_none()
            version = newest.version if newest is not None else 0
            # A name that was removed may be taken anew by somebody who never saw what it was.
            known = 0 if newest is None or (newest.text is None and based_on == 0) else version
            if based_on != known:
                raise _conflict(name, newest)
            made = SavedMetric(name, version + 1, text, author, now)
            connection.execute(table.insert().values(tenant=tenant, **made.__dict__))
            action = "metric.remove" if text is None else "metric.save"
            detail = f"version {made.version}"
            self._audit.record(
                action, author, tenant=tenant, target=name, detail=detail, request_id=request_id, connection=connection
            )
            return made

        try:
            return self._database.write(write)
        except sa.exc.IntegrityError:  # PostgreSQL lets two look at once; the primary key lets one of them write
            with self._database.read() as connection:
                raise _conflict(name, connection.execute(mine).one_or_none()) from None


def check_own(base: Catalogue, name: str, text: str) -> None:
    """Check the shape of a tenant's declaration, and that it takes no name of the installation's and reads nothing but columns.

    Raises DeclarationError with line and field.
    """
    if len(text) > MOST_CHARACTERS:
        raise DeclarationError(f"{name}.yaml:1: the declaration has {len(text)} characters, {MOST_CHARACTERS} are allowed")
    refuse_aliases(text, f"{name}.yaml")
    document = parse_document(text, f"{name}.yaml")
    try:
        form = forms.FileForm.model_validate(document.data or {})
    except ValidationError as error:
        raise DeclarationError(describe(document, error, forms.KEYS)) from None
    if len(form.metrics) != 1 or form.metrics[0].name != name:
        names = ", ".join(metric.name for metric in form.metrics) or "none"
        raise _wrong(document, ("metrics",), f"declare one metric, named as the address: {name!r}; here: {names}")
    if len(form.semantic_models) > 1:
        raise _wrong(
            document, ("semantic_models", 1), "a declaration has at most one semantic model; declare the other by itself"
        )
    for at, kind, taken in _names(form):
        if _is_taken(base, kind, taken):
            raise _wrong(document, at, f"the {kind} {taken!r} is the installation's; give yours another name")
    for n, model in enumerate(form.semantic_models):
        _check_model(document, ("semantic_models", n), model)
    for at, expression in _expressions(form):
        try:
            require_plain(expression)
        except ExpressionError as error:
            raise _wrong(document, at, str(error)) from None


def check_bound(family: Family) -> None:
    """Have DuckDB bind a family's expressions over no rows: what it cannot compute is found before it is kept.

    Raises DeclarationError with DuckDB's reason.
    """
    import duckdb

    from analytics_dagster.lake.compute import session
    from analytics_dagster.metrics.compile import SOURCE
    from analytics_dagster.metrics.expressions import PARAMETERS

    queries = {f"dimension {d.name!r}": f"SELECT {d.expr} FROM {SOURCE}" for d in family.dimensions}
    queries |= {f"measure {m.name!r}": f"SELECT {m.expr} FROM {SOURCE}" for m in family.measures}
    if family.step is None and family.sessions is None:  # those are of rows that a query of their own makes
        queries["semantic model"] = family.queries.build
    with session() as connection:
        connection.register(SOURCE, family.rows.arrow.empty_table())
        for what, query in queries.items():
            try:
                connection.execute(query, {name: 1 for name in PARAMETERS if f"${name}" in query} or None).fetchall()
            except duckdb.Error as error:
                raise DeclarationError(f"{family.origin}: {what}: DuckDB: {str(error).splitlines()[0]}") from None


def _check_model(document: Document, at: tuple[str | int, ...], model: forms.SemanticModelForm) -> None:
    if not model.model.startswith("raw/"):
        raise _wrong(document, (*at, "model"), f"{model.model!r} is not a table of rows; name one of raw/")
    if model.step not in (None, "counting"):
        raise _wrong(document, (*at, "step"), f"step {model.step} is for the installation's own declarations; take it out")
    if model.defaults.time_granularity == "minute":
        raise _wrong(document, (*at, "defaults", "time_granularity"), "minutes are not kept of own models; hour or day")
    for key, most, given in (
        ("dimensions", MOST_DIMENSIONS, len(model.dimensions)),
        ("measures", MOST_MEASURES, len(model.measures)),
    ):
        if given > most:
            raise _wrong(document, (*at, key), f"the semantic model has {given} {key}, {most} are allowed")
    for key, names in (("dimensions", [d.name for d in model.dimensions]), ("measures", [m.name for m in model.measures])):
        for n, name in enumerate(names):
            if name in RESERVED_COLUMNS or _NUMBERED.fullmatch(name):
                reason = f"{name!r} is the name of a column that is made beside yours; give yours another name"
                raise _wrong(document, (*at, key, n, "name"), reason)


def _names(form: forms.FileForm) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    for n, metric in enumerate(form.metrics):
        yield ("metrics", n, "name"), "metric", metric.name
        for i, synonym in enumerate(metric.synonyms):
            yield ("metrics", n, "synonyms", i), "metric", synonym
    for n, model in enumerate(form.semantic_models):
        yield ("semantic_models", n, "name"), "semantic model", model.name
        for i, measure in enumerate(model.measures):
            yield ("semantic_models", n, "measures", i, "name"), "measure", measure.name


def _is_taken(base: Catalogue, kind: str, name: str) -> bool:
    match kind:
        case "metric":
            return base.find(name) is not None
        case "measure":
            return any(measure.name == name for family in base.families for measure in family.measures)
        case _:
            return any(family.name == name for family in base.families)


def _expressions(form: forms.FileForm) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for n, metric in enumerate(form.metrics):
        if isinstance(metric, forms.DerivedForm):
            yield ("metrics", n, "type_params", "expr"), metric.type_params.expr
    for n, model in enumerate(form.semantic_models):
        at = ("semantic_models", n)
        given = [("entities", i, entity.expr) for i, entity in enumerate(model.entities)]
        given += [("dimensions", i, dimension.expr) for i, dimension in enumerate(model.dimensions)]
        given += [("measures", i, measure.expr) for i, measure in enumerate(model.measures)]
        for kind, i, expression in given:
            if expression is not None:
                yield (*at, kind, i, "expr"), expression
        if model.sessions is not None:
            yield (*at, "sessions", "lasts_ms"), model.sessions.lasts_ms


def _wrong(document: Document, at: tuple[str | int, ...], reason: str) -> DeclarationError:
    key = next((str(part) for part in reversed(at) if isinstance(part, str)), "file")
    return DeclarationError(f"{document.file}:{document.line(at)}: {key}: {reason}")


def _loading(extra: Path | None, others: Texts) -> Texts:
    """Those of the others that can be loaded: one that cannot must not be in the way of a good one."""
    loaded = own_catalogue(extra, others)
    return tuple((name, text) for name, text in others if name in loaded.own)


def _texts(saved: Sequence[SavedMetric]) -> Texts:
    return tuple((one.name, one.text or "") for one in saved)


def _conflict(name: str, newest: Any) -> ConflictError:
    who = f" by {newest.author} at {newest.saved_at:%Y-%m-%d %H:%M} UTC" if newest is not None else ""
    return ConflictError(f"the metric {name!r} was saved{who} meanwhile; load it again and repeat your change")


def _saved(row: Any) -> SavedMetric:
    return SavedMetric(row.name, row.version, row.text, row.author, row.saved_at)
