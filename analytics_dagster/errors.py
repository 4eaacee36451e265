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


class ConflictError(UserError):
    """Somebody else changed the same thing since it was read; read it again and repeat the change."""


class InvalidNameError(UserError):
    """A tenant id, metric name or label does not follow its grammar."""


class DeclarationError(UserError):
    """A metric, rule, suite or alerting configuration is not valid; carries file and line in its message."""


class UnreadableFileError(UserError):
    """A file cannot be read at all: missing, another format, or damaged as a whole."""


class AuthenticationError(UserError):
    """No key was given, or one that is unknown, expired or revoked."""


class PermissionDeniedError(UserError):
    """The key is good but its role may not do this."""


class ForeignTenantError(PermissionDeniedError):
    """Rows name a tenant that is not the key's. The request is refused whole and audited."""

    def __init__(self, tenant: str, reason: str | None = None) -> None:
        """`reason` is told instead of the usual one; only to keys that may know which tenants there are."""
        super().__init__(reason or f"tenant_id {tenant!r} is not one that this key may write for")
        self.tenant = tenant


class IntegrityError(AnalyticsError):
    """Stored state contradicts itself. Never repaired silently; `analytics doctor` explains it."""


class RetryableError(AnalyticsError):
    """Nothing is wrong with the request; the same call may succeed later."""


class BusyError(RetryableError):
    """A lock or the database was held by another process for too long."""


class LogFullError(RetryableError):
    """The ingest log cannot take more now: the disk is full, the log is over its limit or too much is waiting for a commit.

    Nothing of the request was accepted. `retry_after` is in seconds.
    """

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QuotaExceededError(RetryableError):
    """A tenant is over one of its quotas. `retry_after` is in seconds, None where waiting does not help."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BufferFullError(RetryableError):
    """The engine's buffer holds all it may; wait for what was recorded before, then record again. Nothing was dropped."""


class ServerError(RetryableError):
    """The server that a remote engine posts to did not answer, or answered that it cannot take points now."""


class DeliveryError(AnalyticsError):
    """A channel refused a message for good (for example HTTP 400); it is not tried again."""


class RetryableDeliveryError(RetryableError):
    """A channel could not take a message now. `retry_after` is in seconds, where the channel named it."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
