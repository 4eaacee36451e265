"""The documentation holds: what a user can name is documented, what is documented exists, and examples work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from reference_pages import NOT_YET, PAGES, ROOT, SETTINGS, pages

from analytics_dagster.alerts.rule_file import load_rules
from analytics_dagster.cli.main import app
from analytics_dagster.metrics.load import load_catalogue
from analytics_dagster.settings import Settings
from analytics_dagster.sources.formats import FORMATS

DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
WRITE_AGAIN = "run `python tests/reference_pages.py`"


def _name(document: Path) -> str:
    return str(document.relative_to(ROOT))


# --- settings and assets


@pytest.mark.parametrize("page", PAGES)
def test_generated_pages_say_what_the_code_says(page: str) -> None:
    path = DOCS / "reference" / page
    assert path.read_text(encoding="utf-8") == pages()[path], WRITE_AGAIN


def test_every_setting_is_in_one_section() -> None:
    listed = [name for names in SETTINGS.values() for name in names] + list(NOT_YET)
    assert sorted(listed) == sorted(Settings.model_fields)


def test_settings_are_said_not_to_be_acted_on_exactly_when_no_code_reads_them() -> None:
    package = ROOT / "analytics_dagster"
    own = (package / "settings.py").read_text(encoding="utf-8")
    others = "\n".join(f.read_text(encoding="utf-8") for f in package.rglob("*.py") if f.name != "settings.py")
    unread = [n for n in Settings.model_fields if not re.search(rf"\b{n}\b", others) and f"self.{n}" not in own]
    assert sorted(unread) == sorted(NOT_YET)


def test_variables_that_the_documentation_names_exist() -> None:
    known = {name.upper() for name in Settings.model_fields} | {"ANALYTICS_DAGSTER_POSTGRES_URL"}
    for document in DOCUMENTS:
        named = set(
            re.findall(r"\b(?:ANALYTICS|ALERT|SLACK|REDIS|MAX_ALERTS|ML_MODEL)_[A-Z_]+\b", document.read_text(encoding="utf-8"))
        )
        assert named <= known, f"{_name(document)}: {sorted(named - known)}"


# --- the command line


def _verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    commands: Mapping[str, Any] = getattr(command, "commands", {})
    if not commands:
        yield " ".join(path), command
    for name, inner in commands.items():
        yield from _verbs(inner, (*path, name))


VERBS = dict(_verbs(typer.main.get_command(app)))
SAME_AS = {"metrics query": "query"}
"""Verbs that are another one under a second name, and documented there."""
GLOBAL_OPTIONS = {"--home", "--version", "--help"}


def _options(verb: str) -> dict[str, Any]:
    """Each spelling of each option, with its parameter."""
    found = {}
    for parameter in VERBS[verb].params:
        for spelling in (*parameter.opts, *parameter.secondary_opts):
            if spelling.startswith("-"):
                found[spelling] = parameter
    return found


def _sections() -> dict[str, str]:
    text = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    parts = re.split(r"^## analytics (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_verb_is_documented_and_every_documented_verb_exists() -> None:
    assert set(_sections()) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_documented_and_every_documented_option_exists(verb: str) -> None:
    if verb in SAME_AS:
        assert f"The same as [`analytics {SAME_AS[verb]}`]" in _sections()[verb]
    rows = re.findall(r"^\| (`--.+?) \| (.+?) \|", _sections()[SAME_AS.get(verb, verb)], re.MULTILINE)
    documented = {spelling for cell, _ in rows for spelling in re.findall(r"`(--?[a-z-]+)`", cell)}
    assert documented == set(_options(verb))
    if not documented:
        assert "Takes no options." in _sections()[verb]


@pytest.mark.parametrize("verb", VERBS)
def test_documented_defaults_are_the_real_ones(verb: str) -> None:
    for cell, said in re.findall(r"^\| (`--.+?) \| (.+?) \|", _sections()[verb], re.MULTILINE):
        option = _options(verb)[re.findall(r"`(--[a-z-]+)`", cell)[0]]
        match option.default:
            case bool(value):
                assert said == ("on" if value else "off"), cell
            case None if option.required:
                assert said == "required", cell
            case None:
                assert not said.startswith("`"), cell
            case value:
                assert said == f"`{getattr(value, 'value', value)}`", cell


def _command_lines() -> Iterator[tuple[str, str]]:
    """Document and line of each call of `analytics` in code."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        code = re.findall(r"`([^`\n]+)`", text) + [line for line in text.splitlines() if line.startswith("    ")]
        code += [line for block in re.findall(r"```(?:bash|sh)?\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        for line in code:
            if found := re.match(r"\s*(?:\.venv/bin/)?analytics ([a-z][^|>;#]*)", line):
                yield _name(document), found[1].strip()


def test_every_command_line_names_a_verb_and_options_that_exist() -> None:
    checked = 0
    for document, line in _command_lines():
        words = shlex.split(line.replace("...", ""))
        verb = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in VERBS), None)
        if verb is None and re.fullmatch(r"[a-z]+(,[a-z,]+)?( [a-z]+(,[a-z]+)*)?", " ".join(words[:2])) is None:
            continue  # prose: `analytics does`
        assert verb is not None, f"{document}: analytics {line}"
        unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - set(_options(verb)) - GLOBAL_OPTIONS
        assert not unknown, f"{document}: analytics {line}: {sorted(unknown)}"
        checked += 1
    assert checked > 50


# --- metrics and formats


def test_every_metric_is_documented_and_every_documented_metric_exists() -> None:
    headings = re.findall(r"^### ([a-z0-9_]+)$", (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(metric.name for metric in load_catalogue(None).metrics)


def test_metrics_that_command_lines_ask_for_exist() -> None:
    text = (DOCS / "how-to" / "declare-a-metric.md").read_text(encoding="utf-8")
    declared_there = set(re.findall(r"- name: ([a-z_]+)", text))
    catalogue = load_catalogue(None)
    for document, line in _command_lines():
        words = shlex.split(line.replace("...", ""))
        if words[0] == "query" and len(words) > 1 and words[1].islower():
            assert catalogue.find(words[1]) is not None or words[1] in declared_there, f"{document}: {line}"


def test_every_import_format_is_documented_and_every_documented_format_exists() -> None:
    formats = (DOCS / "reference" / "formats.md").read_text(encoding="utf-8")
    own = re.findall(r"^\| (`[a-z_`, ]+) \|", formats.partition("## Our own columns")[2], re.MULTILINE)
    documented = {name for cell in own for name in re.findall(r"`([a-z_]+)`", cell)}
    documented |= {name for name in re.findall(r"^## ([a-z-]+)$", formats, re.MULTILINE) if name in FORMATS or "-" in name}
    assert documented == set(FORMATS)
    listed = re.findall(r"`([a-z_-]+)`", _sections()["import"].partition("Formats are")[2].partition(";")[0])
    assert listed == list(FORMATS)


# --- examples


def _blocks(language: str) -> list[tuple[str, int, str]]:
    found = []
    for document in DOCUMENTS:
        for block in re.finditer(
            rf"^( *)```{language}\n(.*?)^\1```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            line = document.read_text(encoding="utf-8")[: block.start()].count("\n") + 1
            found.append((_name(document), line, textwrap.dedent(block[2])))
    return found


@pytest.mark.parametrize(("document", "line", "text"), [b for b in _blocks("yaml") if b[2].startswith("alert_rules")])
def test_rules_in_examples_load(document: str, line: int, text: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(text, encoding="utf-8")
    catalogue = load_catalogue(None)
    rules = load_rules([tmp_path / "rules.yaml"], known=lambda name: catalogue.find(name) is not None)
    assert rules.problems == ()
    assert rules.rules


@pytest.mark.parametrize(("document", "line", "text"), _blocks("python"))
def test_python_in_examples_compiles(document: str, line: int, text: str) -> None:
    compile(text, f"{document}:{line}", "exec")


def test_the_launchpads_tenant_scope_is_what_the_graph_takes() -> None:
    import dagster as dg
    import yaml

    from analytics_dagster.definitions import defs

    scopes = [text for _, _, text in _blocks("yaml") if text.startswith("resources:")]
    assert scopes
    for text in scopes:
        assert dg.validate_run_config(defs.resolve_job_def("materialize_days"), yaml.safe_load(text))


def test_the_tutorials_receiver_prints_what_a_webhook_channel_sends(tmp_path: Path) -> None:
    """The page's own programs: its receiver gets a message of the channel, and its failures are rows that import."""
    import socket
    import time

    from analytics_dagster.alerts.channels.base import Delivery
    from analytics_dagster.alerts.channels.webhook import WebhookChannel
    from analytics_dagster.clock import SystemClock
    from analytics_dagster.errors import RetryableError

    receiver = next(text for document, _, text in _blocks("python") if document.endswith("first-alert.md") and "Receiver" in text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "receiver.py").write_text(receiver.replace("8099", str(port)), encoding="utf-8")
    payload = {"status": "firing", "tenant_id": "aurora", "summary": "too many", "url": "http://127.0.0.1:3000/runs/1"}
    delivery = Delivery("key", "aurora", "webhook", "High Error Rate", "firing", "critical", payload)
    channel = WebhookChannel("webhook", f"http://127.0.0.1:{port}/", None, SystemClock())
    with subprocess.Popen(
        [sys.executable, "receiver.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        try:
            for _ in range(100):
                try:
                    channel.send([delivery])
                    break
                except RetryableError:
                    time.sleep(0.1)
        finally:
            running.terminate()
        assert running.stdout is not None
        assert running.stdout.read().decode() == "firing aurora too many http://127.0.0.1:3000/runs/1\n"


# --- the text itself


def _anchors(document: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\[(.+?)\]\(.+?\)", r"\1", h).lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{_name(document)}: {target}"
        assert not anchor or anchor in _anchors(linked), f"{_name(document)}: {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)\s#]+\.md)[)#]", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                waiting.append((page.parent / target).resolve())
    assert {_name(page) for page in DOCUMENTS} <= {_name(page) for page in seen}


def test_pictures_are_small() -> None:
    for picture in DOCS.rglob("*.png"):
        assert picture.stat().st_size < 300_000, _name(picture)


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_tracked_text_names_a_package_index_or_a_path_of_one_machine() -> None:
    # In parts, so that this file does not find itself.
    index = "|".join(["index" + "-url", "python" + "hosted", "pypi" + r"\.", "simple" + "/$"])
    machine = "|".join([r"(?<![\w.])/" + folder + "/" for folder in ("root", "work", "Users", "tmp", "home/[a-z]+")])
    allowed = {"Makefile": "--no-emit-index" + "-url"}
    for path in _tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            told = line.replace(allowed.get(path.name, "\0"), "")
            assert not re.search(f"{index}|{machine}", told), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
