"""The text of a key: what is mistyped is refused by its own checksum."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from analytics_dagster.tenancy.key_text import PREFIX, check_secret, key_id_of, new_secret

SECRETS = st.builds(new_secret)


def test_a_key_is_recognizable_and_each_is_another() -> None:
    keys = {new_secret() for _ in range(1_000)}
    assert len(keys) == 1_000
    for key in keys:
        assert key.startswith(PREFIX)
        assert key[len(PREFIX) :].isalnum()
        assert len(key) == len(PREFIX) + 43 + 6
        assert check_secret(key)


@given(SECRETS, st.data())
def test_one_mistyped_character_is_always_refused(key: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(key) - 1))
    other = data.draw(st.sampled_from(string.printable).filter(lambda character: character != key[place]))
    assert not check_secret(key[:place] + other + key[place + 1 :])


@given(SECRETS, st.data())
def test_two_swapped_characters_are_always_refused(key: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(key) - 2))
    swapped = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assert check_secret(swapped) == (swapped == key)


@given(SECRETS, st.integers(0, 51))
def test_a_cut_key_is_refused(key: str, length: int) -> None:
    assert not check_secret(key[:length])


@given(st.text())
def test_any_other_text_is_refused_without_an_error(text: str) -> None:
    assert not check_secret(text)
    assert not check_secret(PREFIX + text)


def test_what_lists_show_of_a_key_leaves_over_200_bits_secret() -> None:
    key = new_secret()
    assert key.startswith(key_id_of(key))
    assert (43 - (len(key_id_of(key)) - len(PREFIX))) * 5.95 > 200
