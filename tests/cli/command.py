"""The `analytics` command called in this process, as its console script calls it."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass

from analytics_dagster.cli.main import run


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a verb which could not do its work leaves on standard error."""
        assert self.status == 2, (self.status, self.out, self.err)
        [line] = self.err.splitlines()
        assert line.startswith("analytics: ")
        return line


def analytics(*arguments: object) -> Done:
    """Exit status and output of one call. What it sets in the environment is taken back."""
    kept = dict(os.environ)
    out, err = io.StringIO(), io.StringIO()
    status: object = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run([str(argument) for argument in arguments])
    except SystemExit as ended:
        status = ended.code
    finally:
        os.environ.clear()
        os.environ.update(kept)
    assert isinstance(status, int)
    return Done(status, out.getvalue(), err.getvalue())
