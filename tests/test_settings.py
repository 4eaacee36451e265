"""Settings: the mission's names and defaults, refusals that name variable, value and remedy, and where a home is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from analytics_dagster.errors import NotFoundError, SettingsError
from analytics_dagster.settings import Settings, nearest_home


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("redis_host", None),
        ("redis_port", 6379),
        ("redis_password", None),
        ("alert_evaluation_interval", 60),
        ("alert_cooldown_period", 900),
        ("max_alerts_per_hour", 100),
        ("ml_model_retrain_frequency", 86_400),
        ("anomaly_detection_threshold", 0.1),
        ("trend_forecast_horizon", 24),
        ("metrics_buffer_size", 10_000),
        ("cache_ttl", 3_600),
        ("parallel_workers", 8),
    ],
)
def test_the_product_has_its_documented_defaults(home: Path, monkeypatch: pytest.MonkeyPatch, name: str, default: object) -> None:
    monkeypatch.delenv(name.upper(), raising=False)
    assert getattr(Settings.from_environment(home), name) == default


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ALERT_COOLDOWN_PERIOD", "soon", "valid integer"),
        ("REDIS_PORT", "99999", "less than or equal to 65535"),
        ("ANOMALY_DETECTION_THRESHOLD", "1.5", "less than 0.5"),
        ("ANALYTICS_DATABASE_URL", "mysql://x", "must begin with postgresql:// or sqlite:///"),
        ("ANALYTICS_LOG_LEVEL", "LOUD", "pattern"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_what_is_allowed(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment(home)
    assert str(refused.value).startswith(f"{name}=")
    assert said in str(refused.value)


def test_a_refusal_never_shows_a_secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_DATABASE_URL", "mysql://user:hunter2@host/db")
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment(home)
    assert "hunter2" not in str(refused.value)


def test_an_empty_variable_means_the_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_COOLDOWN_PERIOD", "")
    assert Settings.from_environment(home).alert_cooldown_period == 900


def test_the_nearest_home_upward_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANALYTICS_HOME", raising=False)
    (tmp_path / ".analytics").mkdir()
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert nearest_home(below) == tmp_path / ".analytics"
    monkeypatch.chdir(below)
    assert Settings.from_environment().analytics_home == tmp_path / ".analytics"


def test_a_home_that_is_named_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_HOME", str(tmp_path / "from-environment"))
    assert Settings.from_environment().analytics_home == tmp_path / "from-environment"
    assert Settings.from_environment(tmp_path / "named").analytics_home == tmp_path / "named"


def test_rules_stand_beside_a_dot_analytics_home_unless_there_are_some_in_it(home: Path) -> None:
    settings = Settings.from_environment(home)
    assert settings.rules_path == home.parent / "rules.yaml"
    home.mkdir()
    (home / "rules.yaml").write_text("alert_rules: []\n")
    assert settings.rules_path == home / "rules.yaml"


def test_rules_of_a_home_with_another_name_are_looked_for_only_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANALYTICS_RULES", raising=False)
    assert Settings.from_environment(tmp_path / "service").rules_path == tmp_path / "service" / "rules.yaml"


def test_a_postgresql_url_names_its_driver(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_DATABASE_URL", "postgresql://u:p@host/db")
    assert Settings.from_environment(home).database_url == "postgresql+psycopg2://u:p@host/db"


def test_a_home_that_is_not_there_is_named_with_what_to_do(home: Path) -> None:
    with pytest.raises(NotFoundError, match="analytics import"):
        Settings.from_environment(home).require_home()
