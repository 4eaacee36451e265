"""A report: which view goes to whom, as what and when. What people write is read here, and refused with what would do."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.headerregistry import Address
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from analytics_dagster.dashboards.view import View, parse_view
from analytics_dagster.errors import UserError
from analytics_dagster.reports.timetable import Timetable, parse_timetable

MOST_RECIPIENTS = 20
"""Recipients of one report; more are what a mailing list is for."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_LONGEST_ADDRESS = 254
"""RFC 5321, 4.5.3.1.3, less the angle brackets."""
_MOST_QUERY = 3_700
_SLACK = "slack:"


class Form(StrEnum):
    """What a report is sent as: the whole view on paper, or as one picture."""

    PDF = "pdf"
    PNG = "png"


class Way(StrEnum):
    """How a recipient is reached."""

    EMAIL = "e-mail"
    SLACK = "slack"


@dataclass(frozen=True)
class Recipient:
    """Somebody's address, or the name of a Slack channel of alerting.yaml."""

    way: Way
    address: str

    def __str__(self) -> str:
        return f"{_SLACK}{self.address}" if self.way is Way.SLACK else self.address

    @property
    def domain(self) -> str | None:
        """Of an e-mail address, in lower case."""
        return self.address.rpartition("@")[2].lower() if self.way is Way.EMAIL else None


@dataclass(frozen=True)
class Wanted:
    """What a report is to be, read and checked. `query`: the view's, with `?`, empty for the view that everybody gets."""

    name: str
    board: str
    query: str
    form: Form
    timetable: Timetable
    recipients: tuple[Recipient, ...]

    @property
    def view(self) -> View:
        return parse_view(self.query.removeprefix("?"))


@dataclass(frozen=True)
class Report:
    """A report of a tenant as it is kept. Times are UTC; `creator`: who made it, as the audit trail names them."""

    tenant: str
    wanted: Wanted
    creator: str
    created_at: dt.datetime
    paused: bool
    next_due_at: dt.datetime

    @property
    def name(self) -> str:
        return self.wanted.name


def read_wanted(
    *, name: str, view: str, form: str, schedule: str, time_zone: str, recipients: Iterable[str], tenant: str
) -> Wanted:
    """What was written, checked for itself. Raises UserError naming the field, its value and what would do."""
    if not _NAME.fullmatch(name):
        raise UserError(f"name {name[:80]!r} cannot be used; write lower-case letters, digits, - and _, at most 63")
    board, query = read_address(view, tenant)
    if form not in tuple(Form):
        raise UserError(f"format {form[:80]!r} is not known; one of {', '.join(Form)}")
    return Wanted(name, board, query, Form(form), parse_timetable(schedule, time_zone), read_recipients(recipients))


def read_address(text: str, tenant: str) -> tuple[str, str]:
    """Board and query of a view: `overview?period=7d`, the address of its page, or all of it with the server's name.

    Raises UserError for one of another tenant and for what is no address of a view.
    """
    parts = urlsplit(text.strip())
    names = [unquote(name) for name in parts.path.split("/") if name]
    if names[:1] == ["dashboards"] and len(names) == 3:
        if names[1] != tenant:
            raise UserError(f"the view {text[:200]!r} is of tenant {names[1]!r}; a report of {tenant!r} shows that one alone")
        names = names[2:]
    if len(names) != 1 or (parts.netloc and not text.partition(parts.netloc)[2].startswith("/dashboards/")):
        raise UserError(f"{text[:200]!r} is not a view; copy its page's address, or write overview?period=7d")
    if len(parts.query) > _MOST_QUERY:
        raise UserError(f"the view's address has {len(parts.query)} characters behind ?, {_MOST_QUERY} are allowed")
    return names[0].partition(".")[0], parse_view(parts.query).query()


def read_recipients(written: Iterable[str]) -> tuple[Recipient, ...]:
    """Each once, in the order in which they were written. Raises UserError for none, too many, and one that cannot be."""
    found = tuple(dict.fromkeys(_recipient(text.strip()) for text in written if text.strip()))
    if not found:
        raise UserError("a report needs a recipient: an e-mail address, or slack:NAME with a Slack channel of alerting.yaml")
    if len(found) > MOST_RECIPIENTS:
        raise UserError(f"{len(found)} recipients are named, {MOST_RECIPIENTS} are allowed; send it to a mailing list")
    return found


def refused_domains(recipients: Sequence[Recipient], allowed: frozenset[str]) -> list[Recipient]:
    """Those whose e-mail domain is not allowed; all are where nothing is said."""
    return [one for one in recipients if allowed and one.domain is not None and one.domain not in allowed]


def domains_of(setting: str | None) -> frozenset[str]:
    """ANALYTICS_REPORT_DOMAINS, comma separated."""
    return frozenset(name.strip().lower().removeprefix("@") for name in (setting or "").split(",") if name.strip())


def _recipient(text: str) -> Recipient:
    if text.startswith(_SLACK):
        name = text.removeprefix(_SLACK)
        if not name or len(name) > 128:
            raise UserError(f"recipient {text[:80]!r} names no Slack channel; write slack:NAME with one of alerting.yaml")
        return Recipient(Way.SLACK, name)
    if not _is_address(text):
        raise UserError(f"recipient {text[:80]!r} is neither an e-mail address (ann@example.com) nor slack:NAME")
    user, _, domain = text.rpartition("@")
    return Recipient(Way.EMAIL, f"{user}@{domain.lower()}")


def _is_address(text: str) -> bool:
    """One plain address. Names, quotes and what needs SMTPUTF8 are left out: not every server takes those."""
    if len(text) > _LONGEST_ADDRESS or not text.isascii() or not text.isprintable() or '"' in text or " " in text:
        return False
    try:
        address = Address(addr_spec=text)
    except (ValueError, HeaderParseError, IndexError):
        return False
    plain = re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", address.domain.lower())
    return bool(address.username) and plain is not None and address.addr_spec == text
