"""A generic webhook: one JSON document a message, signed after the Standard Webhooks specification.

The id is the message's dedup key and stays the same at each try; the timestamp is that of the try. Redirects are
failures: a signed message goes to the address that was configured and to no other.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from datetime import UTC
from functools import cached_property
from typing import TYPE_CHECKING

from analytics_dagster.alerts.channels.base import TIMEOUT_SECONDS, Delivery, UncertainError, refuse_status
from analytics_dagster.alerts.messages import digest_of
from analytics_dagster.clock import Clock
from analytics_dagster.errors import DeliveryError, RetryableDeliveryError, SettingsError

if TYPE_CHECKING:
    import httpx


class WebhookChannel:
    """Posts to one address. `secret` is `whsec_` and base64, or None for an unsigned webhook."""

    group_size = 1

    def __init__(
        self,
        name: str,
        url: str,
        secret: str | None,
        clock: Clock,
        *,
        send_resolved: bool = True,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.target = digest_of("webhook", url)
        self.send_resolved = send_resolved
        self._url = url
        self._clock = clock
        self._verify = verify
        self._secret = secret
        if secret is not None:
            self._sign("probe", "")

    def send(self, deliveries: Sequence[Delivery]) -> None:
        """Post each. Raises DeliveryError, GoneError, ThrottledError, UncertainError or RetryableDeliveryError."""
        import httpx

        with httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False, verify=self._trust) as client:
            for delivery in deliveries:
                self._post(client, delivery)

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        # Reading the authorities takes longer than a request, so they are read once.
        import httpx

        return self._verify or httpx.create_ssl_context()

    def _post(self, client: httpx.Client, delivery: Delivery) -> None:
        import httpx

        body = json.dumps({"channel": delivery.channel, **delivery.payload}, ensure_ascii=False)
        headers = {"content-type": "application/json", "user-agent": "analytics-dagster", **self._sign(delivery.dedup_key, body)}
        try:
            response = client.post(self._url, content=body.encode(), headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise RetryableDeliveryError(f"cannot connect: {error}") from error
        except httpx.TransportError as error:
            raise UncertainError(f"no answer ({type(error).__name__}: {error})") from error
        except httpx.InvalidURL as error:
            raise DeliveryError(f"the address is not valid: {error}") from error
        if not response.is_success:
            refuse_status(response.status_code, response.text, response.headers.get("retry-after"), self._clock.now())

    def _sign(self, identity: str, body: str) -> dict[str, str]:
        import binascii

        from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

        now = self._clock.now().astimezone(UTC)
        headers = {"webhook-id": identity, "webhook-timestamp": str(int(now.timestamp()))}
        if self._secret is None:
            return headers
        try:
            headers["webhook-signature"] = Webhook(self._secret).sign(identity, now, body)
        except (binascii.Error, EmptyWebhookSecretError, ValueError):
            raise SettingsError(
                f"the secret of channel {self.name} is not base64; write whsec_ and the base64 of 24 to 64 bytes"
            ) from None
        return headers
