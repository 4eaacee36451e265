"""Where the server may listen, which hosts it answers for, and whom it believes about where a request came from.

Loopback needs nothing. Any other address carries keys over a network, so it needs TLS, or a proxy in front that was named.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from analytics_dagster.errors import SettingsError, UserError
from analytics_dagster.settings import Settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_HOSTS_REMEMBERED = 1_000


@dataclass(frozen=True)
class Tls:
    certificate: Path
    key: Path


def is_loopback(host: str) -> bool:
    """Whether every address that `host` means is this machine's own. Raises UserError for a name that means none."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"--host {host!r} is not an address of this machine: {error.strerror}") from None
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def is_private(settings: Settings, host: str) -> bool:
    """Whether nobody but this machine can ask: it listens on loopback, and no proxy speaks for others."""
    return is_loopback(host) and not trusted_networks(settings)


def tls_of(settings: Settings) -> Tls | None:
    """The certificate to answer with. Raises SettingsError when only half of it is set or a file cannot be read."""
    certificate, key = settings.analytics_tls_certificate, settings.analytics_tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing = "ANALYTICS_TLS_CERTIFICATE" if certificate is None else "ANALYTICS_TLS_KEY"
        raise SettingsError(f"{missing} is not set; TLS needs both ANALYTICS_TLS_CERTIFICATE and ANALYTICS_TLS_KEY")
    for name, path in (("ANALYTICS_TLS_CERTIFICATE", certificate), ("ANALYTICS_TLS_KEY", key)):
        if not path.is_file():
            raise SettingsError(f"{name}={path} is not a file")
    return Tls(certificate, key)


def require_safe_binding(settings: Settings, host: str) -> None:
    """Raises UserError for an address that others reach, unless TLS or a proxy was declared."""
    if is_loopback(host) or tls_of(settings) is not None or trusted_networks(settings):
        return
    raise UserError(
        f"--host {host} can be reached from other machines, and keys would cross the network unencrypted; "
        "set ANALYTICS_TLS_CERTIFICATE and ANALYTICS_TLS_KEY, or name the proxy in front with ANALYTICS_TRUSTED_PROXIES"
    )


def require_free_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0. Raises UserError when something listens there already."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"--host {host!r} is not an address of this machine: {error.strerror}") from None
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without SO_REUSEPORT, which the workers set: two servers would share the port and each get half of the requests.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError:
            raise UserError(f"port {port} may not be used by this user; choose one above 1023 with --port") from None
        except OSError as error:
            taken = f"port {port} of {host} is taken; stop what listens there or choose another with --port"
            raise UserError(
                taken if error.errno == errno.EADDRINUSE else f"cannot listen on {host}:{port}: {error.strerror}"
            ) from None
        return int(probe.getsockname()[1])


class Hosts:
    """The names that a Host header may ask for. A leading `*.` allows every name below."""

    def __init__(self, names: Iterable[str]) -> None:
        folded = [_host_of(name) for name in names]
        self._names = frozenset(name for name in folded if not name.startswith("*."))
        self._below = tuple(name[1:] for name in folded if name.startswith("*."))
        self._accepted: set[bytes] = set()

    def accept(self, header: bytes) -> bool:
        """Whether a Host header's value is one of ours. The port is not looked at: a tunnel's differs."""
        if header in self._accepted:
            return True
        name = _host_of(header.decode("latin-1"))
        good = name in self._names or (bool(self._below) and name.endswith(self._below))
        if good and len(self._accepted) < _HOSTS_REMEMBERED:
            self._accepted.add(header)
        return good


def allowed_hosts(settings: Settings, host: str) -> Hosts:
    """ANALYTICS_ALLOWED_HOSTS, else localhost and the address that is listened on. Loopback's names always count."""
    named = [name.strip() for name in (settings.analytics_allowed_hosts or "").split(",") if name.strip()]
    return Hosts([*_LOOPBACK_NAMES, *(named or [host])])


def trusted_networks(settings: Settings) -> tuple[Network, ...]:
    """ANALYTICS_TRUSTED_PROXIES. Raises SettingsError for what is neither an address nor a network."""
    networks = []
    for text in (part.strip() for part in (settings.analytics_trusted_proxies or "").split(",")):
        if not text:
            continue
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise SettingsError(
                f"ANALYTICS_TRUSTED_PROXIES={text!r} is not an address or a network; write 10.0.0.5 or 10.0.0.0/8"
            ) from None
    return tuple(networks)


def client_of(peer: str, forwarded_for: str, proxies: tuple[Network, ...]) -> str:
    """Where a request came from: the peer, or what named proxies say, read from the right up to the first that is no proxy.

    What a client writes into X-Forwarded-For itself stands left of what the proxies add, so it is never reached.
    """
    if not proxies or not _within(peer, proxies):
        return peer
    client = peer
    for hop in reversed([part.strip() for part in forwarded_for.split(",") if part.strip()]):
        try:
            client = str(ipaddress.ip_address(hop.strip("[]")))
        except ValueError:
            return client
        if not _within(client, proxies):
            return client
    return client


def forwarded_scheme(peer: str, said: str, proxies: tuple[Network, ...]) -> str:
    """The scheme that the browser used, as a named proxy says; empty where none does. Of several the first: the browser's own."""
    if not proxies or not _within(peer, proxies):
        return ""
    return said.partition(",")[0].strip().lower()


def _within(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def _host_of(value: str) -> str:
    """A Host header's name: without port and brackets, lower case, without the root's dot."""
    value = value.strip().lower()
    if value.startswith("["):
        return value[1:].partition("]")[0]
    if value.count(":") > 1:
        return value
    return value.partition(":")[0].rstrip(".")
