"""The text of an API key: `ak_`, 43 characters of 256 random bits in base 62, and 6 of their CRC-32.

The prefix lets scanners of repositories find a key that leaked; the checksum refuses every mistyped character before any look-up.
The checksum is no protection: the 256 bits are.
"""

from __future__ import annotations

import re
import secrets
import zlib

PREFIX = "ak_"
RANDOM_BITS = 256
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY = 43  # 62**43 > 2**256
_CHECKSUM = 6  # 62**6 > 2**32
_ID = len(PREFIX) + 8

_FORM = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_BODY + _CHECKSUM}}}")


def new_secret() -> str:
    """A new key's text."""
    body = PREFIX + _base62(secrets.randbits(RANDOM_BITS), _BODY)
    return body + _checksum(body)


def check_secret(text: str) -> bool:
    """Whether `text` has the form of a key and its checksum fits."""
    return _FORM.fullmatch(text) is not None and _checksum(text[:-_CHECKSUM]) == text[-_CHECKSUM:]


def key_id_of(secret: str) -> str:
    """The public name of a key: its first characters, `ak_` and eight more. What stays secret has more than 200 bits."""
    return secret[:_ID]


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
