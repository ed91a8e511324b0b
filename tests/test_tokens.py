"""Tokens and their key."""

from __future__ import annotations

import stat
from pathlib import Path

import jwt
import pytest

from otel_voice.tokens import FILE, Invalid, Tokens, kid_of, load_key

KEY = b"a-signing-key-that-only-tests-know"
NEW_KEY = b"the-key-that-comes-after-the-old-one"


def test_a_token_is_for_the_session_it_was_made_for() -> None:
    tokens = Tokens(KEY)
    assert tokens.session_of(tokens.mint("call-17", 1_000), 999) == "call-17"


def test_a_token_is_over_when_its_time_has_come_though_it_was_good_before() -> None:
    tokens = Tokens(KEY)
    token = tokens.mint("call-17", 1_000)
    tokens.session_of(token, 999)
    with pytest.raises(Invalid, match="expired"):
        tokens.session_of(token, 1_000)


def test_a_token_of_another_key_is_none_of_ours() -> None:
    token = Tokens(b"another key, which is as long as it").mint("call-17", 1_000)
    with pytest.raises(Invalid, match="not made by this receiver"):
        Tokens(KEY).session_of(token, 0)


def test_a_token_names_its_key_without_telling_it() -> None:
    header = jwt.get_unverified_header(Tokens(KEY).mint("call-17", 1_000))
    assert len(header["kid"]) == 8
    assert header["kid"] != jwt.get_unverified_header(Tokens(KEY[::-1]).mint("call-17", 1_000))["kid"]


def test_a_key_can_be_changed_while_tokens_of_the_old_one_are_about() -> None:
    before, after = Tokens(KEY), Tokens(NEW_KEY, KEY)
    assert after.session_of(before.mint("call-17", 1_000), 999) == "call-17"
    token = after.mint("call-18", 1_000)
    assert jwt.get_unverified_header(token)["kid"] == kid_of(NEW_KEY)
    assert after.session_of(token, 999) == "call-18"
    for tokens, of_another in ((before, token), (Tokens(NEW_KEY), before.mint("call-17", 1_000))):
        with pytest.raises(Invalid, match="not made by this receiver"):
            tokens.session_of(of_another, 999)


@pytest.mark.parametrize("kid", [None, "01234567", kid_of(NEW_KEY)])
def test_a_token_is_tried_against_the_key_it_names_and_no_other(kid: str | None) -> None:
    token = jwt.encode({"sub": "call-17", "exp": 1_000}, KEY, "HS256", headers={"kid": kid} if kid else None)
    with pytest.raises(Invalid, match="not made by this receiver"):
        Tokens(KEY, NEW_KEY).session_of(token, 999)


def test_no_token_is_remembered_that_was_not_good() -> None:
    tokens = Tokens(KEY)
    for n in range(3):
        with pytest.raises(Invalid):
            tokens.session_of(f"bad.{n}.x", 0)
    assert not tokens._verified


def test_the_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    assert len(key) == 64
    assert load_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_two_receivers_have_two_keys(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert load_key(tmp_path / "a") != load_key(tmp_path / "b")


@pytest.mark.parametrize("left", [b"", b"short"])
def test_a_key_that_could_be_guessed_is_replaced(tmp_path: Path, left: bytes) -> None:
    (tmp_path / FILE).write_bytes(left)
    (tmp_path / "token.new").write_bytes(b"of a start that was killed")
    assert len(load_key(tmp_path)) == 64
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_key_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    (tmp_path / FILE).chmod(0o644)
    assert load_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
