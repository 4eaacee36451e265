"""The documentation of alerting: its examples load, and it names every field and key."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from analytics_dagster.alerts.config import _TYPE_KEYS, load_alerting
from analytics_dagster.alerts.rule_file import FIELDS, load_rules
from analytics_dagster.alerts.rule_test import run_rule_test
from analytics_dagster.alerts.rules import Level
from analytics_dagster.alerts.templates import FILTERS
from analytics_dagster.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "reference" / "rules.md", DOCS / "reference" / "alerting.md", DOCS / "how-to" / "slack.md"]
EXAMPLES = [
    (page.name, number, textwrap.dedent(block))
    for page in PAGES
    for number, block in enumerate(re.findall(r"^ *```yaml\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE))
]
CPU = "alert_rules: [{name: CPU, query: cpu_usage_percent, condition: gt, threshold: 80, severity: high, for_duration: 5m}]"


@pytest.mark.parametrize(("page", "number", "text"), EXAMPLES)
def test_every_example_loads(page, number, text, tmp_path, home, monkeypatch):
    home.mkdir()
    if text.startswith("alert_rules"):
        (tmp_path / "rules.yaml").write_text(text)
        assert load_rules([tmp_path / "rules.yaml"]).problems == ()
    elif text.startswith("rule_files"):
        (tmp_path / "rules.yaml").write_text(CPU)
        (tmp_path / "test.yaml").write_text(text)
        result = run_rule_test(tmp_path / "test.yaml")
        assert (result.status, result.failures, result.could_not) == (0, (), ())
    else:
        (home / "secrets").mkdir()
        (home / "secrets" / "events").write_text("whsec_AAAA")
        environ = {"SLACK_WEBHOOK_URL": "https://hooks.slack.com/x", "SLACK_BOT_TOKEN": "xoxb-1"}
        (home / "alerting.yaml").write_text(text)
        config = load_alerting(Settings.from_environment(home), environ)
        assert config.problems == ()


def test_every_field_filter_and_key_is_documented():
    rules = PAGES[0].read_text()
    for name in (*FIELDS, *FILTERS):
        assert f"`{name}`" in rules, name
    alerting = PAGES[1].read_text()
    for keys in _TYPE_KEYS.values():
        for key in keys:
            # Allowed for servers on this machine; everybody else needs a reference.
            assert key == "api_url" or f"`{key}`" in alerting, key


def test_the_projects_own_files_load():
    root = DOCS.parent
    assert load_rules([root / "rules.yaml"]).problems == ()
    settings = Settings.from_environment(root / ".analytics", {"analytics_alerting": root / "alerting.yaml"})
    assert [p for p in load_alerting(settings, {}).problems if p.level is not Level.NOTICE] == []
