"""Who may do what over HTTP: every route with every role, tenants apart, and what is never answered."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import httpx
import pytest
from server.running import Running, wait_for
from server.signing_in import HERE, browser, sign_in, token_in

from analytics_dagster.server.binding import Hosts, client_of, trusted_networks
from analytics_dagster.server.doors import DOORS
from analytics_dagster.settings import Settings
from analytics_dagster.tenancy.roles import Permission, Role, may
from analytics_dagster.tenancy.tenants import TenantStatus

CANARY = "canary_of_borealis"


@pytest.fixture(scope="module")
def described(server: Running) -> Mapping[str, Any]:
    with server.client() as client:
        document: Mapping[str, Any] = client.get("/openapi.json").json()
    return document


def operations(described: Mapping[str, Any]) -> Iterator[tuple[str, str, Permission | None, bool, bool]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            # Without the field a route would be open by mistake.
            permission = operation["x-permission"]
            open_here = operation.get("x-open-on-loopback", False)
            page = operation.get("x-page", False)
            yield method.upper(), path, None if permission == "none" else Permission(permission), open_here, page


def test_every_route_is_walked_by_every_role(server: Running, described: Mapping[str, Any]) -> None:
    keys = {role: server.key(role, "acme") for role in Role}
    walked = 0
    with server.client() as client:
        for method, path, permission, open_here, page in operations(described):
            # Of a kind that no role can do anything with: only who may is looked at, and nothing is changed.
            target = path.replace("{key_id}", "ak_nobodys")
            nobody = client.request(method, target, content=b"\xff")
            if page and permission is not None:
                assert (nobody.status_code, nobody.headers["location"][:7]) == (303, "/signin"), (method, path)
            else:
                assert (nobody.status_code == 401) == (permission is not None and not open_here), (method, path, nobody)
            for role, key in keys.items():
                answer = client.request(method, target, content=b"\xff", headers={"Authorization": f"Bearer {key}"})
                allowed = permission is None or may(role, permission)
                assert answer.status_code != 401, (method, path, role)
                assert (answer.status_code == 403) != allowed, (method, path, role, answer.text)
                assert answer.status_code < 500, (method, path, role, answer.text)
                walked += 1
    assert walked > 100


def test_every_route_is_walked_by_every_role_with_a_cookie(server: Running, described: Mapping[str, Any]) -> None:
    """With the session's token: only who may is looked at. What takes rows knows no cookies."""
    taking = {(door.method, door.path) for door in DOORS}
    for role in set(Role) - {Role.INGEST}:
        with browser(server) as client:
            assert sign_in(client, server.key(role, "acme")).status_code == 303
            token = {"X-CSRF-Token": token_in(client.get("/account")), **HERE}
            for method, path, permission, open_here, _ in operations(described):
                target = path.replace("{key_id}", "ak_nobodys")
                if path == "/signout":
                    continue
                answer = client.request(method, target, content=b"\xff", headers=token)
                if (method, path) in taking and permission is not None:
                    assert answer.status_code == 401, (method, path)
                    continue
                assert answer.status_code != 401, (method, path, role)
                allowed = permission is None or open_here or may(role, permission)
                assert (answer.status_code == 403) != allowed, (method, path, role, answer.text)
                if permission is not None and not open_here and method not in ("GET", "HEAD"):
                    assert client.request(method, target, content=b"\xff", headers=HERE).status_code == 403, (method, path)


def test_a_key_may_come_in_every_usual_way_and_never_in_the_address(server: Running) -> None:
    key = server.key(Role.VIEWER, "acme")
    with server.client() as client:
        for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"Token {key}"}, {"X-API-Key": key}):
            assert client.get("/analytics/metrics", headers=headers).status_code == 200
        assert client.get("/analytics/metrics", auth=("anybody", key)).status_code == 200
        for query in (f"token={key}", f"api_key={key}", f"u=x&p={key}", f"metric={key}"):
            refused = client.get(f"/analytics/metrics?{query}", headers={"Authorization": f"Bearer {key}"})
            assert refused.status_code == 400, query
            assert key not in refused.text
        for wrong in (key[:-1], key[:-1] + ("a" if key[-1] != "a" else "b"), "nonsense"):
            answer = client.get("/analytics/metrics", headers={"Authorization": f"Bearer {wrong}"})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="analytics"')
    assert key not in server.said


def test_a_key_whose_authorization_is_not_understood_is_not_mistaken_for_another(server: Running) -> None:
    with server.client() as client:
        odd = {"Authorization": "Negotiate x"}
        assert client.get("/analytics/metrics", headers={**odd, "X-API-Key": server.key(Role.VIEWER, "acme")}).status_code == 200
        assert client.get("/analytics/metrics", headers=odd).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"), [("localhost", 200), ("127.0.0.1:1", 200), ("[::1]:80", 200), ("evil.example", 421), ("", 421)]
)
def test_only_its_own_hosts_are_answered_for(server: Running, host: str, status: int) -> None:
    with server.client() as client:
        assert client.get("/healthz", headers={"Host": host}).status_code == status


def test_no_answer_opens_itself_to_other_sites(server: Running) -> None:
    with server.client() as client:
        for path in ("/healthz", "/docs", "/analytics/metrics", "/nowhere"):
            headers = client.get(path, headers={"Origin": "https://evil.example"}).headers
            assert not [name for name in headers if name.startswith("access-control-")]
            assert headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_a_request_id_that_is_sane_is_kept_and_another_replaced(server: Running) -> None:
    with server.client() as client:
        assert client.get("/healthz", headers={"X-Request-ID": "trace-1.2"}).headers["x-request-id"] == "trace-1.2"
        assert client.get("/healthz", headers={"X-Request-ID": "a b"}).headers["x-request-id"] != "a b"
        missing = client.get("/nowhere", headers={"X-Request-ID": "trace-3"})
        assert (missing.status_code, missing.json()["request_id"]) == (404, "trace-3")


def test_a_method_that_is_not_there_is_told_which_are(server: Running) -> None:
    with server.client() as client:
        for path, method in (("/analytics/metrics", "PUT"), ("/api/v1/write", "GET"), ("/healthz", "POST")):
            answer = client.request(method, path)
            assert answer.status_code == 405
            assert answer.headers["allow"]
        assert set(client.put("/analytics/metrics").headers["allow"].split(", ")) == {"GET", "POST"}


# --- tenants


@pytest.fixture(scope="module")
def borealis(server: Running) -> Iterator[httpx.Client]:
    """A client of another tenant, whose figures must never be seen by acme."""
    with server.client(server.key(Role.TENANT_ADMIN, "borealis")) as client:
        assert client.post("/analytics/metrics", json={"name": CANARY, "value": 1, "labels": {CANARY: CANARY}}).status_code == 202
        assert client.post("/analytics/metrics?partial=1", json={"name": CANARY, "value": "x"}).status_code == 202
        yield client


def attempts(server: Running, tenant: str) -> list[str]:
    with server.client(server.key(Role.TENANT_ADMIN, tenant)) as client:
        rows = client.get("/analytics/audit").json()
    return [row["target"] for row in rows if row["action"] == "foreign_tenant"]


def test_a_body_that_names_another_tenant_is_refused_whole_and_audited(server: Running, acme: httpx.Client) -> None:
    name = f"foreign_{uuid.uuid4().hex[:8]}"
    rows = [{"name": name, "value": 1}, {"name": name, "value": 2, "tenant_id": "borealis"}]
    assert acme.post("/analytics/metrics", json=rows).status_code == 403
    assert acme.get("/analytics/query", params={"metric": name}).status_code == 404
    wait_for("the audit row", lambda: "borealis" in attempts(server, "acme"))
    label = {"name": name, "value": 3, "labels": {"tenant_id": "borealis"}}
    assert acme.post("/analytics/metrics", json=label).status_code in (403, 422)
    assert acme.post("/analytics/metrics", json={**label, "labels": {}}, headers={"X-Scope-OrgID": "borealis"}).status_code == 403
    assert acme.post("/analytics/metrics?tenant=borealis", json=rows[:1]).status_code == 404
    assert acme.post("/analytics/metrics", json={"name": name, "value": 4, "tenant_id": "acme"}).status_code == 202


def test_no_answer_to_one_tenant_shows_anothers(server: Running, borealis: httpx.Client, acme: httpx.Client) -> None:
    assert borealis.get("/analytics/query", params={"metric": CANARY}).status_code == 200
    made = borealis.post("/analytics/keys", json={"role": "viewer", "name": CANARY}).json()
    for path in ("metrics", "keys", "audit", "quarantine", "restatements", "usage"):
        own, foreign = acme.get(f"/analytics/{path}"), acme.get(f"/analytics/{path}", params={"tenant": "borealis"})
        assert own.status_code == 200
        assert "borealis" not in own.text.replace('"target":"borealis"', ""), path
        assert CANARY not in own.text
        assert made["key_id"] not in own.text
        assert foreign.status_code == 404
    assert acme.get("/analytics/query", params={"metric": CANARY}).status_code == 404
    assert acme.get("/analytics/query", params={"metric": CANARY, "tenant": "borealis"}).status_code == 404
    assert acme.delete(f"/analytics/keys/{made['key_id']}").status_code == 404
    assert acme.delete("/analytics/keys/ak_nobodys").status_code == 404
    assert borealis.delete(f"/analytics/keys/{made['key_id']}").status_code == 204


def test_a_collectors_key_writes_for_the_tenants_that_rows_name(server: Running, borealis: httpx.Client) -> None:
    name = f"collected_{uuid.uuid4().hex[:8]}"
    everywhere = server.key(Role.INGEST, everywhere=True)
    with server.client(everywhere) as collector, server.client(server.key(Role.TENANT_ADMIN, "acme")) as acme:
        rows = [{"name": name, "value": 1, "tenant_id": "acme"}, {"name": name, "value": 2, "tenant_id": "borealis"}]
        assert collector.post("/analytics/metrics", json=rows).json() == {"accepted": 2}
        assert collector.post("/analytics/metrics", json={"name": name, "value": 3}).status_code == 422
        named = {"X-Scope-OrgID": "acme"}
        assert collector.post("/analytics/metrics", json={"name": name, "value": 4}, headers=named).status_code == 202
        unknown = {"name": name, "value": 5, "tenant_id": "nobody"}
        assert collector.post("/analytics/metrics", json=unknown).status_code == 403
        server.installation.tenants.ensure("latecomer")
        late = {"name": name, "value": 6, "tenant_id": "latecomer"}
        wait_for("the new tenant", lambda: collector.post("/analytics/metrics", json=late).status_code == 202)
        asked = {"metric": name, "aggregate": "sum"}
        assert sum(row["value"] for row in acme.get("/analytics/query", params=asked).json()) == 5
        assert sum(row["value"] for row in borealis.get("/analytics/query", params=asked).json()) == 2


def test_only_a_key_for_all_tenants_learns_why_one_takes_nothing(server: Running) -> None:
    tenants = server.installation.tenants
    for name, status in (("asleep", TenantStatus.SUSPENDED), ("gone", TenantStatus.REMOVED)):
        tenants.ensure(name)
        tenants.set_status(name, status)
    states = {"asleep": "is suspended", "gone": "is removed", "nobody": "is not registered"}
    point = {"name": "x", "value": 1}
    everybody = {server.key(Role.PLATFORM_ADMIN), server.key(Role.INGEST, everywhere=True)}
    for key in (*everybody, server.key(Role.TENANT_ADMIN, "acme"), server.key(Role.INGEST, "acme", "borealis")):
        for name, state in states.items():
            row = {**point, "tenant_id": name}
            acmes = {**point, "tenant_id": "acme"}
            told = (
                f"tenant {name!r} {state}" if key in everybody else f"tenant_id {name!r} is not one that this key may write for"
            )
            with server.client(key) as client:

                def refused(client: httpx.Client = client, told: str = told, **sent: Any) -> bool:
                    answer = client.post("/analytics/metrics", **sent)
                    return answer.status_code == 403 and answer.json()["detail"].startswith(told)

                # A worker may remember for some seconds that the tenant was active.
                for sent in ({"json": row}, {"json": [acmes, row]}, {"json": point, "headers": {"X-Scope-OrgID": name}}):
                    wait_for("the tenant's state", partial(refused, **sent))
                answer = client.post("/analytics/metrics", params={"tenant": name}, json=point)
            assert answer.status_code == 404
            assert answer.json()["detail"].startswith(told if key in everybody else f"no tenant {name!r}")


def test_a_parameter_that_a_route_does_not_have_is_refused_by_name(server: Running, acme: httpx.Client) -> None:
    name = f"strict_{uuid.uuid4().hex[:8]}"
    row = {"name": name, "value": 1}
    refused = acme.post("/analytics/metrics?partail=true", json=row)
    assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")
    assert refused.json()["detail"] == "the parameter 'partail' is not known; known are partial, tenant"
    assert refused.json()["type"].endswith(":bad-parameters")
    assert acme.post("/analytics/metrics?partial=true&tenant=acme", json=row).status_code == 202
    wrong = acme.get("/analytics/query", params={"metric": name, "form": "2026-01-01", "x" * 500: "1"}).json()
    assert [error["field"] for error in wrong["errors"]] == ["form", "x" * 100]
    assert "known are metric, from, to, grain, by, where, aggregate, top, tenant, format" in wrong["detail"]
    for path in ("metrics", "keys", "usage", "audit", "quarantine", "restatements"):
        assert "'tennant'" in acme.get(f"/analytics/{path}", params={"tennant": "acme"}).json()["detail"], path
    with server.client(server.key(Role.PLATFORM_ADMIN)) as admin:
        assert "takes none" in admin.get("/analytics/tenants?limit=1").json()["detail"]
        # Who probes and scrapes adds parameters of his own.
        assert admin.get("/healthz?at=1").status_code == admin.get("/metrics?name[]=up").status_code == 200
    with server.client() as nobody:
        assert nobody.get("/analytics/query?x=1").status_code == 401
    # Other houses' clients send what they like.
    assert acme.post("/api/v2/write?org=x&bucket=y&consistency=all", content=f"{name}_influx v=1").status_code == 204


def test_a_bound_without_a_zone_is_told_how_to_write_it(acme: httpx.Client) -> None:
    for text in ("2026-11-20T00:00:00", "2026-11-20 00:00"):
        detail = acme.get("/analytics/query", params={"metric": "plays", "from": text}).json()["detail"]
        assert detail == f"from={text!r} has no time zone; write 2026-11-20T00:00:00Z, or an offset in place of Z (UTC)"
    assert "neither a day nor a time" in acme.get("/analytics/query", params={"metric": "plays", "to": "soon"}).json()["detail"]


def test_a_key_is_made_used_and_revoked_over_http(server: Running, acme: httpx.Client) -> None:
    made = acme.post("/analytics/keys", json={"role": "ingest", "name": "collector of one"})
    assert made.status_code == 201
    key = made.json()
    assert re.fullmatch(r"ak_[0-9A-Za-z]{49}", key["key"])
    with server.client(key["key"]) as client:
        assert client.post("/analytics/metrics", json={"name": "x", "value": 1}).status_code == 202
        assert acme.delete(f"/analytics/keys/{key['key_id']}").status_code == 204
        post = {"name": "x", "value": 1}
        wait_for("the revocation", lambda: client.post("/analytics/metrics", json=post).status_code == 401, 5.0)
    for wanted in ({"role": "platform-admin"}, {"role": "viewer", "tenant": "borealis"}):
        assert acme.post("/analytics/keys", json=wanted).status_code == 403
    assert acme.post("/analytics/keys", json={"role": "viewer", "colour": "red"}).status_code == 400


def test_a_platform_admin_registers_tenants_and_sees_all(server: Running) -> None:
    with server.client(server.key(Role.PLATFORM_ADMIN)) as admin:
        assert admin.post("/analytics/tenants", json={"tenant": "newcomer"}).json()["status"] == "active"
        [added] = [
            row for row in admin.get("/analytics/audit", params={"tenant": "newcomer"}).json() if row["action"] == "tenant.add"
        ]
        assert (added["actor"], added["request_id"] is not None) == (server.key(Role.PLATFORM_ADMIN)[:11], True)
        assert {"default", "acme", "newcomer"} <= {row["tenant"] for row in admin.get("/analytics/tenants").json()}
        assert admin.post("/analytics/tenants", json={"tenant": "Not A Name"}).status_code == 400
        assert admin.get("/analytics/query", params={"metric": "plays", "tenant": "nobody"}).status_code == 404
        point = {"name": "of_the_newcomer", "value": 1, "tenant_id": "newcomer"}
        assert admin.post("/analytics/metrics", json=point).status_code == 202
        assert admin.post("/analytics/metrics", json={"name": "of_default", "value": 1}).status_code == 202
        assert admin.get("/analytics/query", params={"metric": "of_default"}).status_code == 200


def test_the_key_file_of_the_embedded_default_is_its_owners_alone(server: Running) -> None:
    path = server.home / "admin.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(path) in server.said
    with server.client(path.read_text().strip()) as admin:
        assert admin.get("/analytics/tenants").status_code == 200
    assert path.read_text().strip() not in server.said


def test_log_lines_are_json_and_name_request_tenant_and_key(server: Running, acme: httpx.Client) -> None:
    acme.get("/analytics/usage", headers={"X-Request-ID": "find-me"})
    # The answer may be here before the line is.
    found = wait_for("the line", lambda: [line for line in server.said.splitlines() if '"find-me"' in line and line[-1] == "}"])
    [line] = [json.loads(text) for text in found]
    assert (line["route"], line["status"], line["tenant"], line["level"]) == ("/analytics/usage", 200, "acme", "info")
    assert line["key"] == server.key(Role.TENANT_ADMIN, "acme")[:11]
    assert "ms" in line


# --- addresses


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.5", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.5", "1.1.1.1, 203.0.113.9, 10.0.0.6", "203.0.113.9"),
        ("10.0.0.5", "", "10.0.0.5"),
        ("10.0.0.5", "nonsense", "10.0.0.5"),
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
    ],
)
def test_only_named_proxies_say_where_a_request_came_from(peer: str, forwarded: str, client: str) -> None:
    settings = Settings(analytics_trusted_proxies="10.0.0.0/8")  # type: ignore[call-arg]  # the rest have defaults
    assert client_of(peer, forwarded, trusted_networks(settings)) == client
    assert client_of(peer, forwarded, ()) == peer


def test_host_names_are_compared_without_case_port_and_root() -> None:
    hosts = Hosts(["Example.com", "*.tunnel.example"])
    for good in (b"example.com", b"EXAMPLE.com:8000", b"example.com.", b"a.b.tunnel.example:1"):
        assert hosts.accept(good)
    for bad in (b"example.com.evil.org", b"tunnel.example", b"xtunnel.example", b"", b"example.com@evil.org"):
        assert not hosts.accept(bad)
