"""A request that may be sent again: its rows are known again, and what is only points beside it stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from log_points import TABLE, done, open_folder, points, source, values

from analytics_dagster.ingest.consume import consume_all
from analytics_dagster.ingest.log.open import open_log
from analytics_dagster.ingest.points import Points
from analytics_dagster.installation import Installation
from analytics_dagster.metrics.fresh import Fresh
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.metrics.query import MetricQuery, run_query

ORIGIN = "f" * 32


def observations(*values: float, origin: str | None = None) -> Points:
    series = TABLE.number("default", "histogram", "waited", "{}")
    one = points(*values)
    return replace(one, series=np.full(len(values), series, np.int32), origin=origin)


def test_a_request_with_an_origin_is_a_batch_of_its_own_that_bears_it(tmp_path: Path) -> None:
    log = open_folder(tmp_path / "log")
    done(log.append(points(1)), log.append(replace(points(2, 3), origin=ORIGIN)), log.append(points(4)))
    log.close()
    batches = list(source(tmp_path / "log").read(0, 10**9))
    assert [batch.rows["value"].to_pylist() for batch in batches if batch.origin] == [[2.0, 3.0]]
    assert {batch.origin for batch in batches} == {None, ORIGIN}
    assert sorted(values(source(tmp_path / "log"))) == [1, 2, 3, 4]


@pytest.mark.parametrize("origin", ["", "x" * 65, "ö"])
def test_an_origin_that_does_not_fit_refuses_its_request_alone(tmp_path: Path, origin: str) -> None:
    log = open_folder(tmp_path / "log")
    refused = log.append(replace(points(1), origin=origin))
    with pytest.raises(ValueError, match=r"origin|ascii"):
        done(refused)
    done(log.append(points(2)))
    log.close()
    assert values(source(tmp_path / "log")) == [2]


def test_observations_sent_again_are_the_same_ones_in_the_log_and_in_landing(installation: Installation) -> None:
    installation.tenants.ensure("default")
    catalogue, fresh = load_catalogue(), Fresh(installation)
    asked = MetricQuery("waited", aggregate="count")

    def count() -> float:
        figures = run_query(installation.lake.tenant("default"), catalogue, asked, fresh)
        return float(sum(figures["value"].to_pylist()))

    log = open_log(installation.settings, installation.clock, "server-0")
    try:
        done(log.append(observations(5, 5, origin=ORIGIN)), log.append(observations(5, 5)))
        assert count() == 4
        done(log.append(observations(5, 5, origin=ORIGIN)))
        assert count() == 4
        consume_all(installation)
        assert count() == 4
        done(log.append(observations(5, 5, origin=ORIGIN)))
        assert count() == 4
    finally:
        log.close()
        fresh.close()
