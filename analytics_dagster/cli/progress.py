"""Progress bars on standard error, drawn only for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analytics_dagster.orchestration.planning import PlannedRun


@contextmanager
def materialize_progress(run: PlannedRun, draw: bool) -> Iterator[Callable[[str, bool], None]]:
    """Gives a function to call with (asset, whether it is done)."""
    if not draw:
        yield lambda asset, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(run.when, total=len(run.assets))

        def on_asset(asset: str, done: bool) -> None:
            progress.update(task, description=f"{run.when}  {asset}", advance=1 if done else 0)

        yield on_asset
