"""Bodies: raw JSON ahead of the decoder, which gives up on all of it for one part, and its errors as sentences."""

from __future__ import annotations

import re
from itertools import islice
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

T = TypeVar("T")

# No tool's arguments nest like this; what does could not be copied or encoded on a stack of ordinary depth.
DEEPEST = 64
# What a body may hold uncompressed: whatever a span takes over of one event, it stays under a gRPC receiver's 4 MiB.
EVENT_BYTES = 2**20


class Refused(ValueError):
    """Input that cannot be taken; the message is one sentence that names the field."""


class NotJSON(Refused):
    """The body is no JSON at all."""


class TooDeep(NotJSON):
    """The body nests deeper than the decoder goes."""


class TooMany(Refused):
    """More events than a batch may have."""


class _Anything(Struct):
    """For whether it is JSON."""


# Half of a surrogate pair, escaped; whole pairs and other escapes are matched to be passed over.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)
_TOKEN = re.compile(rb'"token"\s*:\s*"((?:[^"\\]|\\.){1,4096}+)"', re.DOTALL)
# A string ends at the latest where the text does, so that a scan is linear whatever it is given.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_STRING_OR_BRACKET = re.compile(_STRING.pattern + rb"|[\[\]{}]", re.DOTALL)
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# Brackets that are looked at one by one, at most: some 30 ms.
_BRACKETS = 100_000
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]*)`")
_FIELD = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<field>.*)`)?$", re.DOTALL)


def sentence(error: Exception, whole: str) -> str:
    """The decoder's message as one sentence that begins with the field, or with what `whole` calls all of it."""
    if isinstance(error, RecursionError):
        return f"{whole}: the JSON is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"{whole}: it is not UTF-8"
    found = _FIELD.match(str(error))
    what, field = (found["what"], found["field"] or "") if found else (str(error), "")
    if missing := _MISSING.match(what):
        return f"{field}{'.' if field else ''}{missing['field']}: it is missing"
    if what[1:2].islower():
        what = what[:1].lower() + what[1:]
    return f"{field or whole}: {what}"


def decode(body: bytes, type_: type[T]) -> T:
    """A request's body as `type_`. Raises NotJSON, or Refused with a sentence that names the field."""
    try:
        return msgspec.json.decode(_mended(body), type=type_)
    except msgspec.ValidationError as error:
        raise Refused(sentence(error, "body")) from None
    except RecursionError as error:
        raise TooDeep(sentence(error, "body")) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJSON(sentence(error, "body")) from None


def tokens_in(body: bytes) -> list[str]:
    """What may be a batch's token, found without decoding it: whoever has none costs little."""
    return [found[1].decode(errors="replace") for found in islice(_TOKEN.finditer(body), 16)]


def check_json(body: bytes) -> None:
    """Raises NotJSON."""
    try:
        msgspec.json.decode(body, type=_Anything)
    except (msgspec.ValidationError, RecursionError):
        return
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJSON(sentence(error, "body")) from None


def _mended(body: bytes) -> bytes:
    """A page that cuts text between the halves of an emoji sends half a surrogate pair, escaped. It stands for no
    character, and must not cost the whole batch."""
    if b"\\ud" not in body and b"\\uD" not in body:
        return body
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], body)


def _is_deep(body: bytes) -> bool:
    if body.count(b"[") + body.count(b"{") <= DEEPEST:
        return False
    brackets = _STRING.sub(b"", body).translate(_TO_SQUARE, _NO_BRACKETS)
    for _ in range(DEEPEST):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def cut_deep(body: bytes) -> bytes:
    """An event that nests too deeply is refused, and must not take its neighbours with it: the decoder would give up
    on the whole body. What lies far below the limit is left out, so that it is still too deep."""
    if len(body.translate(None, _NO_BRACKETS)) > _BRACKETS:
        return body
    limit, kept, depth, start = 2 * DEEPEST, list[bytes](), 0, 0
    for found in _STRING_OR_BRACKET.finditer(body):
        if found[0] in (b"[", b"{"):
            depth += 1
            if depth == limit + 1:
                kept.append(body[start : found.start()])
        elif found[0] in (b"]", b"}"):
            depth -= 1
            if depth == limit:
                kept.append(b"0")
                start = found.end()
    return b"".join([*kept, body[start:]]) if depth == 0 else body


def check(raw: Raw | bytes, is_ascii: bool = False) -> None:
    """What a decoder passes over and a log cannot use. Raises Refused."""
    body = bytes(raw)
    if len(body) > EVENT_BYTES:
        raise Refused(f"event: at most {EVENT_BYTES} bytes")
    if not is_ascii:
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise Refused(sentence(error, "event")) from None
    if _is_deep(body):
        raise Refused(f"event: it nests deeper than {DEEPEST} levels")
