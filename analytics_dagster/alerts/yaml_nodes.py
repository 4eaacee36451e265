"""YAML read as nodes, so that every complaint can name file, line and value.

Built on PyYAML's composer: scalars keep their text and their line, keys may not be doubled, `<<` merges work. What a
key means is decided by the readers of rule files, alerting.yaml and rule tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

from analytics_dagster.errors import DeclarationError, UnreadableFileError

_TAG = "tag:yaml.org,2002:"
_DEEPEST_MERGE = 16


@dataclass(frozen=True)
class Value:
    """One YAML node: its kind, its line (from 1), and its content."""

    node: yaml.Node
    line: int

    @property
    def text(self) -> str:
        """A scalar's text as written (without quotes)."""
        return str(self.node.value) if isinstance(self.node, yaml.ScalarNode) else f"({self.kind})"

    @property
    def kind(self) -> str:
        if isinstance(self.node, yaml.MappingNode):
            return "mapping"
        if isinstance(self.node, yaml.SequenceNode):
            return "list"
        return {"str": "text", "int": "number", "float": "number", "bool": "boolean", "null": "nothing"}.get(
            self.node.tag.removeprefix(_TAG), "text"
        )

    @property
    def is_text(self) -> bool:
        return self.kind == "text"

    @property
    def is_null(self) -> bool:
        return self.kind == "nothing"

    @property
    def is_scalar(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode)

    @property
    def quoted(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode) and self.node.style in ("'", '"')

    def items(self) -> Iterator[Value]:
        """A list's members; raises ValueError when this is not a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise ValueError(f"{_shown(self)} is not a list; write [a, b] or one `- ` line each")
        return (_value(node) for node in self.node.value)

    def entries(self) -> Entries:
        """A mapping's entries; raises ValueError when this is not a mapping or a key stands twice."""
        if not isinstance(self.node, yaml.MappingNode):
            raise ValueError(f"{_shown(self)} is not a mapping; write `key: value` lines")
        return Entries(dict(_pairs(self.node)), self.line)


@dataclass(frozen=True)
class Entries:
    """A mapping's values by key."""

    values: dict[str, Value]
    line: int

    def get(self, key: str) -> Value | None:
        """The value, or None where the key is missing or has no value."""
        value = self.values.get(key)
        return None if value is None or value.is_null else value

    def unknown(self, allowed: Iterable[str]) -> Iterator[tuple[str, Value, str]]:
        """Keys that are not in `allowed`, each with its value and a hint."""
        names = tuple(allowed)
        for key, value in self.values.items():
            if key not in names:
                near = get_close_matches(key, names, n=1)
                yield key, value, f'did you mean "{near[0]}"?' if near else f"known are {', '.join(names)}"


def _shown(value: Value) -> str:
    return f'"{value.text}"' if value.is_scalar else f"a {value.kind}"


def _value(node: yaml.Node) -> Value:
    return Value(node, node.start_mark.line + 1)


def _pairs(node: yaml.MappingNode, depth: int = 0) -> Iterator[tuple[str, Value]]:
    if depth > _DEEPEST_MERGE:
        raise ValueError("<< merges a mapping into itself; name another one")
    seen: set[str] = set()
    merged: list[tuple[str, Value]] = []
    own: list[tuple[str, Value]] = []
    for key, value in node.value:
        if key.tag == f"{_TAG}merge":
            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in reversed(sources):
                if not isinstance(source, yaml.MappingNode):
                    raise ValueError("<< merges something that is not a mapping")
                merged.extend(_pairs(source, depth + 1))
            continue
        name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
        if not name:
            raise ValueError("a key is not plain text")
        if name in seen:
            raise ValueError(f'"{name}" stands twice (again in line {key.start_mark.line + 1}); keep one')
        seen.add(name)
        own.append((name, _value(value)))
    yield from merged
    yield from own


def read_yaml(path: Path) -> Value | None:
    """The file's only document, or None when it is empty.

    Raises UnreadableFileError when it cannot be opened, DeclarationError (file:line) when it is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UnreadableFileError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise UnreadableFileError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        raise DeclarationError(f"{path}{where}: is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise DeclarationError(f"{path}: is not YAML: {error}") from None
    except RecursionError:
        raise DeclarationError(f"{path}: is nested too deeply") from None
    return None if node is None else _value(node)


def number_of(value: Value) -> float:
    """A number as written plainly: `0.05`, `5`, `1e3`, `.inf`. Raises ValueError for text, booleans and the like."""
    if value.is_scalar and not value.quoted and value.kind != "boolean":
        text = value.text.replace("_", "").lower()
        try:
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            pass
    raise ValueError(f"{_shown(value)} is not a number; write it plainly, like 0.05")


def text_of(value: Value, what: str = "text") -> str:
    """A scalar's text. Raises ValueError for lists and mappings."""
    if not value.is_scalar:
        raise ValueError(f"is a {value.kind}, not {what}")
    if "\0" in value.text:
        raise ValueError("holds a zero byte, which no database keeps; remove it")
    return value.text
