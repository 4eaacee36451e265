"""The one tree of exceptions that analytics_dagster raises on purpose.

A message names the thing, the value and what to do. Two questions decide the class: can the caller mend it
(`UserError`), and may the same call succeed later unchanged (`RetryableError`)? The command line turns every
`AnalyticsError` into one line on standard error and exit status 2.
"""

from __future__ import annotations


class AnalyticsError(Exception):
    """Root of everything raised on purpose here."""


class UserError(AnalyticsError):
    """What was asked cannot be done as it was asked; the message says what to change. Never worth a retry."""


class SettingsError(UserError):
    """An environment variable or option has a value that is not allowed."""


class NotFoundError(UserError):
    """A tenant, metric, rule, file or home that was named does not exist."""


class InvalidNameError(UserError):
    """A tenant id, metric name or label does not follow its grammar."""


class DeclarationError(UserError):
    """A metric, rule, suite or alerting configuration is not valid; carries file and line in its message."""


class UnreadableFileError(UserError):
    """A file cannot be read at all: missing, another format, or damaged as a whole."""


class IntegrityError(AnalyticsError):
    """Stored state contradicts itself. Never repaired silently; `analytics doctor` explains it."""


class RetryableError(AnalyticsError):
    """Nothing is wrong with the request; the same call may succeed later."""


class BusyError(RetryableError):
    """A lock or the database was held by another process for too long."""


class DeliveryError(AnalyticsError):
    """A channel refused a message for good (for example HTTP 400); it is not tried again."""


class RetryableDeliveryError(RetryableError):
    """A channel could not take a message now. `retry_after` is in seconds, where the channel named it."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
