"""`analytics doctor`: what is wrong with this installation, and how to mend it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from analytics_dagster.cli.context import installation


def doctor(ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False) -> int:
    """Look at everything that can be wrong and say how to mend it. Exits with 1 when something is."""
    from analytics_dagster.orchestration.diagnosis import Level, diagnose

    findings = diagnose(installation(ctx))
    if as_json:
        rows = [{"level": f.level.value, "about": f.about, "found": f.found, "remedy": f.remedy} for f in findings]
        typer.echo(json.dumps(rows))
    else:
        for finding in findings:
            typer.echo(f"{finding.level.value:7}  {finding.about:12}  {finding.found}")
            if finding.remedy:
                typer.echo(f"{'':7}  {'':12}  -> {finding.remedy}")
    return 1 if any(f.level is Level.PROBLEM for f in findings) else 0
