"""What the simulated service is made of: markets and prices, genres, devices, endpoints, words for names.

Constants only, no randomness and no functions. Shares are relative weights; they are normalized where they are used.
Prices are of the order that streaming services charge in these markets.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Market:
    """A country in which a tenant sells: the price of a month, and where its clocks stand."""

    country: str
    price_minor: int
    """In hundredths of the tenant's reporting currency, in which all its listeners are billed: amounts may be added up."""
    utc_offsets: tuple[int, ...]
    """Whole hours from UTC, one of which each listener lives in. Standard time all year: no daylight saving here."""
    ecpm_micros: int
    """Revenue of a thousand filled audio advertisements, in millionths of the reporting currency."""


MARKETS: dict[str, Market] = {
    market.country: market
    for market in (
        Market("US", 1099, (-5, -5, -6, -7, -8, -8), 14_000_000),
        Market("CA", 899, (-5, -5, -6, -8), 11_000_000),
        Market("MX", 649, (-6,), 4_000_000),
        Market("BR", 449, (-3,), 3_500_000),
        Market("AR", 299, (-3,), 2_000_000),
        Market("CL", 449, (-4,), 3_000_000),
        Market("CO", 399, (-5,), 2_500_000),
        Market("GB", 1199, (0,), 13_000_000),
        Market("IE", 1099, (0,), 11_000_000),
        Market("DE", 1099, (1,), 12_000_000),
        Market("FR", 1099, (1,), 10_000_000),
        Market("ES", 1099, (1,), 7_000_000),
        Market("IT", 1099, (1,), 7_000_000),
        Market("NL", 1099, (1,), 11_000_000),
        Market("PT", 799, (0,), 6_000_000),
        Market("SE", 1099, (1,), 12_000_000),
        Market("NO", 1099, (1,), 13_000_000),
        Market("DK", 1099, (1,), 12_000_000),
        Market("FI", 1099, (2,), 10_000_000),
        Market("PL", 549, (1,), 5_000_000),
        Market("JP", 699, (9,), 10_000_000),
        Market("KR", 799, (9,), 9_000_000),
        Market("AU", 949, (8, 10, 10), 12_000_000),
        Market("NZ", 949, (12,), 9_000_000),
        Market("IN", 149, (5,), 1_000_000),
    )
}


@dataclass(frozen=True)
class TenantProfile:
    """Where a tenant's listeners live, what it bills and reports in, and what its catalogue leans to."""

    countries: tuple[tuple[str, float], ...]
    reporting_currency: str
    genres: tuple[str, ...]
    """Genres that count double in the tenant's catalogue and tastes."""


TENANT_NAMES = ("aurora", "borealis", "cascade")

PROFILES: tuple[TenantProfile, ...] = (
    TenantProfile(
        (("US", 48), ("GB", 14), ("CA", 9), ("AU", 7), ("DE", 6), ("IE", 3), ("NZ", 2), ("JP", 5), ("IN", 6)),
        "USD",
        ("pop", "hip-hop", "rock"),
    ),
    TenantProfile(
        (("SE", 24), ("NO", 14), ("DK", 14), ("FI", 12), ("DE", 16), ("NL", 8), ("PL", 7), ("GB", 5)),
        "EUR",
        ("electronic", "metal", "indie"),
    ),
    TenantProfile(
        (("BR", 30), ("MX", 22), ("ES", 14), ("AR", 9), ("CO", 9), ("CL", 6), ("PT", 4), ("US", 6)),
        "EUR",
        ("latin", "reggaeton", "pop"),
    ),
    TenantProfile(
        (("FR", 26), ("IT", 18), ("DE", 18), ("NL", 10), ("ES", 10), ("GB", 8), ("JP", 5), ("KR", 5)),
        "EUR",
        ("jazz", "classical", "soul"),
    ),
)
"""Profiles of aurora, borealis and cascade; tenant-4 has the fourth, and they repeat from there."""

GENRES: tuple[tuple[str, float], ...] = (
    ("pop", 18),
    ("hip-hop", 15),
    ("rock", 13),
    ("electronic", 10),
    ("latin", 8),
    ("indie", 7),
    ("r&b", 6),
    ("country", 5),
    ("metal", 4),
    ("reggaeton", 4),
    ("soul", 3),
    ("jazz", 3),
    ("classical", 2),
    ("folk", 2),
)

DEVICES: tuple[tuple[str, float], ...] = (("android", 41), ("ios", 32), ("desktop", 14), ("web", 5), ("speaker", 6), ("tv", 2))
SOURCES: tuple[tuple[str, float], ...] = (
    ("playlist", 36),
    ("library", 24),
    ("radio", 14),
    ("search", 11),
    ("artist", 9),
    ("album", 6),
)
END_REASONS = ("trackdone", "fwdbtn", "backbtn", "endplay", "logout")
TIERS = ("free", "premium")
SALES_CHANNELS: tuple[tuple[str, float], ...] = (("web", 40), ("ios", 28), ("android", 24), ("partner", 8))
AD_FORMATS: tuple[tuple[str, float, float], ...] = (("audio", 0.72, 1.0), ("display", 0.22, 0.3), ("video", 0.06, 2.4))
"""Name, share, and eCPM relative to audio."""
SHARE_CHANNELS: tuple[tuple[str, float], ...] = (("link", 40), ("messenger", 35), ("story", 20), ("embed", 5))


@dataclass(frozen=True)
class Endpoint:
    """A route of the service's API: how many calls a session and a play make to it (the app fetches tracks ahead), and how long
    they take.
    """

    route: str
    method: str
    per_session: float
    per_play: float
    median_us: int
    client_errors: float
    """Share of answers with a 4xx status when all is well."""
    client_status: int


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("/login", "POST", 0.35, 0.0, 85_000, 0.015, 401),
    Endpoint("/home", "GET", 0.9, 0.0, 60_000, 0.001, 404),
    Endpoint("/search", "GET", 0.7, 0.0, 110_000, 0.002, 400),
    Endpoint("/playlist", "GET", 0.6, 0.0, 45_000, 0.004, 404),
    Endpoint("/play", "POST", 0.0, 0.5, 32_000, 0.002, 403),
)

HOSTS_PER_TENANT = (("api", 2), ("db", 1), ("worker", 1))

# Listening by local hour, one row for each kind of listener; the second half of each pair is the weekend's.
HABITS: tuple[tuple[str, float, tuple[float, ...], tuple[float, ...]], ...] = (
    (
        "commuter",
        0.34,
        (1, 0.5, 0.3, 0.2, 0.4, 2, 5, 9, 8, 4, 3, 3, 4, 3, 3, 4, 7, 9, 8, 6, 5, 4, 3, 2),
        (2, 1.5, 1, 0.5, 0.4, 0.6, 1, 2, 4, 6, 7, 7, 7, 6, 6, 6, 6, 6, 6, 7, 7, 6, 5, 3),
    ),
    (
        "desk",
        0.24,
        (0.6, 0.3, 0.2, 0.1, 0.2, 0.5, 2, 4, 7, 10, 10, 9, 7, 9, 10, 9, 7, 4, 3, 3, 3, 3, 2, 1),
        (1.5, 1, 0.6, 0.3, 0.2, 0.4, 1, 2, 4, 6, 7, 7, 6, 6, 6, 6, 6, 6, 6, 6, 6, 5, 4, 2),
    ),
    (
        "evening",
        0.26,
        (3, 1.5, 0.8, 0.4, 0.3, 0.5, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 5, 7, 9, 10, 10, 9, 7, 5),
        (5, 3, 2, 1, 0.5, 0.4, 0.6, 1, 2, 3, 4, 5, 5, 5, 6, 6, 7, 8, 9, 10, 10, 10, 9, 7),
    ),
    (
        "night",
        0.16,
        (9, 8, 6, 4, 2, 1, 0.7, 0.7, 1, 1, 1.5, 2, 3, 3, 3, 4, 4, 4, 5, 6, 7, 8, 9, 10),
        (10, 10, 8, 6, 4, 2, 1, 0.7, 0.7, 1, 1.5, 2, 3, 4, 4, 4, 4, 5, 5, 6, 7, 8, 9, 10),
    ),
)

_ADJECTIVES = (
    "Amber Bitter Blue Broken Bright Burning Copper Crimson Distant Double Early Electric Empty Endless Faded Fallen "
    "Foreign Frozen Gentle Golden Hidden Hollow Honest Inner Kind Last Little Lonely Lost Loud Lucky Midnight Modern Neon "
    "New Northern Old Open Paper Plastic Quiet Restless Rolling Sacred Second Silent Silver Slow Southern Spare Static "
    "Summer Sweet Tender Velvet Violet Warm Western Wild Winter Young"
)
_NOUNS = (
    "Animals Arrows Bridges Canyons Cathedral Circles Cities Clouds Coast Colours Corners Daylight Dreams Echoes Engines "
    "Fields Fires Flowers Gardens Ghosts Harbour Hearts Hills Horizon Hours Houses Islands Kites Ladders Lanterns Letters "
    "Lights Lines Machines Maps Meadow Mirrors Moons Mountains Oceans Orchards Pilots Planets Radio Rain Rivers Rooms Sails "
    "Shadows Signals Silence Sparks Stars Stations Stones Stories Streets Tides Towers Trains Valley Voices Waves Windows "
    "Wires Wolves"
)
_FIRST_NAMES = (
    "Ada Aiko Amara Anders Anouk Beatriz Bruno Camila Chidi Clara Dario Elena Emil Esra Farid Freja Gael Hana Hugo Ines Ivo "
    "Jonas Kaia Kenji Leila Lior Lucia Malik Marta Mateo Mina Nadia Niko Noor Oskar Paloma Petra Rafael Rosa Samir Sana "
    "Sofia Tariq Teo Uma Vera Viktor Yara Zoe Zuri"
)
_LAST_NAMES = (
    "Adler Alvarez Andersen Bakker Barros Berg Castro Chen Costa Dahl Diallo Duarte Eriksen Farouk Fischer Fontaine Garcia "
    "Haddad Hansen Ibarra Ito Jensen Kaur Keller Kim Kovac Larsen Lindqvist Lopez Marchetti Mendes Moreau Nakamura Novak "
    "Okafor Oliveira Pereira Petrov Quintero Rossi Salazar Santos Sato Silva Sorensen Tanaka Torres Varga Weber Yilmaz"
)
ADJECTIVES = tuple(_ADJECTIVES.split())
NOUNS = tuple(_NOUNS.split())
FIRST_NAMES = tuple(_FIRST_NAMES.split())
LAST_NAMES = tuple(_LAST_NAMES.split())
