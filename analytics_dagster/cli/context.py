"""What every verb starts from: the settings of the chosen home, and the installation in it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import typer

from analytics_dagster.installation import Installation, open_installation
from analytics_dagster.settings import Settings


@dataclass(frozen=True)
class Invocation:
    """One call of `analytics`."""

    home: Path | None


def settings(ctx: typer.Context) -> Settings:
    """The settings for this call; raises SettingsError for a wrong value in the environment."""
    invocation = ctx.find_object(Invocation)
    return Settings.from_environment(invocation.home if invocation else None)


def installation(ctx: typer.Context, create: bool = False) -> Installation:
    """The installation of this call. A verb that only reads leaves `create` off and never makes a home."""
    return open_installation(settings(ctx), create=create)


def interactive() -> bool:
    """Whether progress may be drawn: it goes to standard error, and only to a terminal."""
    return sys.stderr.isatty()
