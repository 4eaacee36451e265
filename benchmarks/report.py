"""How a figure is printed: what, measured, and what it has to be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    what: str
    figure: str
    target: str

    def __str__(self) -> str:
        return f"{self.what:<44} {self.figure}\n{'':<44} wanted: {self.target}"
