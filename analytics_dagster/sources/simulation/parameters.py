"""What a simulated tenant was made from, and where that is kept, so that its simulation can be continued.

`<home>/simulated/<tenant>/parameters.json` is written before the first row lands. Everything about the tenant follows
from it and the day; nothing else is remembered.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from pathlib import Path

from analytics_dagster.errors import IntegrityError, UserError
from analytics_dagster.sources.simulation.vocabulary import TENANT_NAMES

MOST_USERS = 5_000_000
MOST_DAYS = 10_000


@dataclass(frozen=True)
class Parameters:
    """One simulated tenant. `first_day` and `days` are those of its first simulation: incidents lie within them."""

    tenant: str
    ordinal: int
    seed: int
    users: int
    first_day: date
    days: int

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("users", self.users, 1, MOST_USERS),
            ("days", self.days, 1, MOST_DAYS),
            ("seed", self.seed, 0, 2**32 - 1),
        ):
            if not least <= value <= most:
                raise UserError(f"{name} {value} is not allowed; give a number from {least} to {most}")

    @property
    def arrival_prefix(self) -> str:
        """How the names of this tenant's arrivals begin."""
        return f"simulate-{self.seed}-"

    def day_number(self, day: date) -> int:
        """Days since the first one; negative before it."""
        return (day - self.first_day).days

    def day(self, number: int) -> date:
        return self.first_day + timedelta(days=number)


def tenant_name(ordinal: int) -> str:
    """aurora, borealis, cascade, then tenant-4, tenant-5, ..."""
    return TENANT_NAMES[ordinal] if ordinal < len(TENANT_NAMES) else f"tenant-{ordinal + 1}"


def folder(home: Path, tenant: str) -> Path:
    """Where a simulated tenant's parameters and ground truth are kept."""
    return home / "simulated" / tenant


def load_parameters(home: Path, tenant: str) -> Parameters | None:
    """The parameters of a tenant's simulation; None when the tenant was never simulated.

    Raises IntegrityError when the file is damaged.
    """
    path = folder(home, tenant) / "parameters.json"
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Parameters(
            tenant=str(stored["tenant"]),
            ordinal=int(stored["ordinal"]),
            seed=int(stored["seed"]),
            users=int(stored["users"]),
            first_day=date.fromisoformat(stored["first_day"]),
            days=int(stored["days"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path} is damaged ({error!r}); put back a copy, or remove the home and simulate again: without it the "
            f"simulation of {tenant} cannot be continued"
        ) from error


def save_parameters(home: Path, parameters: Parameters) -> None:
    """Write the parameters so that a reader sees the old file or the new one, never half of it."""
    target = folder(home, parameters.tenant) / "parameters.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    content = {**asdict(parameters), "first_day": parameters.first_day.isoformat()}
    replace_text(target, json.dumps(content, indent=2, sort_keys=True) + "\n")


def replace_text(target: Path, text: str) -> None:
    """Replace a file's content atomically."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(target)


def simulated_tenants(home: Path) -> list[Parameters]:
    """All simulated tenants of a home, by name."""
    found = (load_parameters(home, path.parent.name) for path in sorted((home / "simulated").glob("*/parameters.json")))
    return [parameters for parameters in found if parameters is not None]


def agree(stored: Parameters, asked: Parameters) -> Parameters:
    """The parameters to go on with: the stored ones, if the same simulation is asked for. Raises UserError if not."""
    for name in ("seed", "users"):
        if getattr(stored, name) != getattr(asked, name):
            raise UserError(
                f"tenant {stored.tenant} was simulated with {name} {getattr(stored, name)}, so it cannot go on with "
                f"{getattr(asked, name)}; give --{name} {getattr(stored, name)}, or another --home"
            )
    return replace(stored)
