"""Session tokens: signed, bound to one session, with an expiry. The key lies outside the database. And what a viewer's
cookie holds, signed apart from them."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path

import jwt

FILE = "token.key"
ALGORITHM = "HS256"
SHORTEST = 32  # bytes, as HS256 asks for
_CACHED = 10_000


class Invalid(Exception):
    """The token is not one of ours, or it is over; the message is one sentence."""


def load_key(directory: Path) -> bytes:
    """The signing key of a data directory, made at the first start, readable by its owner only."""
    path = directory / FILE
    if not path.exists() or path.stat().st_size < SHORTEST:
        _write_key(path)
    path.chmod(0o600)
    return path.read_bytes()


def _write_key(path: Path) -> None:
    """All of it or nothing: a start that is killed leaves no key that could be guessed."""
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_hex(32).encode())
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def kid_of(key: bytes) -> str:
    """Names the key without telling it."""
    return sha256(b"otel_voice token key " + key).hexdigest()[:8]


class Tokens:
    """`key` signs; tokens of the `older` ones are good until they expire or their key is taken away."""

    def __init__(self, key: bytes, *older: bytes) -> None:
        self._key, self._kid = key, kid_of(key)
        self._keys = {kid_of(each): each for each in (key, *older)}
        self._verified: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def mint(self, session_id: str, expires_at: float) -> str:
        """`expires_at` is in seconds since the epoch."""
        claims = {"sub": session_id, "exp": int(expires_at)}
        return jwt.encode(claims, self._key, ALGORITHM, headers={"kid": self._kid})

    def session_of(self, token: str, now: float) -> str:
        """The session a token was made for; `now` in seconds. Raises Invalid."""
        known = self._verified.get(token)
        if known is None:
            known = self._verified[token] = self._verify(token)
            if len(self._verified) > _CACHED:
                self._verified.popitem(last=False)
        session_id, expires_at = known
        if now >= expires_at:
            raise Invalid("token: it has expired; ask for a new one with POST /v1/sessions")
        return session_id

    def _verify(self, token: str) -> tuple[str, float]:
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(token, key, [ALGORITHM], options={"require": ["sub", "exp"], "verify_exp": False})
            return str(claims["sub"]), int(claims["exp"])
        # An app that has the key may sign tokens itself, with claims of any type.
        except (jwt.InvalidTokenError, KeyError, ValueError, TypeError, OverflowError):
            raise Invalid("token: it was not made by this receiver") from None


class ViewerTokens:
    """What a viewer's cookie holds: it opens what viewers may read until it expires, and tells nothing of the
    operator's `secret`. With another key or another secret it is void."""

    AUDIENCE = "otel_voice viewer"

    def __init__(self, secret: str, key: bytes, *older: bytes) -> None:
        self._secret = secret.encode()
        self._keys = [hmac.digest(each, b"otel_voice viewer " + self._secret, "sha256") for each in (key, *older)]
        # By id, for a token may be written in more than one way; until when it would have been good.
        self._ended: dict[str, float] = {}

    def is_secret(self, said: str) -> bool:
        return hmac.compare_digest(said.encode("utf-8", "replace"), self._secret)

    def mint(self, expires_at: float) -> str:
        """`expires_at` is in seconds since the epoch."""
        claims = {"aud": self.AUDIENCE, "exp": int(expires_at), "jti": secrets.token_hex(16)}
        return jwt.encode(claims, self._keys[0], ALGORITHM)

    def is_good(self, token: str, now: float) -> bool:
        id_, expires_at = self._read(token)
        return expires_at > now and id_ not in self._ended

    def end(self, token: str, now: float) -> None:
        """Void from now on, whoever has a copy."""
        self._ended = {id_: expires_at for id_, expires_at in self._ended.items() if expires_at > now}
        id_, expires_at = self._read(token)
        if expires_at > now:
            self._ended[id_] = expires_at

    def _read(self, token: str) -> tuple[str, float]:
        """Its id and when it expires: long ago, where it is none of ours."""
        options: jwt.types.Options = {"require": ["aud", "exp", "jti"], "verify_exp": False}
        for key in self._keys:
            with contextlib.suppress(jwt.InvalidTokenError, ValueError, TypeError, OverflowError):
                claims = jwt.decode(token, key, [ALGORITHM], options, audience=self.AUDIENCE)
                return str(claims["jti"]), int(claims["exp"])
        return "", 0.0
