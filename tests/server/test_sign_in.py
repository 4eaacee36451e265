"""Signing in with a key: who gets in, what a cookie may do, and what another site cannot make a browser do."""

from __future__ import annotations

import json
import re
import ssl
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
import trustme
from cli.command import analytics
from hypothesis import example, given
from hypothesis import strategies as st
from server.running import Running, serving, wait_for
from server.signing_in import HERE, browser, sign_in, token_in
from tenancy.requests_for_tests import Stopwatch

from analytics_dagster.installation import open_installation
from analytics_dagster.server.signin.attempts import FREE, LONGEST_WAIT, Attempts, delay
from analytics_dagster.server.signin.cookies import local_path
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.roles import Role

PAGE = "/account"


@pytest.fixture
def person(server: Running) -> Iterator[httpx.Client]:
    """A browser that nobody is signed in with."""
    with browser(server) as client:
        yield client


@pytest.fixture
def admin_of_acme(server: Running, person: httpx.Client) -> httpx.Client:
    """A browser that acme's tenant-admin is signed in with."""
    assert sign_in(person, server.key(Role.TENANT_ADMIN, "acme", name="Ada of acme")).status_code == 303
    return person


def test_who_is_not_signed_in_is_sent_to_sign_in_and_comes_back(server: Running, person: httpx.Client) -> None:
    asked = f"{PAGE}?from=2026-01-01&by=a%20b"
    sent = person.get(asked)
    assert sent.status_code == 303
    where = urlsplit(sent.headers["location"])
    assert where.path == "/signin"
    assert dict(httpx.QueryParams(where.query)) == {"next": asked}
    form = person.get(sent.headers["location"])
    fields = {"csrf": token_in(form), "key": server.key(Role.VIEWER, "acme"), "next": asked}
    back = person.post("/signin", data=fields, headers=HERE)
    assert (back.status_code, back.headers["location"]) == (303, asked)
    assert person.get(asked).status_code == 200
    # Who is signed in is not asked again.
    assert person.get("/signin", params={"next": asked}).headers["location"] == asked
    # Programs are told as before.
    with server.client() as program:
        assert program.get("/analytics/metrics").status_code == 401


def test_a_page_is_the_same_with_a_key_as_with_a_cookie(server: Running, admin_of_acme: httpx.Client) -> None:
    page = admin_of_acme.get(PAGE)
    assert "Ada of acme" in page.text
    assert "tenant-admin" in page.text
    with server.client(server.key(Role.TENANT_ADMIN, "acme", name="Ada of acme")) as program:
        assert program.get(PAGE).status_code == 200
    with server.client("ak_nonsense") as stranger:
        answer = stranger.get(PAGE)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")


def test_the_cookie_cannot_be_read_by_scripts_nor_sent_by_other_sites_forms(server: Running, person: httpx.Client) -> None:
    key = server.key(Role.VIEWER, "acme")
    [cookie] = [value for value in sign_in(person, key).headers.get_list("set-cookie") if value.startswith("analytics_session")]
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=lax", "path=/"} <= attributes
    assert not [part for part in attributes if part.startswith("domain")]
    assert key not in cookie
    assert key not in server.said


def test_a_wrong_key_is_told_beside_its_field_and_audited_without_its_text(server: Running, person: httpx.Client) -> None:
    good = server.key(Role.VIEWER, "acme")
    wrong = good[:-1] + ("a" if good[-1] != "a" else "b")
    refused = sign_in(person, wrong)
    assert refused.status_code == 401
    assert 'role="alert"' in refused.text
    assert 'aria-describedby="error hint"' in refused.text
    assert "checksum" in refused.text
    assert wrong not in refused.text
    assert person.get(PAGE).status_code == 303
    assert sign_in(person, "").status_code == 400
    with server.client(server.key(Role.PLATFORM_ADMIN)) as admin:
        rows = admin.get("/analytics/audit").json()
    told = [row for row in rows if row["action"] == "signin" and row["outcome"] == "refused"]
    assert told[-1]["actor"] == "127.0.0.1"
    assert told[-1]["detail"] == "by key: malformed"
    assert wrong not in str(rows)
    sign_in(person, good)  # what was held against this client is forgotten


def test_signing_in_and_out_are_in_the_tenants_audit_trail(server: Running, admin_of_acme: httpx.Client) -> None:
    token = token_in(admin_of_acme.get(PAGE))
    out = admin_of_acme.post("/signout", data={"csrf": token}, headers=HERE)
    assert (out.status_code, out.headers["location"]) == (303, "/signin")
    with server.client(server.key(Role.TENANT_ADMIN, "acme")) as client:
        rows = [row for row in client.get("/analytics/audit").json() if row["action"] in ("signin", "signout")]
    assert [row["action"] for row in rows[-2:]] == ["signin", "signout"]
    assert rows[-1]["actor"] == rows[-2]["actor"] == server.key(Role.TENANT_ADMIN, "acme", name="Ada of acme")[:11]
    assert rows[-1]["target"] == rows[-2]["target"]
    assert rows[-2]["detail"] == "by key from 127.0.0.1"


def test_a_session_that_was_signed_out_is_of_no_use_within_five_seconds_in_every_worker(
    server: Running, admin_of_acme: httpx.Client
) -> None:
    stolen = dict(admin_of_acme.cookies)
    token = token_in(admin_of_acme.get(PAGE))
    assert admin_of_acme.post("/signout", data={"csrf": token}, headers=HERE).status_code == 303
    assert admin_of_acme.get(PAGE).status_code == 303

    def refused_everywhere() -> bool:
        # A connection each, so that both workers are asked.
        return all(httpx.get(f"{server.url}{PAGE}", cookies=stolen).status_code == 303 for _ in range(8))

    wait_for("the sign-out", refused_everywhere, 5.0)


def test_a_revoked_keys_sessions_end_within_five_seconds(server: Running, person: httpx.Client, acme: httpx.Client) -> None:
    made = acme.post("/analytics/keys", json={"role": "viewer", "name": "short-lived"}).json()
    assert sign_in(person, made["key"]).status_code == 303
    assert person.get(PAGE).status_code == 200
    assert acme.delete(f"/analytics/keys/{made['key_id']}").status_code == 204
    wait_for("the revocation", lambda: person.get(PAGE).status_code == 303, 5.0)


def test_a_new_sign_in_ends_the_one_before_and_never_keeps_a_cookies_value(server: Running, person: httpx.Client) -> None:
    sign_in(person, server.key(Role.VIEWER, "acme"))
    first = dict(person.cookies)
    form = person.get("/signin?next=/signin")  # signed in: no form
    assert form.status_code == 303
    with browser(server, cookies=first) as again:
        again.cookies.clear()
        sign_in(again, server.key(Role.VIEWER, "borealis"))
        assert dict(again.cookies) != first
        assert "borealis" in again.get(PAGE).text


# --- what a cookie may do


def test_a_cookie_reads_the_api_and_never_sends_rows(admin_of_acme: httpx.Client) -> None:
    assert admin_of_acme.get("/analytics/metrics").status_code == 200
    name = f"by_cookie_{uuid.uuid4().hex[:8]}"
    token = {"X-CSRF-Token": token_in(admin_of_acme.get(PAGE)), **HERE}
    for path, body in (
        ("/analytics/metrics", {"json": {"name": name, "value": 1}}),
        ("/api/v1/write", {"content": b"x"}),
        ("/v1/metrics", {"json": {}}),
        ("/write", {"content": f"{name} v=1".encode()}),
        ("/api/v2/write", {"content": f"{name} v=1".encode()}),
        ("/1/submit-listens", {"json": {}}),
    ):
        assert admin_of_acme.post(path, headers=token, **body).status_code == 401, path


def test_what_changes_something_with_a_cookie_takes_the_sessions_token(admin_of_acme: httpx.Client, server: Running) -> None:
    wanted = {"role": "viewer", "name": "made by a page"}
    token = token_in(admin_of_acme.get(PAGE))

    def make(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return admin_of_acme.post("/analytics/keys", json=wanted, headers=named).status_code

    assert make() == make(X_CSRF_Token="") == make(X_CSRF_Token="0" * 64) == 403
    with browser(server) as other:
        sign_in(other, server.key(Role.TENANT_ADMIN, "acme"))
        assert make(X_CSRF_Token=token_in(other.get(PAGE)), Sec_Fetch_Site="same-origin") == 403
    for site in ("cross-site", "same-site"):
        assert make(X_CSRF_Token=token, Sec_Fetch_Site=site) == 403
    for origin in ("null", "https://evil.example", "http://127.0.0.1:1", f"{server.url}.evil.example"):
        assert make(X_CSRF_Token=token, Origin=origin) == 403
    assert make(X_CSRF_Token=token, Origin=server.url) == make(X_CSRF_Token=token, Sec_Fetch_Site="same-origin") == 201
    assert admin_of_acme.delete("/analytics/keys/ak_nobodys").status_code == 403
    assert admin_of_acme.delete("/analytics/keys/ak_nobodys", headers={"X-CSRF-Token": token}).status_code == 404


def test_nobody_is_signed_out_or_signed_in_as_another_by_another_site(server: Running, admin_of_acme: httpx.Client) -> None:
    for fields in ({}, {"csrf": "0" * 64}):
        assert admin_of_acme.post("/signout", data=fields, headers=HERE).status_code == 403
    token = token_in(admin_of_acme.get(PAGE))
    assert admin_of_acme.post("/signout", data={"csrf": token}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert admin_of_acme.get(PAGE).status_code == 200
    attackers = server.key(Role.VIEWER, "borealis")
    with browser(server) as victim:
        assert victim.post("/signin", data={"key": attackers}, headers=HERE).status_code == 400
        form = victim.get("/signin")
        fields = {"key": attackers, "csrf": token_in(form)}
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
            assert victim.post("/signin", data=fields, headers=headers).status_code == 400
        assert victim.post("/signin", json=fields, headers=HERE).status_code == 415
        victim.cookies.clear()
        assert victim.post("/signin", data=fields, headers=HERE).status_code == 400
        assert victim.get(PAGE).status_code == 303


def test_a_key_in_the_address_of_a_page_is_refused(server: Running, person: httpx.Client) -> None:
    key = server.key(Role.VIEWER, "acme")
    for path in (f"/signin?key={key}", f"/signin?next=/x&token={key}", f"{PAGE}?k={key}"):
        refused = person.get(path)
        assert refused.status_code == 400, path
        assert key not in refused.text
    sign_in(person, key)
    assert person.get(f"{PAGE}?k={key}").status_code == 400
    assert key not in server.said


def test_a_key_that_only_sends_data_opens_no_page(server: Running, person: httpx.Client) -> None:
    refused = sign_in(person, server.key(Role.INGEST, "acme"))
    assert refused.status_code == 403
    assert "only sends data" in refused.text


# --- pages


def test_pages_load_nothing_from_elsewhere_and_are_framed_by_nobody(person: httpx.Client) -> None:
    page = person.get("/signin")
    policy = page.headers["content-security-policy"]
    for part in ("default-src 'none'", "script-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "same-origin"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script|<style|style=|https?://", page.text)
    linked = re.search(r'href="(/signin/style.css[^"]+)"', page.text)
    assert linked
    style = person.get(linked[1])
    assert (style.status_code, style.headers["content-type"].partition(";")[0]) == (200, "text/css")


def test_what_a_browser_is_not_given_is_told_as_a_page(server: Running, person: httpx.Client) -> None:
    nowhere = person.get("/signin/once/x" + "y" * 300)
    assert nowhere.status_code == 400
    assert nowhere.headers["content-type"].startswith("text/html")
    sign_in(person, server.key(Role.VIEWER, "acme"))
    refused = person.post("/signout", data={}, headers=HERE)
    assert refused.headers["content-type"].startswith("text/html")
    assert "load the page again" in refused.text


def test_what_a_stranger_writes_is_shown_as_text(person: httpx.Client) -> None:
    for path in ("/signin?next=/%22%3E%3Cscript%3E", "/signin/once/%22%3E%3Cscript%3Ealert(1)"):
        assert "<script" not in person.get(path).text


# --- where one goes on to


@given(st.text(st.sampled_from("/\\.:@?#%&=ab \t\n\r\0é"), max_size=12).map(lambda text: f"/{text}") | st.text(max_size=20))
@example("//evil.example")
@example("/\\evil.example")
@example("/\t/evil.example")
@example("https://evil.example")
@example("/a\r\nSet-Cookie: x")
def test_nobody_is_sent_to_another_site(named: str) -> None:
    went = local_path(named, "/account")
    # Browsers leave out tabs and line ends, and take a backslash for a slash.
    read = re.sub(r"[\t\r\n]", "", went).replace("\\", "/")
    assert went.isascii()
    assert went.isprintable()
    assert urlsplit(urljoin("https://here.example/signin", read)).netloc == "here.example"


def test_paths_of_this_server_are_gone_on_to() -> None:
    for path in ("/", "/account", "/t/acme/daily?from=2026-01-01&where=country%3D%22US%22", "/a//b"):
        assert local_path(path, "/account") == path
    for path in (None, "", "account", "/" + "a" * 5_000, "/ a"):
        assert local_path(path, "/account") == "/account"


# --- who tries too often


def test_the_wait_grows_after_some_failures_and_is_forgotten() -> None:
    stopwatch = Stopwatch()
    attempts = Attempts(stopwatch)
    assert [attempts.begin("10.0.0.1") for _ in range(FREE)] == [0.0] * FREE
    for expected in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
        assert attempts.begin("10.0.0.1") == expected
        assert attempts.begin("10.0.0.2") == 0.0  # nobody else waits
        attempts.succeeded("10.0.0.2")
        stopwatch.advance(expected)
        assert attempts.begin("10.0.0.1") == 0.0
    attempts.succeeded("10.0.0.1")
    assert attempts.begin("10.0.0.1") == 0.0
    stopwatch.advance(60)
    for _ in range(FREE):
        attempts.begin("10.0.0.3")
    stopwatch.advance(900)
    assert [attempts.begin("10.0.0.3") for _ in range(FREE)] == [0.0] * FREE


def test_the_addresses_of_one_ipv6_network_are_one_client() -> None:
    attempts = Attempts(Stopwatch())
    for number in range(FREE):
        assert attempts.begin(f"2001:db8::{number}") == 0.0
    assert attempts.begin("2001:db8::ffff") > 0
    assert attempts.begin("2001:db8:0:1::1") == 0.0


@given(st.integers(0, 10_000))
def test_no_wait_is_longer_than_a_minute_and_none_shorter_than_the_one_before(failures: int) -> None:
    assert 0.0 <= delay(failures) <= delay(failures + 1) <= LONGEST_WAIT


def test_who_tries_too_often_is_told_how_long_to_wait(server: Running) -> None:
    with browser(server) as client:

        def told() -> httpx.Response | None:
            answer = sign_in(client, "ak_nonsense")
            assert answer.status_code in (401, 429)
            return answer if answer.status_code == 429 else None

        # A slow machine's attempts are far apart, and the wait begins with a second.
        waiting = wait_for("the wait", told)
        seconds = int(waiting.headers["retry-after"])
        assert 1 <= seconds <= LONGEST_WAIT
        assert f"Try again in {seconds} s." in waiting.text
        good = server.key(Role.VIEWER, "acme")
        wait_for("the wait to be over", lambda: sign_in(client, good).status_code == 303, seconds + 10)


# --- a link that works once


def linked(server: Running) -> str:
    """The path of what `analytics signin` prints."""
    printed = analytics("--home", server.home, "signin").out.strip()
    assert printed.startswith(f"{server.url}/signin/once/")
    return printed.removeprefix(server.url)


def follow(client: httpx.Client, path: str) -> httpx.Response:
    form = client.get(path)
    assert form.status_code == 200
    return client.post("/signin/once", data={"csrf": token_in(form), "code": path.rpartition("/")[2]}, headers=HERE)


def test_a_link_signs_in_once_as_the_homes_admin(server: Running, person: httpx.Client) -> None:
    path = linked(server)
    for _ in range(3):
        person.get(path)  # a preview does not use it up
    went = follow(person, path)
    assert (went.status_code, went.headers["location"]) == (303, "/")
    assert "platform-admin" in person.get(PAGE).text
    with browser(server) as late:
        refused = follow(late, path)
        assert refused.status_code == 401
        assert "another" in refused.text
        assert late.get(PAGE).status_code == 303
    assert path.rpartition("/")[2] not in server.said
    with server.client(server.key(Role.PLATFORM_ADMIN)) as admin:
        rows = [row for row in admin.get("/analytics/audit").json() if row["action"] == "signin"]
    assert ["by link" in row["detail"] for row in rows[-2:]] == [True, True]


def test_another_site_cannot_use_a_link(server: Running, person: httpx.Client) -> None:
    path = linked(server)
    code = path.rpartition("/")[2]
    assert person.post("/signin/once", data={"code": code}, headers=HERE).status_code == 400
    token = token_in(person.get(path))
    answer = person.post("/signin/once", data={"code": code, "csrf": token}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 400
    assert follow(person, path).status_code == 303


def test_no_link_is_printed_for_a_home_whose_server_does_not_run(home: Path) -> None:
    open_installation(Settings.from_environment(home), create=True).database.dispose()
    assert "analytics serve" in analytics("--home", home, "signin").error


def test_sessions_are_listed_and_revoked_on_the_command_line(server: Running, person: httpx.Client) -> None:
    key = server.key(Role.VIEWER, "acme", name="to be thrown out")
    sign_in(person, key)
    listed = json.loads(analytics("--home", server.home, "session", "list", "--json").out)
    [mine] = [entry for entry in listed if entry["who"] == key[:11]]
    assert mine["name"] == "to be thrown out"
    assert mine["id"] in analytics("--home", server.home, "session", "list").out
    assert analytics("--home", server.home, "session", "revoke", mine["id"]).status == 0
    wait_for("the end of the session", lambda: person.get(PAGE).status_code == 303, 5.0)
    assert "no session" in analytics("--home", server.home, "session", "revoke", mine["id"]).error


# --- TLS and proxies


def test_under_tls_the_cookie_belongs_to_this_host_alone(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    chain, private = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    private.write_bytes(certificate.private_key_pem.bytes())
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    settings = {"ANALYTICS_TLS_CERTIFICATE": str(chain), "ANALYTICS_TLS_KEY": str(private), "ANALYTICS_SERVER_WORKERS": "1"}
    with serving(tmp_path / ".analytics", **settings) as running, browser(running, verify=trusted) as client:
        answer = sign_in(client, (running.home / "admin.key").read_text().strip())
        assert answer.status_code == 303
        [cookie] = [value for value in answer.headers.get_list("set-cookie") if "analytics_session" in value]
        assert cookie.startswith("__Host-analytics_session=")
        assert "; Secure" in cookie
        assert client.get(PAGE).status_code == 200
        plain = {"analytics_session_" + running.url.rpartition(":")[2]: client.cookies["__Host-analytics_session"]}
        assert httpx.get(f"{running.url}{PAGE}", cookies=plain, verify=trusted).status_code == 303


def test_a_named_proxy_says_that_the_browser_speaks_tls_and_links_are_not_for_it(tmp_path: Path) -> None:
    settings = {"ANALYTICS_TRUSTED_PROXIES": "127.0.0.1", "ANALYTICS_SERVER_WORKERS": "1"}
    with serving(tmp_path / ".analytics", **settings) as running:
        for said, secure in (("https", True), ("https, http", True), ("http", False), ("", False)):
            with browser(running) as client:
                cookie = client.get("/signin", headers={"X-Forwarded-Proto": said}).headers["set-cookie"]
            assert (cookie.startswith("__Host-"), "; Secure" in cookie) == (secure, secure), said
        with browser(running) as client:
            assert client.get("/signin/once/anything").status_code == 404
        assert "others than this machine" in analytics("--home", running.home, "signin").error


def test_nobody_but_a_named_proxy_says_what_the_browser_speaks(person: httpx.Client) -> None:
    cookie = person.get("/signin", headers={"X-Forwarded-Proto": "https"}).headers["set-cookie"]
    assert not cookie.startswith("__Host-")
    assert "; Secure" not in cookie
