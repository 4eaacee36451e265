"""An OpenID provider: authorization code flow with PKCE, state and nonce, and what its ID token must be like to count.

Authlib speaks OAuth and checks claims, joserfc checks signatures. What stands here is what must hold whatever a provider says of
itself: TLS, its own issuer, signatures by a key of its own and never none or a shared secret. Every call waits for the network.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from analytics_dagster.clock import Clock
from analytics_dagster.errors import AuthenticationError, BusyError, SettingsError
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.person_roles import PersonRoles, load_person_roles

if TYPE_CHECKING:
    from authlib.integrations.requests_client import OAuth2Session
    from joserfc.jwk import KeySet

# Signatures by a key pair alone: with HS256 whoever knows the client's secret could write a token.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
LEEWAY_SECONDS = 60
_TIMEOUT = 10
# What a provider says of itself is asked again after this long; its keys sooner, when a token names one that is not known.
_BELIEVED_SECONDS = 3_600.0
# One that did not answer is left alone for so long: others wait for the answer too.
_SILENT_SECONDS = 5.0
_VERIFIER_BYTES = 48
_NONCE_BYTES = 16
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_LONGEST_TOLD = 200
_LONGEST_SUBJECT = 255  # OpenID Connect Core, section 2


class ProviderRefusedError(AuthenticationError):
    """The provider, or what came from it, says that nobody is signed in. The message is fit to be shown."""


@dataclass(frozen=True)
class _Described:
    """The provider's description and keys, and until when they are believed (monotonic seconds)."""

    believed_until: float
    metadata: Mapping[str, Any]
    keys: KeySet


class Provider:
    """The provider that people sign in through. Safe to call from any thread."""

    def __init__(self, settings: Settings, roles: PersonRoles, clock: Clock) -> None:
        assert settings.analytics_oidc_issuer is not None
        assert settings.analytics_oidc_client_id is not None
        self.issuer = settings.analytics_oidc_issuer
        self.roles = roles
        self._client_id = settings.analytics_oidc_client_id
        secret = settings.analytics_oidc_client_secret
        self._secret = secret.get_secret_value() if secret is not None else None
        self._scopes = settings.analytics_oidc_scopes
        self._clock = clock
        self._lock = threading.Lock()
        self._described: _Described | None = None
        self._silent_until = float("-inf")

    @property
    def name(self) -> str:
        """What people know it as: its host."""
        return urlsplit(self.issuer).netloc

    def begin(self, state: str, redirect_uri: str, nonce: str, verifier: str) -> str:
        """The address that a browser is sent to. Raises BusyError when the provider does not answer."""
        metadata = self._describe().metadata
        with self._session(metadata, redirect_uri) as session:
            address, _ = session.create_authorization_url(
                metadata["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
            )
        return str(address)

    def finish(self, code: str, redirect_uri: str, nonce: str, verifier: str) -> Mapping[str, Any]:
        """The claims of who signed in. Raises ProviderRefusedError for a code or token that is no good, BusyError when the
        provider does not answer.
        """
        from authlib.integrations.base_client import OAuthError
        from requests import RequestException

        described = self._describe()
        metadata = described.metadata
        with self._session(metadata, redirect_uri) as session:
            try:
                token = session.fetch_token(
                    metadata["token_endpoint"], grant_type="authorization_code", code=code, code_verifier=verifier
                )
            except OAuthError as error:
                raise ProviderRefusedError(f"{self.name} does not take this sign-in: {short(error.error)}") from None
            except (RequestException, ValueError) as error:
                raise self._silent() from error
            claims = self._claims(token, nonce)
            if self.roles.has_claim(claims) or not metadata.get("userinfo_endpoint"):
                return claims
            return self._with_userinfo(session, metadata["userinfo_endpoint"], str(token.get("access_token")), claims)

    def _claims(self, token: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        from authlib.oidc.core import CodeIDToken
        from joserfc.errors import JoseError

        text = token.get("id_token")
        if not isinstance(text, str):
            raise ProviderRefusedError(f"{self.name} sent no ID token; ANALYTICS_OIDC_SCOPES must have openid")
        try:
            decoded = self._decode(text)
            options = {
                "iss": {"essential": True, "value": self.issuer},
                "aud": {"essential": True, "value": self._client_id},
            }
            params = {"nonce": nonce, "client_id": self._client_id, "access_token": token.get("access_token")}
            claims = CodeIDToken(decoded.claims, decoded.header, options, params)
            claims.validate(now=int(self._clock.now().timestamp()), leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError) as error:
            raise ProviderRefusedError(f"the ID token of {self.name} is not good: {short(str(error))}") from None
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_SUBJECT:
            raise ProviderRefusedError(f"the ID token of {self.name} is not good: its subject names nobody")
        return dict(claims)

    def _decode(self, text: str) -> Any:
        from joserfc import jwt
        from joserfc.errors import InvalidKeyIdError
        from joserfc.jws import JWSRegistry

        registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
        try:
            return jwt.decode(text, self._describe().keys, registry=registry)
        except InvalidKeyIdError:
            # The provider has a new key. Nobody can make us ask without a code that the provider took.
            return jwt.decode(text, self._describe(again=True).keys, registry=registry)

    def _with_userinfo(
        self, session: OAuth2Session, endpoint: str, access_token: str, claims: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """The claims with what the provider tells about the same person elsewhere; the ID token's own win."""
        from requests import RequestException

        try:
            _require_tls("userinfo_endpoint", endpoint)
            # Not the session's own way, which takes a token that lives for a minute as one that is over.
            answer = session.get(endpoint, withhold_token=True, headers={"Authorization": f"Bearer {access_token}"})
            answer.raise_for_status()
            told = answer.json()
        except (RequestException, ValueError) as error:
            raise self._silent() from error
        if not isinstance(told, dict) or told.get("sub") != claims["sub"]:
            raise ProviderRefusedError(f"{self.name} told about somebody else than who signed in")
        return {**told, **claims}

    def _describe(self, again: bool = False) -> _Described:
        with self._lock:
            known = self._described
            if known is None or again or time.monotonic() >= known.believed_until:
                if time.monotonic() < self._silent_until:
                    raise self._silent()
                self._silent_until = time.monotonic() + _SILENT_SECONDS
                self._described = known = self._ask()
                self._silent_until = float("-inf")
        return known

    def _ask(self) -> _Described:
        import requests
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        believed_until = time.monotonic() + _BELIEVED_SECONDS
        try:
            with requests.Session() as session:
                session.max_redirects = 0
                metadata = _json(session, f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
                if metadata.get("issuer") != self.issuer:
                    raise BusyError(
                        f"the provider calls itself {metadata.get('issuer')!r}, not ANALYTICS_OIDC_ISSUER={self.issuer}"
                    )
                for name in _ENDPOINTS:
                    _require_tls(name, metadata.get(name))
                keys = KeySet.import_key_set(_json(session, metadata["jwks_uri"]))  # type: ignore[arg-type]  # joserfc checks it
        except (requests.RequestException, JoseError, ValueError, KeyError) as error:
            raise self._silent() from error
        return _Described(believed_until, metadata, keys)

    def _session(self, metadata: Mapping[str, Any], redirect_uri: str) -> OAuth2Session:
        from authlib.integrations.requests_client import OAuth2Session

        offered = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        by_secret = "client_secret_basic" if "client_secret_basic" in offered else "client_secret_post"
        session = OAuth2Session(
            self._client_id,
            self._secret,
            token_endpoint_auth_method=by_secret if self._secret else "none",
            scope=self._scopes,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            default_timeout=_TIMEOUT,
        )
        session.max_redirects = 0
        return session

    def _silent(self) -> BusyError:
        return BusyError(f"{self.name} does not answer, or not as a provider does; try again, or sign in with a key")


def open_provider(settings: Settings, clock: Clock) -> Provider | None:
    """The provider that settings name, None for none. Raises SettingsError for half of one, DeclarationError for a bad file."""
    issuer = settings.analytics_oidc_issuer
    if issuer is None:
        return None
    if urlsplit(issuer).scheme != "https" or not urlsplit(issuer).hostname or "?" in issuer or "#" in issuer:
        raise SettingsError(f"ANALYTICS_OIDC_ISSUER={issuer!r} is not an address that begins with https://")
    needed = {
        "ANALYTICS_OIDC_CLIENT_ID": settings.analytics_oidc_client_id,
        "ANALYTICS_OIDC_ROLES": settings.analytics_oidc_roles,
    }
    for name, value in needed.items():
        if not value:
            raise SettingsError(f"{name} is not set; signing in through {issuer} needs it")
    assert settings.analytics_oidc_roles is not None
    if "openid" not in settings.analytics_oidc_scopes.split():
        raise SettingsError(f"ANALYTICS_OIDC_SCOPES={settings.analytics_oidc_scopes!r} must have openid")
    return Provider(settings, load_person_roles(settings.analytics_oidc_roles), clock)


def new_nonce() -> str:
    return secrets.token_urlsafe(_NONCE_BYTES)


def new_verifier() -> str:
    """PKCE's code verifier: 64 characters (RFC 7636 asks for 43 to 128)."""
    return secrets.token_urlsafe(_VERIFIER_BYTES)


def short(text: object) -> str:
    """Somebody else's words, to be shown."""
    return "".join(character for character in str(text) if character.isprintable())[:_LONGEST_TOLD]


def _json(session: Any, address: str) -> dict[str, Any]:
    answer = session.get(address, timeout=_TIMEOUT)
    answer.raise_for_status()
    told = answer.json()
    if not isinstance(told, dict):
        raise ValueError(f"{address} answers no object")
    return told


def _require_tls(name: str, address: object) -> None:
    if not isinstance(address, str) or urlsplit(address).scheme != "https":
        raise ValueError(f"the provider's {name} is {address!r}, not an address that begins with https://")
