"""YAML with line numbers: a file as plain data, and the line on which each key or item of it stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from analytics_dagster.errors import DeclarationError
from analytics_dagster.metrics.declarations import did_you_mean

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """One YAML file. `lines` maps a path of keys and indexes to a line, counted from 1."""

    file: str
    data: Any
    lines: dict[Location, int]

    def line(self, location: Sequence[str | int]) -> int:
        """Line of the deepest part of `location` that the file has. Parts it does not have are passed over."""
        known: Location = ()
        for part in location:
            if (*known, part) in self.lines:
                known = (*known, part)
        return self.lines.get(known, 1)


def read_document(path: Path) -> Document:
    """Read a file. Raises DeclarationError naming file and line when it is not UTF-8 YAML with unique keys."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationError(f"{path}:1: cannot be read as YAML: {error}") from None
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Read YAML that came from elsewhere than a file; `name` stands for the file in errors. Raises as `read_document`."""
    try:
        node = _composed(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DeclarationError(f"{name}:{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise DeclarationError(f"{name}:1: cannot be read as YAML: {error}") from None
    lines: dict[Location, int] = {}
    data = None if node is None else _plain(node, (), lines, name)
    return Document(name, data, lines)


def refuse_aliases(text: str, name: str) -> None:
    """Raises DeclarationError for YAML with aliases: a kilobyte of them stands for gigabytes. For text that somebody sent."""
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise DeclarationError(f"{name}:{line}: aliases (*name) are not taken; write it out")
    except yaml.YAMLError:
        return  # reading it says what is wrong


def _composed(text: str) -> yaml.Node | None:
    """By libyaml, where PyYAML has it: in a tenth of the time. What is wrong is said by PyYAML's own reader, which says more."""
    try:
        return yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return yaml.compose(text, Loader=yaml.SafeLoader)


def describe(
    document: Document,
    error: ValidationError,
    keys: Iterable[str],
    name: str = "a name; write lower-case letters, digits and _, beginning with a letter",
) -> str:
    """The first thing that is wrong with a document's shape, with file, line and remedy. `keys` are all that it may have, `name`
    says what a name is.
    """
    # A misspelt key is also a missing one; the misspelling is what helps.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location: Location = first["loc"]
    key = str(location[-1]) if location else "file"
    origin = f"{document.file}:{document.line(location)}"
    value = "" if isinstance(first["input"], dict | list | None) else f" {first['input']!r}"
    match first["type"]:
        case "extra_forbidden":
            return f"{origin}: unknown key {key!r}{did_you_mean(key, keys)}; remove it or correct it"
        case "missing":
            return f"{origin}: {key!r} is missing"
        case "string_pattern_mismatch" if "a-z0-9_" in str(first.get("ctx", {}).get("pattern")):
            return f"{origin}: {key}{value} is not {name}"
        case _:
            return f"{origin}: {key}{value}: {first['msg'].removeprefix('Value error, ')}"


def _plain(node: yaml.Node, at: Location, lines: dict[Location, int], path: str) -> Any:
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*at, index), lines, path) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in data:
                first = lines[(*at, key)]
                raise DeclarationError(f"{path}:{line}: the key {key!r} stands here and on line {first}; keep one")
            lines[(*at, key)] = line
            data[key] = _plain(value_node, (*at, key), lines, path)
        return data
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise DeclarationError(f"{path}:{node.start_mark.line + 1}: {node.value!r} cannot be read: {error}") from None
