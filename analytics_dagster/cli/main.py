"""The `analytics` command: verbs wired together, one line for each error, exit statuses 0, 1 and 2.

0 done, 1 findings (a test differs, a check failed where --strict asks), 2 could not.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from analytics_dagster import __version__
from analytics_dagster.cli import (
    annotation,
    audit,
    doctor,
    importing,
    key,
    materialize,
    query,
    reconcile,
    report,
    restatements,
    rules,
    serve,
    session,
    simulate,
    tenant,
    up,
)
from analytics_dagster.cli.context import Invocation
from analytics_dagster.errors import AnalyticsError, UserError

app = typer.Typer(
    name="analytics",
    help="Figures, checks, forecasts and alerts for many tenants of a music service, on Dagster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _analytics(
    ctx: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            help="Folder that holds everything; may stand anywhere on the line. Default: ANALYTICS_HOME, else .analytics."
        ),
    ] = None,
    _show: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    ctx.obj = Invocation(home)


app.command("up")(up.up)
app.command("serve")(serve.serve)
app.command("simulate")(simulate.simulate)
app.command("import")(importing.import_files)
app.add_typer(importing.quarantine_app, name="quarantine")
app.command("materialize")(materialize.materialize)
app.command("query")(query.query)
app.add_typer(query.metrics_app, name="metrics")
app.command("reconcile")(reconcile.reconcile)
app.command("restatements")(restatements.restatements)
app.add_typer(annotation.app, name="annotation")
app.add_typer(rules.app, name="rules")
app.add_typer(report.app, name="report")
app.add_typer(tenant.app, name="tenant")
app.add_typer(key.app, name="key")
app.command("signin")(session.signin)
app.add_typer(session.app, name="session")
app.command("audit")(audit.audit)
app.command("doctor")(doctor.doctor)


def run(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    try:
        given = home_first(list(sys.argv[1:] if arguments is None else arguments))
        status = app(given, standalone_mode=False, prog_name="analytics")
    except AnalyticsError as error:
        _fail(str(error))
    except typer.TyperException as error:
        # A wrong verb, option or value. The message is empty where the help was just printed (`analytics` alone).
        if not (message := " ".join(error.format_message().split())):  # a missing choice is told in many lines
            sys.exit(2)
        where = getattr(error, "ctx", None)
        _fail(f"{message.rstrip('.')}; see `{where.command_path if where else 'analytics'} --help`")
    except typer.Abort:
        _fail("stopped")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has seen enough (`analytics query ... | head`).
        sys.stderr.close()
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)


def home_first(arguments: list[str]) -> list[str]:
    """Move `--home DIR` to the front, so that it may stand behind the verb too. Raises UserError when DIR is missing."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument == "--home":
            value = next(waiting, None)
            if value is None:
                raise UserError("--home needs the folder of an installation: --home DIR")
            front = [argument, value]
        elif argument.startswith("--home="):
            front = [argument]
        else:
            rest.append(argument)
    return front + rest


def _fail(message: str) -> None:
    typer.echo(f"analytics: {message}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    run()
