"""Figures as people read them: 1.2k and 3.4M, floored, by unit; changes in percent or in percentage points; nothing as "-".

Floored, not rounded: 1,999 plays are not yet 2k, and nobody should be told that a mark was reached before it was.
"""

from __future__ import annotations

import math

NOTHING = "-"
_STEPS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SHARES = frozenset({"ratio", "percent"})
MINOR = "minor "
"""A unit that begins so is money in minor units of the currency that follows, `minor EUR`."""
# Currencies whose minor unit is not a hundredth (ISO 4217, table A.1).
_DIGITS = {
    **dict.fromkeys(
        ["BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"], 0
    ),
    **dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3),
}


def digits(currency: str) -> int:
    """How many decimal digits the minor unit of a currency is."""
    return _DIGITS.get(currency, 2)


def figure(value: float | None, unit: str = "") -> str:
    """A value in its unit: `12.3k`, `4.2 %`, `3 h`, `230 ms`, `1.2 GB`, `1.2k EUR`. Counted things go without their name."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 0:
        return "-" + figure(-value, unit)
    match unit:
        case "ratio":
            return _percent(value * 100)
        case "percent":
            return _percent(value)
        case "s":
            return _seconds(value)
        case "ms":
            return _seconds(value / 1e3) if value >= 1e3 else f"{_short(value)} ms"
        case "us":
            return figure(value / 1e3, "ms") if value >= 1e3 else f"{_short(value)} us"
        case "bytes":
            return next((f"{_short(value / size)} {name}" for size, name in _BYTES if value >= size), f"{_short(value)} B")
        case _ if unit.startswith(MINOR):
            currency = unit.removeprefix(MINOR)
            return f"{compact(value / 10 ** digits(currency))} {currency}"
        case _:
            return compact(value)


def compact(value: float | None) -> str:
    """`999`, `1.2k`, `12.3k`, `3.4M`: floored to one decimal; below 10 up to two decimals."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 0:
        return "-" + compact(-value)
    return next((f"{_short(value / size)}{name}" for size, name in _STEPS if value >= size), _short(value))


def exact(value: float | None) -> str:
    """All digits that matter, with thousands separators: for tables and hover."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.0f}"


def relative_change(now: float | None, before: float | None, unit: str = "") -> float | None:
    """The change as a number: a share of `before`, or for shares the difference itself (0.012 is 1.2 percentage points).

    None where there is nothing to compare with, or where something came from nothing.
    """
    if now is None or before is None or not (math.isfinite(now) and math.isfinite(before)):
        return None
    if unit in _SHARES:
        return (now - before) / (100 if unit == "percent" else 1)
    return None if before == 0 else (now - before) / abs(before)


def change(now: float | None, before: float | None, unit: str = "") -> str:
    """`+12 %`, `-1.2 pp` for shares, `new` from 0 to something, `no change`, `-` where there is nothing to compare with."""
    found = relative_change(now, before, unit)
    if found is None:
        came = now is not None and before == 0 and math.isfinite(now)
        return NOTHING if not came else "new" if now else "no change"
    points = unit in _SHARES
    number = f"{abs(found) * 100:.1f}" if points or abs(found) < 0.095 else f"{abs(found) * 100:,.0f}"
    if float(number.replace(",", "")) == 0:
        return "no change"
    sign = "+" if found > 0 else "-"
    return f"{sign}{_trim(number)} {'pp' if points else '%'}"


def _percent(value: float) -> str:
    if value == 0:
        return "0 %"
    digits = 0 if value >= 100 else 1 if value >= 1 else 2 if value >= 0.1 else 3
    return f"{_trim(_floored(value, digits))} %"


def _seconds(value: float) -> str:
    if value < 60:
        return f"{_short(value)} s"
    if value < 3_600:
        return f"{_short(value / 60)} min"
    return f"{compact(value / 3_600)} h"


def _short(value: float) -> str:
    """At most one decimal from 10 on, two below, floored."""
    return _trim(_floored(value, 0 if value >= 100 else 1 if value >= 1 else 2 if value >= 0.1 or value == 0 else 4))


def _floored(value: float, digits: int) -> str:
    # The nudge undoes binary representation: 0.29 * 100 is 28.999999999999996 and means 29.
    return f"{math.floor(value * 10**digits * (1 + 1e-12) + 1e-9) / 10**digits:.{digits}f}"


def _trim(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number
