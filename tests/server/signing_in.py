"""What a browser does: it keeps cookies, says where a form came from, and follows no redirect unless a test does."""

from __future__ import annotations

import re

import httpx
from server.running import Running

HERE = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate"}


def browser(server: Running, **more: object) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=30, headers={"Accept": "text/html"}, **more)


def token_in(page: httpx.Response) -> str:
    """The token of a page's form."""
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found, page.text
    return found[1]


def sign_in(client: httpx.Client, key: str, next: str = "") -> httpx.Response:
    """Ask for the form, fill it in, send it."""
    form = client.get("/signin", params={"next": next} if next else {})
    assert form.status_code == 200, form.text
    fields = {"csrf": token_in(form), "key": key, "next": next}
    return client.post("/signin", data=fields, headers=HERE)
