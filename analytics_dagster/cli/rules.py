"""`analytics rules`: check rule files, test them, list what is installed. Nothing here sends or stores anything."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analytics_dagster.alerts.config import AlertingConfig, load_alerting, load_installed_rules
from analytics_dagster.alerts.dimensions import unknown_dimensions
from analytics_dagster.alerts.durations import format_duration
from analytics_dagster.alerts.rule_file import load_rules
from analytics_dagster.alerts.rule_test import run_rule_test
from analytics_dagster.alerts.rules import Level, Problem, Rule, RuleSet
from analytics_dagster.cli import context
from analytics_dagster.errors import NotFoundError
from analytics_dagster.settings import Settings

if TYPE_CHECKING:
    from analytics_dagster.metrics.declarations import Catalogue

app = typer.Typer(help="Check, test and list alert rules.", no_args_is_help=True)

Files = Annotated[list[Path], typer.Argument(help="Files to read.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of lines.")]


@app.command()
def check(ctx: typer.Context, files: Files, as_json: AsJson = False) -> None:
    """Validate rule files without running them. 0 when every rule loads (warnings and notices are printed), else 1."""
    settings = context.settings(ctx)
    catalogue, alerting = _catalogue(settings), load_alerting(settings, os.environ)
    results = {path: _checked(path, catalogue, alerting) for path in files}
    if as_json:
        typer.echo(json.dumps([_file_document(path, rules) for path, rules in results.items()], ensure_ascii=False, indent=2))
    else:
        for path, rules in results.items():
            _print_problems(rules.problems)
            typer.echo(f"{path}: {_counted(len(rules.rules), 'rule')} loaded, {len(_refused(rules))} refused")
    if any(rules.errors for rules in results.values()):
        raise typer.Exit(1)


@app.command()
def test(files: Files) -> None:
    """Run rule tests (promtool's format). 0 when all pass, 1 when something differs, 2 when a file cannot be read or run."""
    statuses = []
    for path in files:
        result = run_rule_test(path)
        statuses.append(result.status)
        typer.echo(f"Unit Testing:  {path}")
        for remark in result.remarks:
            typer.echo(f"  {remark}", err=True)
        for reason in result.could_not:
            typer.echo(f"  {reason}", err=True)
        if result.failures:
            typer.echo("  FAILED:\n" + "\n".join(result.failures))
        typer.echo("  COULD NOT RUN\n" if result.could_not else "" if result.failures else "  SUCCESS\n")
    raise typer.Exit(max(statuses))


@app.command("list")
def list_rules(ctx: typer.Context, as_json: AsJson = False) -> None:
    """The rules of this installation (ANALYTICS_RULES, else rules.yaml in or beside its home)."""
    settings = context.settings(ctx)
    alerting: AlertingConfig = load_alerting(settings, os.environ)
    catalogue = _catalogue(settings)
    rules = load_installed_rules(settings, alerting.names, lambda name: catalogue.find(name) is not None)
    if rules.missing:
        raise NotFoundError(f"no rule file at {settings.rules_path}; write one (docs/reference/rules.md) or set ANALYTICS_RULES")
    if as_json:
        typer.echo(json.dumps(_file_document(settings.rules_path, rules), ensure_ascii=False, indent=2))
        return
    rows = [("RULE", "SEVERITY", "TENANT", "FIRES WHEN", "FOR", "CHANNELS"), *map(_row, rules.rules)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    _print_problems((*alerting.problems, *rules.problems))


def _catalogue(settings: Settings) -> Catalogue:
    from analytics_dagster.metrics.load import load_catalogue

    return load_catalogue(settings.analytics_metrics)


def _checked(path: Path, catalogue: Catalogue, alerting: AlertingConfig) -> RuleSet:
    rules = load_rules([path], known=lambda name: catalogue.find(name) is not None, channels=alerting.names)
    return replace(rules, problems=(*rules.problems, *unknown_dimensions(rules.rules, catalogue)))


def _print_problems(problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        typer.echo(f"{problem.level.value}: {problem}", err=True)


def _refused(rules: RuleSet) -> set[tuple[str, str | None]]:
    return {(problem.file, problem.rule) for problem in rules.errors if problem.rule is not None}


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _row(rule: Rule) -> tuple[str, ...]:
    channels = "(all)" if rule.channels is None else ", ".join(rule.channels)
    return (
        rule.name,
        rule.severity.value,
        rule.tenant_id or "(each)",
        rule.expression,
        format_duration(rule.for_duration),
        channels,
    )


def _file_document(path: Path, rules: RuleSet) -> dict[str, Any]:
    return {
        "file": str(path),
        "rules": [_rule_document(rule) for rule in rules.rules],
        "problems": [
            {"level": p.level.value, "file": p.file, "line": p.line, "rule": p.rule, "message": p.message} for p in rules.problems
        ],
        "ok": not any(problem.level is Level.ERROR for problem in rules.problems),
    }


def _rule_document(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "line": rule.line,
        "query": str(rule.query),
        "condition": rule.condition.value,
        "threshold": rule.threshold,
        "severity": rule.severity.value,
        "for_duration": format_duration(rule.for_duration),
        "keep_firing_for": format_duration(rule.keep_firing_for),
        "channels": None if rule.channels is None else list(rule.channels),
        "tenant_id": rule.tenant_id,
        "aggregate": None if rule.aggregate is None else rule.aggregate.value,
        "window": None if rule.window is None else format_duration(rule.window),
        "by": list(rule.by),
        "no_data": rule.no_data.value,
        "missing_evals": rule.missing_evals,
        "labels": dict(rule.labels),
        "annotations": {name: template.source for name, template in rule.annotations.items()},
        "depends_on": list(rule.depends_on),
        "remediation": rule.remediation,
        "expression": rule.expression,
        "version": rule.version,
    }
