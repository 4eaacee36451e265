"""A view as one PNG: what it covers, how fresh it is, its figures and its charts, one below the other. Tables are the PDF's.

Drawn as one SVG that holds the charts of `insights/charts.py` as they are, and made pixels by vl-convert.
"""

from __future__ import annotations

import html
import re
import textwrap
from dataclasses import dataclass, field

from analytics_dagster.dashboards.page import Page, Panel, Trend
from analytics_dagster.dashboards.pages import chart_of
from analytics_dagster.dashboards.pdf import NOTHING_PUBLISHED, how_fresh, what_it_covers
from analytics_dagster.dashboards.pictures import Size
from analytics_dagster.errors import UserError
from analytics_dagster.insights.numbers import figure
from analytics_dagster.words import drawable

_WIDTH, _MARGIN, _GAP = 900, 24, 14
_COLUMNS = 3
_INK, _SOFT = "#1F2933", "#52606D"
_FONT = "Helvetica, Arial, sans-serif"
_SCALE = 2.0
MOST_CHARTS = 24
"""Charts of one picture; a longer one is no picture any more, and what is left out is said."""
# Of a letter of Helvetica, measured on the text of pages: its width by its size.
_LETTER = 0.52
_VIEW = re.compile(r'^<svg xmlns="http://www.w3.org/2000/svg" width="(\d+)" height="(\d+)"')
_ID = re.compile(r'(\bid="|url\(#|href="#)')


def as_png(page: Page) -> bytes:
    """The picture. Raises UserError for a board without figures and charts, which only paper can show."""
    import vl_convert

    made: bytes = vl_convert.svg_to_png(as_svg(page), scale=_SCALE)
    return made


def as_svg(page: Page) -> str:
    """The same before it is pixels."""
    drawn = [panel for panel in page.panels if panel.trends]
    if not drawn and page.trust is not None:
        raise UserError(f"the dashboard {page.board.name!r} has no figures or charts in this view; send it as pdf")
    sheet = _Sheet()
    sheet.text(f"{page.board.title}: {page.tenant}", 22, _INK, bold=True)
    for line in what_it_covers(page):
        sheet.text(line, 13, _SOFT)
    sheet.text(how_fresh(page.trust) if page.trust else NOTHING_PUBLISHED, 13, _SOFT)
    left = MOST_CHARTS
    for panel in drawn:
        sheet.down(_GAP)
        if panel.form.title:
            sheet.text(panel.form.title, 16, _INK, bold=True)
        if panel.kind == "figures":
            sheet.figures(page, panel)
        else:
            shown = panel.trends[: max(0, left)]
            left -= len(panel.trends)
            sheet.charts(shown, 1 if panel.kind == "trend" else 2)
    if left < 0:
        sheet.text(f"and {-left} more charts, which the page has", 13, _SOFT)
    return sheet.svg()


@dataclass
class _Sheet:
    """What is drawn so far, from the top."""

    y: float = _MARGIN
    parts: list[str] = field(default_factory=list)

    def down(self, by: float) -> None:
        self.y += by

    def text(self, text: str, size: int, colour: str, *, bold: bool = False) -> None:
        for line in textwrap.wrap(text, int((_WIDTH - 2 * _MARGIN) / (size * _LETTER))):
            self._word(line, _MARGIN, self.y + size, size, colour, bold)
            self.y += size * 1.4

    def figures(self, page: Page, panel: Panel) -> None:
        wide = (_WIDTH - 2 * _MARGIN) / _COLUMNS
        for start in range(0, len(panel.trends), _COLUMNS):
            for place, trend in enumerate(panel.trends[start : start + _COLUMNS]):
                made, x = trend.figure, _MARGIN + place * wide
                self._word(made.shown.title, x, self.y + 13, 13, _SOFT, False)
                self._word(figure(made.value.now, made.shown.unit), x, self.y + 38, 22, _INK, True)
                words = f"{made.value.words if page.compared else ''}  {made.basis}".strip()
                self._word(words, x, self.y + 56, 13, _SOFT, False)
            self.y += 72

    def charts(self, trends: tuple[Trend, ...], columns: int) -> None:
        wide = (_WIDTH - 2 * _MARGIN - _GAP * (columns - 1)) / columns
        for start in range(0, len(trends), columns):
            tallest = 0.0
            for place, trend in enumerate(trends[start : start + columns]):
                svg = chart_of(trend, Size.PRINT if columns == 1 else Size.SMALL).svg
                tallest = max(tallest, self._embed(svg, _MARGIN + place * (wide + _GAP), wide))
            self.y += tallest + _GAP

    def svg(self) -> str:
        height = round(self.y + _MARGIN)
        size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
        paper = f'<rect width="{_WIDTH}" height="{height}" fill="#FFFFFF"/>'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{_FONT}">{paper}{"".join(self.parts)}</svg>'

    def _embed(self, svg: str, x: float, wide: float) -> float:
        """Put a chart here, as wide as said; returns its height."""
        found = _VIEW.match(svg)
        if found is None:
            raise ValueError(f"not a picture of insights/charts.py: {svg[:80]}")
        tall = wide * int(found[2]) / int(found[1])
        place = f'<svg x="{x:.1f}" y="{self.y:.1f}" width="{wide:.1f}" height="{tall:.1f}"'
        # Ids of several charts in one document would be each other's.
        inner = _ID.sub(rf"\g<1>c{len(self.parts)}-", svg[found.end() :])
        self.parts.append(place + inner)
        return tall

    def _word(self, text: str, x: float, y: float, size: int, colour: str, bold: bool) -> None:
        weight = ' font-weight="bold"' if bold else ""
        said = html.escape(drawable(text))
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"{weight}>{said}</text>')
