"""What a finding recommends, what is wrong with a day's data, and what people say of findings."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from analytics_dagster.clock import ManualClock
from analytics_dagster.dashboards.advice import link, recommendation, warnings
from analytics_dagster.dashboards.evidence import Driver, Source, Told, Trust
from analytics_dagster.dashboards.feedback import Feedback, Verdict, finding_id, read_id, story_of
from analytics_dagster.errors import UserError
from analytics_dagster.installation import open_installation
from analytics_dagster.settings import Settings

DAY = dt.date(2026, 3, 9)


def told(kind: str = "change", **changed: object) -> Told:
    given: dict[str, object] = {"drivers": (), "mix": None, "element": None}
    return Told(1, kind, "plays", "Plays: 900, 40 % below", -0.4, 1.0, **{**given, **changed})  # type: ignore[arg-type]


def trust(**changed: object) -> Trust:
    given: dict[str, object] = {
        "through": DAY, "sources": (Source("aggregates/listening", DAY, DAY),), "passed": 41, "failed": (), "gated": (),
        "quarantined": 0, "run_id": None, "published_at": None, "sequence": 7,
    }  # fmt: skip
    return Trust(**{**given, **changed})  # type: ignore[arg-type]


def test_each_kind_of_finding_recommends_what_to_look_at() -> None:
    driver = Driver("country", "DE", 0.9, 100.0, 700.0)
    assert "Look at country DE first" in recommendation(told(drivers=(driver,)))
    assert "Look at playlist id lst7 first" in recommendation(told("part", element=("playlist_id", "lst7")))
    assert "source delivered" in recommendation(told("missing"))
    assert "no single part" in recommendation(told())
    shifted = {"dimension": "source", "within": -0.01, "mix": 0.04, "cross": 0.0, "total": 0.03}
    assert "moved with their mix" in recommendation(told(mix=shifted, drivers=(driver,)))
    assert "caus" not in recommendation(told(mix=shifted))


def test_the_link_filters_by_the_element_that_is_named_first() -> None:
    assert link("acme", DAY, told(element=("country", "A&B"))) == (
        "/dashboards/acme/overview?to=2026-03-09&metric=plays&f=is,country,A%26B"
    )
    assert link("acme", DAY, told(element=("playlist_id", "lst7"))) == "/dashboards/acme/overview?to=2026-03-09&metric=plays"


def test_a_day_with_good_data_has_no_warning_and_others_say_what_is_wrong_worst_first() -> None:
    assert warnings("acme", DAY, trust()) == ()
    behind = Source("aggregates/ads", DAY, DAY - dt.timedelta(days=2))
    found = warnings("acme", DAY, trust(failed=("not_null",), gated=("raw/plays",), quarantined=12, sources=(behind,)))
    assert [(one.kind, one.evidence) for one in found] == [
        ("gated", ("raw/plays",)),
        ("checks", ("not_null",)),
        ("behind", ("aggregates/ads: 2026-03-07",)),
        ("quarantine", ()),
    ]
    assert all(one.recommendation and one.link.startswith("/dashboards/acme/quality") for one in found)
    assert warnings("acme", DAY, None)[0].kind == "empty"


def test_a_dismissed_story_stays_away_for_two_weeks_and_only_at_its_tenant(tmp_path: Path) -> None:
    clock = ManualClock(dt.datetime(2026, 3, 10, tzinfo=dt.UTC))
    installation = open_installation(Settings.from_environment(tmp_path / "home"), clock, create=True)
    notes = Feedback(installation.database, clock)
    story, other = story_of("plays", ("country", "DE"), -0.4), story_of("plays", ("country", "DE"), 0.4)
    assert story != other
    notes.say("acme", finding_id(DAY, story), "dismiss", "ann")
    notes.say("acme", finding_id(DAY, other), "useful", "ann")
    assert notes.verdicts("acme", DAY) == {story: Verdict.DISMISS, other: Verdict.USEFUL}
    assert notes.verdicts("acme", DAY + dt.timedelta(days=13)) == {story: Verdict.DISMISS}
    assert notes.verdicts("acme", DAY + dt.timedelta(days=14)) == {}
    assert notes.verdicts("acme", DAY - dt.timedelta(days=1)) == {}
    assert notes.verdicts("borealis", DAY) == {}
    notes.say("acme", finding_id(DAY, story), "useful", "bob")
    assert notes.verdicts("acme", DAY)[story] is Verdict.USEFUL
    with pytest.raises(UserError, match="one of useful, dismiss"):
        notes.say("acme", finding_id(DAY, story), "boring", "ann")
    installation.database.dispose()


@pytest.mark.parametrize("text", ["", "plays", "2026-13-40-0123456789", "2026-03-09-xyz", "2026-03-09-0123456789-1"])
def test_what_is_no_findings_id_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no finding"):
        read_id(text)
