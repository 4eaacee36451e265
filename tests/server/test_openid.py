"""Signing in through a real OpenID provider over HTTPS: who gets in, and every token and answer that must not let anybody in."""

from __future__ import annotations

import html
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from cli.command import analytics
from joserfc import jwt
from joserfc.jwk import ECKey
from server.openid_provider import CLIENT, SECRET, OpenIdProvider, by_secret, new_key, providing, unsigned
from server.running import Running, serving, wait_for
from server.signing_in import browser

from analytics_dagster.clock import SystemClock
from analytics_dagster.errors import BusyError
from analytics_dagster.server.signin.provider import open_provider
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.roles import Role

PAGE = "/account"
ROLES = """
claim: groups
roles:
  - {value: analytics-admins, role: platform-admin}
  - {value: acme-staff, role: analyst, tenants: [acme]}
  - {value: acme-readers, role: viewer, tenants: [acme]}
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def openid(authority: trustme.CA) -> Iterator[OpenIdProvider]:
    with providing(authority) as made:
        yield made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA, openid: OpenIdProvider) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("openid")
    (folder / "roles.yaml").write_text(ROLES)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    settings = {
        "ANALYTICS_OIDC_ISSUER": openid.issuer,
        "ANALYTICS_OIDC_CLIENT_ID": CLIENT,
        "ANALYTICS_OIDC_CLIENT_SECRET": SECRET,
        "ANALYTICS_OIDC_SCOPES": "openid profile groups",
        "ANALYTICS_OIDC_ROLES": str(folder / "roles.yaml"),
        "ANALYTICS_SERVER_WORKERS": "1",
        "REQUESTS_CA_BUNDLE": str(folder / "ca.pem"),
    }
    with serving(folder / ".analytics", **settings) as running:
        running.installation.tenants.ensure("acme")
        yield running


@pytest.fixture
def provider(openid: OpenIdProvider) -> OpenIdProvider:
    """The provider, which tells of Ada of acme's staff until a test says otherwise."""
    openid.claims, openid.userinfo = {"groups": ["acme-staff", "others"]}, {}
    openid.algorithm, openid.raw_token, openid.described = "RS256", None, {}
    return openid


@pytest.fixture
def person(served: Running) -> Iterator[httpx.Client]:
    with browser(served) as client:
        yield client


@pytest.fixture
def visit(authority: trustme.CA) -> Iterator[httpx.Client]:
    """The same browser at the provider."""
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    with httpx.Client(verify=trusted) as client:
        yield client


def there_and_back(person: httpx.Client, visit: httpx.Client, next: str = "") -> str:
    """To the provider and to the address it sends the browser back to, which is not asked for yet."""
    sent = person.get("/signin/oidc", params={"next": next})
    assert sent.status_code == 303, sent.text
    back = visit.get(sent.headers["location"])
    assert back.status_code == 302
    return str(back.headers["location"])


def refused(answer: httpx.Response, person: httpx.Client, *, status: int = 403) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert not [value for value in answer.headers.get_list("set-cookie") if value.startswith("analytics_session")]
    assert person.get(PAGE).status_code == 303
    return answer.text


def test_who_the_mapping_lets_in_is_signed_in_and_goes_on(
    served: Running, provider: OpenIdProvider, person: httpx.Client, visit: httpx.Client
) -> None:
    assert "/signin/oidc?next=%2Faccount%3Fa%3D1" in person.get("/signin", params={"next": f"{PAGE}?a=1"}).text
    back = there_and_back(person, visit, f"{PAGE}?a=1")
    assert back.startswith(f"{served.url}/signin/oidc/callback?")
    answer = person.get(back)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PAGE}?a=1")
    page = person.get(PAGE).text
    for said in ("Ada", "analyst", "acme"):
        assert said in page
    assert person.get("/analytics/usage").status_code == 200
    assert person.get("/analytics/tenants").status_code == 403
    with served.client(served.key(Role.TENANT_ADMIN, "acme")) as admin:
        [row] = [row for row in admin.get("/analytics/audit").json() if row["action"] == "signin"][-1:]
    assert row["actor"].startswith("oidc_")
    assert row["detail"] == "by provider, as Ada, from 127.0.0.1"
    code = httpx.URL(back).params["code"]
    assert code not in served.said
    assert SECRET not in served.said


def test_what_is_asked_of_the_provider_is_bound_to_this_sign_in(provider: OpenIdProvider, person: httpx.Client) -> None:
    asked = [httpx.URL(person.get("/signin/oidc").headers["location"]).params for _ in range(2)]
    for params in asked:
        assert params["response_type"] == "code"
        assert params["code_challenge_method"] == "S256"
        assert params["scope"] == "openid profile groups"
        assert len(params["code_challenge"]) == 43
    for name in ("state", "nonce", "code_challenge"):
        assert asked[0][name] != asked[1][name]


def test_who_is_in_no_group_of_the_mapping_stays_out(
    served: Running, provider: OpenIdProvider, person: httpx.Client, visit: httpx.Client
) -> None:
    for groups in (["others"], [], None, "acme", {"acme-staff": True}):
        provider.claims = {"groups": groups}
        provider.userinfo = {"sub": "u-1"}
        assert "no group of yours" in refused(person.get(there_and_back(person, visit)), person)
    with served.client((served.home / "admin.key").read_text().strip()) as admin:
        rows = [row for row in admin.get("/analytics/audit").json() if row["outcome"] == "refused"]
    assert "no group of yours" in rows[-1]["detail"] or rows[-1]["count"] > 1


def test_a_platform_admin_of_the_provider_sees_every_tenant(
    provider: OpenIdProvider, person: httpx.Client, visit: httpx.Client
) -> None:
    provider.claims = {"groups": "analytics-admins"}
    assert person.get(there_and_back(person, visit)).status_code == 303
    assert "every registered one" in person.get(PAGE).text
    assert {row["tenant"] for row in person.get("/analytics/tenants").json()} >= {"acme", "default"}


def test_groups_that_only_userinfo_tells_count_when_they_are_of_the_same_person(
    provider: OpenIdProvider, person: httpx.Client, visit: httpx.Client
) -> None:
    provider.claims, provider.userinfo = {}, {"sub": "u-2", "groups": ["acme-staff"]}
    assert "somebody else" in refused(person.get(there_and_back(person, visit)), person)
    provider.userinfo = {"sub": "u-1", "groups": ["acme-readers"], "iss": "https://evil.example"}
    assert person.get(there_and_back(person, visit)).status_code == 303
    assert "viewer" in person.get(PAGE).text


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"nonce": "another"}, "Invalid claim: 'nonce'"),
        ({"nonce": None}, "Missing claim: 'nonce'"),
        ({"aud": "another-client"}, "Invalid claim: 'aud'"),
        ({"aud": None}, "Missing claim: 'aud'"),
        ({"aud": [CLIENT, "another-client"]}, "Missing claim: 'azp'"),
        ({"iss": "https://evil.example"}, "Invalid claim: 'iss'"),
        ({"exp": int(time.time()) - 3_600}, "The token is expired"),
        ({"exp": None}, "Missing claim: 'exp'"),
        ({"iat": int(time.time()) + 3_600}, "issued in the future"),
        ({"sub": None}, "Missing claim: 'sub'"),
        ({"sub": "u" * 256}, "names nobody"),
    ],
)
def test_a_token_that_is_not_of_this_sign_in_lets_nobody_in(
    provider: OpenIdProvider, person: httpx.Client, visit: httpx.Client, claims: dict[str, object], why: str
) -> None:
    provider.claims = {"groups": ["acme-staff"], **claims}
    told = html.unescape(refused(person.get(there_and_back(person, visit)), person))
    assert "is not good" in told
    assert why in told


def forged(provider: OpenIdProvider, how: str, nonce: str) -> str:
    now = int(time.time())
    claims = {"iss": provider.issuer, "sub": "u-1", "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": nonce}
    claims["groups"] = ["acme-staff"]
    match how:
        case "unsigned":
            return unsigned(claims)
        case "signed by another with the same key id":
            return jwt.encode({"alg": "RS256", "kid": provider.key.kid}, claims, new_key(str(provider.key.kid)))
        case "signed by a key that is not published":
            return jwt.encode({"alg": "RS256", "kid": "strange"}, claims, new_key("strange"))
        case "signed with the client's secret":
            return by_secret(claims, SECRET.encode())
        case "signed with the published key as a secret":
            return by_secret(claims, provider.key.as_pem(private=False))
        case _:
            return "not.a.token"


@pytest.mark.parametrize(
    "how",
    [
        "unsigned",
        "signed by another with the same key id",
        "signed by a key that is not published",
        "signed with the client's secret",
        "signed with the published key as a secret",
        "garbage",
    ],
)
def test_a_token_that_the_provider_did_not_sign_lets_nobody_in(
    provider: OpenIdProvider, person: httpx.Client, visit: httpx.Client, how: str
) -> None:
    back = there_and_back(person, visit)
    provider.raw_token = forged(provider, how, provider.asked[httpx.URL(back).params["code"]]["nonce"])
    assert "is not good" in refused(person.get(back), person)


def test_a_new_key_of_the_provider_is_looked_up_when_a_token_names_it(
    provider: OpenIdProvider, person: httpx.Client, visit: httpx.Client
) -> None:
    assert person.get(there_and_back(person, visit)).status_code == 303
    asked = provider.keys_asked_for
    provider.key = ECKey.generate_key("P-256", {"kid": "second", "use": "sig"})
    provider.algorithm = "ES256"
    assert person.get(there_and_back(person, visit)).status_code == 303
    assert person.get(there_and_back(person, visit)).status_code == 303
    assert provider.keys_asked_for == asked + 1
    provider.key = new_key("third")


def test_a_state_that_is_forged_used_or_of_another_browser_lets_nobody_in(
    served: Running, provider: OpenIdProvider, person: httpx.Client, visit: httpx.Client
) -> None:
    back = httpx.URL(there_and_back(person, visit))
    for state in ("", "forged", "x" * 5_000):
        refused(person.get(back.copy_set_param("state", state)), person, status=400)
    refused(person.get("/signin/oidc/callback"), person, status=400)
    with browser(served) as victim:
        refused(victim.get(back), victim, status=400)  # an attacker's link, and its state is used up now
    assert "was finished before" in refused(person.get(back), person, status=400)
    with browser(served) as victim:
        victim.get("/signin/oidc")
        attackers = there_and_back(person, visit)
        refused(victim.get(attackers), victim, status=400)
    again = there_and_back(person, visit)
    assert person.get(again).status_code == 303
    assert person.get(again).status_code == 400


def test_a_code_that_the_provider_does_not_take_and_another_providers_answer_let_nobody_in(
    provider: OpenIdProvider, person: httpx.Client, visit: httpx.Client
) -> None:
    back = httpx.URL(there_and_back(person, visit))
    assert "invalid_grant" in refused(person.get(back.copy_set_param("code", "another")), person)
    back = httpx.URL(there_and_back(person, visit))
    assert "evil.example" in refused(person.get(back.copy_set_param("iss", "https://evil.example")), person)
    back = httpx.URL(there_and_back(person, visit)).copy_remove_param("code")
    shown = refused(person.get(back.copy_set_param("error", "access_denied<script>")), person)
    assert "access_denied&lt;script&gt;" in shown


def test_nobody_is_sent_to_another_site_afterwards(provider: OpenIdProvider, person: httpx.Client, visit: httpx.Client) -> None:
    for next in ("https://evil.example", "//evil.example", "/\\evil.example"):
        assert person.get(there_and_back(person, visit, next)).headers["location"] == "/"


def test_a_persons_session_ends_with_its_tenants(
    served: Running, provider: OpenIdProvider, person: httpx.Client, visit: httpx.Client
) -> None:
    served.installation.tenants.ensure("acme")
    assert person.get(there_and_back(person, visit)).status_code == 303
    assert analytics("--home", served.home, "tenant", "suspend", "acme").status == 0
    wait_for("the suspension", lambda: person.get(PAGE).status_code == 403, 5.0)
    assert analytics("--home", served.home, "tenant", "add", "acme").status == 0
    wait_for("the tenant", lambda: person.get(PAGE).status_code == 200, 5.0)


def test_half_a_provider_and_a_bad_mapping_are_told_at_the_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> str:
        return analytics("--home", home, "serve", "--port", "0").error

    roles = home.parent / "roles.yaml"
    monkeypatch.setenv("ANALYTICS_OIDC_ISSUER", "http://id.example")
    assert "begins with https://" in told()
    monkeypatch.setenv("ANALYTICS_OIDC_ISSUER", "https://id.example")
    assert "ANALYTICS_OIDC_CLIENT_ID is not set" in told()
    monkeypatch.setenv("ANALYTICS_OIDC_CLIENT_ID", CLIENT)
    assert "ANALYTICS_OIDC_ROLES is not set" in told()
    monkeypatch.setenv("ANALYTICS_OIDC_ROLES", str(roles))
    assert "cannot be read" in told()
    roles.write_text("claim: groups\nroles:\n  - {value: a, role: ingest, tenants: [acme]}\n")
    assert f"{roles}:3: role='ingest'" in told()
    monkeypatch.setenv("ANALYTICS_OIDC_SCOPES", "profile")
    assert "must have openid" in told()
    assert not home.exists()


def begun_at(settings: Settings) -> str:
    made = open_provider(settings, SystemClock())
    assert made is not None
    return made.begin("state", "http://127.0.0.1:8000/signin/oidc/callback", "nonce", "v" * 43)


@pytest.fixture
def told_settings(
    provider: OpenIdProvider, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Settings]:
    """Settings of a process that trusts the provider's certificate."""
    (tmp_path / "roles.yaml").write_text(ROLES)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))

    def settings(issuer: str) -> Settings:
        return Settings(  # type: ignore[call-arg]  # the rest have defaults
            analytics_oidc_issuer=issuer, analytics_oidc_client_id=CLIENT, analytics_oidc_roles=tmp_path / "roles.yaml"
        )

    return settings


def test_a_provider_that_is_not_the_one_that_was_named_or_takes_no_tls_is_not_used(
    provider: OpenIdProvider, told_settings: Callable[[str], Settings]
) -> None:
    assert begun_at(told_settings(provider.issuer)).startswith(f"{provider.issuer}/authorize?")
    for described, told in (
        ({"issuer": "https://evil.example"}, "calls itself 'https://evil.example'"),
        ({"token_endpoint": "http://localhost/token"}, "does not answer"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "does not answer"),
        ({"jwks_uri": None}, "does not answer"),
    ):
        provider.described = described
        with pytest.raises(BusyError) as raised:
            begun_at(told_settings(provider.issuer))
        assert told in str(raised.value)


def test_a_provider_that_does_not_answer_or_has_a_strange_certificate_is_told_and_left_alone_for_a_while(
    provider: OpenIdProvider, told_settings: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = told_settings(provider.issuer)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    made = open_provider(settings, SystemClock())
    assert made is not None
    for _ in range(2):
        with pytest.raises(BusyError, match="sign in with a key"):
            made.begin("state", "http://127.0.0.1:8000/", "nonce", "v" * 43)
    with pytest.raises(BusyError, match="sign in with a key"):
        begun_at(told_settings("https://127.0.0.1:9"))
