"""Simulating into an installation: which days are missing, in which arrivals they come, and carrying them in.

An arrival holds the days of at most one month and about MOST_PLAYS plays, since Delta commits cost more than rows of a
small tenant do. Every day is noted as completed under `simulate-<seed>-<day>`; what was completed is not made again.
Ids are deterministic, so a simulation that was killed goes on without duplicates. While one arrival is stored the next is
made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa

from analytics_dagster.clock import yesterday
from analytics_dagster.errors import NotFoundError, UserError
from analytics_dagster.installation import Installation
from analytics_dagster.lake.schemas import BY_NAME, FIRST_DAY, PLAYS
from analytics_dagster.sources.simulation.catalogue import catalogue, catalogue_changes
from analytics_dagster.sources.simulation.day import delivery_days, simulate_day
from analytics_dagster.sources.simulation.incidents import write_incidents
from analytics_dagster.sources.simulation.parameters import (
    MOST_DAYS,
    Parameters,
    agree,
    load_parameters,
    save_parameters,
    tenant_name,
)
from analytics_dagster.sources.simulation.population import Population, build_population

MOST_PLAYS = 1_000_000
PLAYS_PER_USER = 10
MOST_TENANTS = 1_000

Progress = Callable[[str, float], None]
"""Called with what was just stored (`aurora 2026-01-31`) and the share of all work that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class SimulationPlan:
    """What `analytics simulate` is asked for: `days` days up to and with `until`, for the first `tenants` names."""

    until: date
    tenants: int = 3
    users: int = 1_000
    days: int = 90
    seed: int = 42

    def parameters(self, ordinal: int) -> Parameters:
        first_day = self.until - timedelta(days=self.days - 1)
        return Parameters(tenant_name(ordinal), ordinal, self.seed, self.users, first_day, self.days)

    def check(self) -> None:
        """Raise UserError for a number that is out of range."""
        if not 1 <= self.tenants <= MOST_TENANTS:
            raise UserError(f"tenants {self.tenants} is not allowed; give a number from 1 to {MOST_TENANTS}")
        if not 1 <= self.days <= MOST_DAYS:
            raise UserError(f"days {self.days} is not allowed; give a number from 1 to {MOST_DAYS}")
        self.parameters(0)


@dataclass(frozen=True)
class TenantReport:
    """What a simulation added to one tenant. `rows` counts the rows that were kept, by table."""

    tenant: str
    first: date | None
    last: date | None
    days: int
    rows: dict[str, int]
    incidents: int


@dataclass(frozen=True)
class SimulationReport:
    """What a simulation added, tenant by tenant, and how long it took."""

    tenants: tuple[TenantReport, ...]
    seconds: float

    @property
    def plays(self) -> int:
        return sum(one.rows.get(PLAYS.name, 0) for one in self.tenants)

    @property
    def plays_per_second(self) -> float:
        return self.plays / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class _Task:
    """Days of one tenant that come in one arrival. `catalogue`: none (older than what is there), changes or whole."""

    population: Population
    days: tuple[date, ...]
    whole_catalogue: bool
    with_catalogue: bool
    fresh: bool
    """Nothing of these days was ever begun, so their ids are new."""

    @property
    def arrival(self) -> str:
        return f"{self.population.parameters.arrival_prefix}{self.days[-1]}"


def simulate(installation: Installation, plan: SimulationPlan, progress: Progress | None = None) -> SimulationReport:
    """Simulate the plan's tenants through its last day, adding only what is missing.

    A tenant that was simulated before goes on from its own first day without gaps, with its own seed and users. Raises
    UserError for other ones, for numbers out of range, and for a tenant of that name that holds real data.
    """
    plan.check()
    if plan.until > yesterday(installation.clock):
        raise UserError(f"{plan.until} is not over yet (UTC); simulate until {yesterday(installation.clock)} or an earlier day")
    wanted = [plan.parameters(ordinal) for ordinal in range(plan.tenants)]
    if wanted[0].first_day < FIRST_DAY:
        raise UserError(
            f"the simulation would begin on {wanted[0].first_day}, before {FIRST_DAY}, the first day; give fewer days"
        )
    home = installation.settings.analytics_home
    chosen = []
    for asked in wanted:
        stored = load_parameters(home, asked.tenant)
        chosen.append((agree(stored, asked) if stored else asked, asked.first_day))
        if stored is None:
            _refuse_real_tenant(installation, asked.tenant)
    return _simulate(installation, chosen, plan.until, progress or _silent)


def simulate_through(installation: Installation, tenant: str, until: date, progress: Progress | None = None) -> SimulationReport:
    """Go on with one simulated tenant up to and with a day. Raises NotFoundError for a tenant that was never simulated."""
    parameters = load_parameters(installation.settings.analytics_home, tenant)
    if parameters is None:
        raise NotFoundError(f"tenant {tenant} was not simulated here; `analytics simulate` makes {tenant_name(0)} and others")
    return _simulate(installation, [(parameters, parameters.first_day)], until, progress or _silent)


def _simulate(
    installation: Installation, chosen: Iterable[tuple[Parameters, date]], until: date, progress: Progress
) -> SimulationReport:
    began = time.perf_counter()
    tasks: list[_Task] = []
    populations = []
    for parameters, first in chosen:
        installation.tenants.ensure(parameters.tenant, demo=True)
        save_parameters(installation.settings.analytics_home, parameters)
        population = build_population(parameters, max(until, parameters.first_day))
        write_incidents(installation.settings.analytics_home, parameters.tenant, population.incidents)
        populations.append(population)
        tasks += _tasks(installation, population, min(first, parameters.first_day), until)
    rows: dict[str, dict[str, int]] = {population.parameters.tenant: {} for population in populations}
    total = sum(len(task.days) for task in tasks)
    done = 0
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="simulate") as maker:
        for task, tables in _made_ahead(maker, tasks):
            kept = _store(installation, task, tables)
            tables.clear()
            # A large day's tables are a quarter of a gigabyte, which Arrow would otherwise keep for later.
            pa.default_memory_pool().release_unused()
            tenant = task.population.parameters.tenant
            for name, count in kept.items():
                rows[tenant][name] = rows[tenant].get(name, 0) + count
            done += len(task.days)
            progress(f"{tenant} {task.days[-1]}", done / total)
    reports = tuple(_report(population, tasks, rows[population.parameters.tenant]) for population in populations)
    return SimulationReport(reports, time.perf_counter() - began)


def _tasks(installation: Installation, population: Population, first: date, until: date) -> list[_Task]:
    """The arrivals that bring a tenant's missing days, in time order."""
    parameters = population.parameters
    completed, begun = _known_days(installation, parameters)
    missing = [day for offset in range((until - first).days + 1) if (day := first + timedelta(days=offset)) not in completed]
    newest = max(completed, default=None)
    tasks: list[_Task] = []
    for days in arrival_days(missing, delivery_days(population), parameters.users * PLAYS_PER_USER):
        tasks.append(
            _Task(
                population,
                days,
                whole_catalogue=newest is None and not tasks,
                with_catalogue=newest is None or days[0] > newest,
                fresh=begun.isdisjoint(days),
            )
        )
    return tasks


def arrival_days(missing: Iterable[date], apart: frozenset[date], plays_a_day: int) -> list[tuple[date, ...]]:
    """Group days into arrivals: consecutive, within one month, of about MOST_PLAYS plays; a day of `apart` begins a new one."""
    most = max(1, MOST_PLAYS // plays_a_day)
    groups: list[list[date]] = []
    for day in missing:
        last = groups[-1] if groups else []
        joins = last and day - last[-1] == timedelta(days=1) and day.month == last[-1].month and len(last) < most
        if joins and day not in apart:
            last.append(day)
        else:
            groups.append([day])
    return [tuple(group) for group in groups]


def _known_days(installation: Installation, parameters: Parameters) -> tuple[set[date], set[date]]:
    """Days that were completed, and days of which at least something may be in landing."""
    import sqlalchemy as sa

    from analytics_dagster.lake.state_tables import arrivals

    prefix = parameters.arrival_prefix
    query = (
        sa.select(arrivals.c.arrival, arrivals.c.table_name, arrivals.c.day)
        .where(arrivals.c.tenant == parameters.tenant, arrivals.c.arrival.startswith(prefix, autoescape=True))
        .distinct()
    )
    with installation.database.read() as connection:
        notes = connection.execute(query).all()
    completed = {date.fromisoformat(note.arrival.removeprefix(prefix)) for note in notes if note.table_name == ""}
    return completed, {note.day for note in notes if note.day is not None}


def _made_ahead(maker: ThreadPoolExecutor, tasks: list[_Task]) -> Iterator[tuple[_Task, dict[str, pa.Table]]]:
    """Each task with its tables; the next one's are made while the caller stores this one's."""
    following = maker.submit(_make, tasks[0]) if tasks else None
    for position, task in enumerate(tasks):
        assert following is not None
        tables = following.result()
        following = maker.submit(_make, tasks[position + 1]) if position + 1 < len(tasks) else None
        yield task, tables


def _make(task: _Task) -> dict[str, pa.Table]:
    parts = [simulate_day(task.population, day) for day in task.days]
    tables = {name: pa.concat_tables([part[name] for part in parts]) for name in parts[0]}
    if task.whole_catalogue:
        tables |= catalogue(task.population, task.days[-1])
    elif task.with_catalogue:
        tables |= catalogue_changes(task.population, task.days[0], task.days[-1])
    return {name: rows for name, rows in tables.items() if rows.num_rows}


def _store(installation: Installation, task: _Task, tables: dict[str, pa.Table]) -> dict[str, int]:
    """Append an arrival, and note its days as completed once everything is in."""
    tenant = task.population.parameters.tenant

    def append(name: str) -> int:
        schema = BY_NAME[name]
        # A catalogue row is new only if it differs from the last one of its key, which landing finds out; in a tenant that
        # has no catalogue yet every row is.
        unique = task.fresh and (schema.time is not None or task.whole_catalogue)
        return installation.landing.append(tenant, schema, tables[name], task.arrival, unique=unique).kept

    # Plays take as long as all other tables together.
    with ThreadPoolExecutor(2, thread_name_prefix="store") as threads:
        kept = dict(zip(tables, threads.map(append, tables), strict=True))
    for day in task.days:
        installation.landing.complete(tenant, f"{task.population.parameters.arrival_prefix}{day}")
    return kept


def _report(population: Population, tasks: list[_Task], rows: dict[str, int]) -> TenantReport:
    days = [day for task in tasks if task.population is population for day in task.days]
    began = {one.incident for one in population.incidents if any(one.covers(day) for day in days)}
    first, last = min(days, default=None), max(days, default=None)
    return TenantReport(population.parameters.tenant, first, last, len(days), dict(sorted(rows.items())), len(began))


def _refuse_real_tenant(installation: Installation, tenant: str) -> None:
    real = {record.tenant for record in installation.tenants.records() if not record.demo}
    if tenant in real:
        raise UserError(
            f"tenant {tenant} holds data that was not simulated; simulate into another --home, so that the two are not mixed"
        )


def _silent(what: str, share: float) -> None:
    """Progress that nobody watches."""
