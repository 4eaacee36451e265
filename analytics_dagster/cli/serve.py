"""`analytics serve`: the HTTP API, until Ctrl-C."""

from __future__ import annotations

from typing import Annotated

import typer

from analytics_dagster.cli.context import settings


def serve(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=65_535)] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on. Others than loopback need TLS or a proxy.")] = "127.0.0.1",
) -> int:
    """Take points and plays and answer queries over HTTP, until Ctrl-C."""
    from analytics_dagster.server.launch import serve as run

    return run(settings(ctx), host, port, typer.echo)
