"""A little OpenID provider over HTTPS: discovery, keys, authorization with PKCE, tokens. Tests say what its tokens are like."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import trustme
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

CLIENT, SECRET = "analytics", "the client's secret"


def new_key(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"})


@dataclass
class OpenIdProvider:
    """What it tells; `claims` are added to the next ID tokens, None leaves one out."""

    issuer: str
    key: RSAKey | ECKey = field(default_factory=lambda: new_key("first"))
    published: list[RSAKey | ECKey] = field(default_factory=list)
    claims: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    described: dict[str, Any] = field(default_factory=dict)
    algorithm: str = "RS256"
    raw_token: str | None = None
    asked: dict[str, dict[str, str]] = field(default_factory=dict)
    keys_asked_for: int = 0

    def metadata(self, _request: Request) -> Response:
        return _json(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
                # A provider that would allow what nobody may use.
                "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256", "none"],
                **self.described,
            }
        )

    def jwks(self, _request: Request) -> Response:
        self.keys_asked_for += 1
        return _json({"keys": [key.as_dict(private=False) for key in self.published or [self.key]]})

    def authorize(self, request: Request) -> Response:
        """Nobody has to enter a password here."""
        asked = dict(request.args)
        code = secrets.token_urlsafe(16)
        self.asked[code] = asked
        back = urlencode({"code": code, "state": asked["state"], "iss": self.issuer})
        return Response(status=302, headers={"Location": f"{asked['redirect_uri']}?{back}"})

    def token(self, request: Request) -> Response:
        """Each code once, for who began: client, redirect URI and PKCE's verifier are looked at."""
        form = request.form
        asked = self.asked.pop(form.get("code", ""), None)
        expected = base64.b64encode(f"{CLIENT}:{SECRET.replace(' ', '%20')}".encode()).decode()
        alternative = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        if request.headers.get("Authorization") not in (f"Basic {expected}", f"Basic {alternative}"):
            return _json({"error": "invalid_client"}, 401)
        challenge = _base64(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if asked is None or asked["redirect_uri"] != form.get("redirect_uri") or asked["code_challenge"] != challenge:
            return _json({"error": "invalid_grant"}, 400)
        token = self.raw_token or self.id_token(asked["nonce"])
        return _json({"access_token": "access", "token_type": "Bearer", "expires_in": 60, "id_token": token})

    def id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": "u-1", "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": nonce, "name": "Ada"}
        told = {name: value for name, value in {**claims, **self.claims}.items() if value is not None}
        header = {"alg": self.algorithm, "kid": self.key.kid}
        return jwt.encode(header, told, self.key, algorithms=[self.algorithm])

    def told_elsewhere(self, request: Request) -> Response:
        if request.headers.get("Authorization") != "Bearer access":
            return _json({"error": "invalid_token"}, 401)
        return _json(self.userinfo)


def unsigned(claims: dict[str, Any]) -> str:
    """A token that nobody signed: `alg` none."""
    return f"{_base64(json.dumps({'alg': 'none'}).encode())}.{_base64(json.dumps(claims).encode())}."


def by_secret(claims: dict[str, Any], secret: bytes) -> str:
    """A token that whoever knows `secret` can write: HS256, which joserfc would not make of a public key."""
    signed = f"{_base64(json.dumps({'alg': 'HS256', 'kid': 'first'}).encode())}.{_base64(json.dumps(claims).encode())}"
    return f"{signed}.{_base64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@contextmanager
def providing(authority: trustme.CA) -> Iterator[OpenIdProvider]:
    """The provider on a free port, with a certificate of `authority`."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with HTTPServer(host="localhost", ssl_context=context) as httpserver:
        provider = OpenIdProvider(f"https://localhost:{httpserver.port}")
        for path, handler in (
            ("/.well-known/openid-configuration", provider.metadata),
            ("/jwks", provider.jwks),
            ("/authorize", provider.authorize),
            ("/token", provider.token),
            ("/userinfo", provider.told_elsewhere),
        ):
            httpserver.expect_request(path).respond_with_handler(handler)
        yield provider


def _json(body: object, status: int = 200) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")
