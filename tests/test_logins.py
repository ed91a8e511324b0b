"""A viewer's cookie: got for the viewer token, good for reading calls, for nothing else, and from nowhere else."""

from __future__ import annotations

import string
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import jwt
import pytest

from otel_voice.edge import COOKIE, LOGINS
from otel_voice.logins import COOKIE_S
from otel_voice.tokens import Tokens, ViewerTokens
from tests.running import API_KEY, SESSION, TOKEN_KEY, App, mark, running

pytestmark = pytest.mark.anyio
VIEWER = "a-viewer-token-for-tests"
READS = [
    "/v1/sessions",
    "/v1/sessions/plots",
    f"/v1/sessions/{SESSION}",
    f"/v1/sessions/{SESSION}/spans",
    f"/v1/sessions/{SESSION}/events",
    f"/v1/sessions/{SESSION}/otlp",
]
LINE = b'{"type":"mark","name":"a","ts":1790000000000}'


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def app(tmp_path: Path, anyio_backend: str) -> AsyncIterator[App]:
    async with running(tmp_path, api_key=API_KEY, viewer_token=VIEWER) as app:
        await app.post(mark())
        yield app


async def login(app: App, token: str = VIEWER, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await app.client.post("/v1/viewer/login", json={"token": token}, headers=named)


async def statuses(app: App, **headers: str) -> set[int]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    gets = [(await app.client.get(path, headers=named)).status_code for path in READS]
    return {*gets, (await app.client.post("/v1/view", content=LINE, headers=named)).status_code}


async def test_a_viewer_reads_what_he_could_not_before_and_can_not_after(app: App) -> None:
    assert await statuses(app) == {401}
    assert (await login(app)).status_code == 204
    assert await statuses(app) == {200}
    assert (await app.client.post("/v1/viewer/logout")).status_code == 204
    assert await statuses(app) == {401}


async def test_after_a_logout_a_copy_of_the_cookie_opens_nothing_and_others_still_do(app: App) -> None:
    await login(app)
    copied = app.client.cookies[COOKIE]
    app.client.cookies.clear()
    await login(app)
    other = app.client.cookies[COOKIE]
    app.client.cookies.clear()
    app.client.cookies.set(COOKIE, copied)
    await app.client.post("/v1/viewer/logout")
    # The last character of a signature has two bits that say nothing.
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    same = [copied[:-1] + letters[letters.index(copied[-1]) // 4 * 4 + n] for n in range(4)]
    for cookie, status in ((other, 200), *((each, 401) for each in same)):
        app.client.cookies.clear()
        app.client.cookies.set(COOKIE, cookie)
        assert await statuses(app) == {status}


async def test_what_is_read_of_conversations_is_kept_in_no_cache(app: App) -> None:
    await login(app)
    answers = [await app.client.get(path) for path in READS]
    answers += [await app.client.post("/v1/view", content=LINE)]
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}


async def test_a_viewer_makes_ends_and_erases_nothing(app: App) -> None:
    await login(app)
    url = f"/v1/sessions/{SESSION}"
    answers = [
        await app.client.post("/v1/sessions", json={}),
        await app.client.delete(url),
        await app.client.post(f"{url}/end"),
        await app.client.post(f"{url}/events", json={"events": [mark()]}),
    ]
    assert [answer.status_code for answer in answers] == [401] * 4


@pytest.mark.parametrize(
    ("base", "headers", "secure"),
    [
        ("http://127.0.0.1:8770", {}, False),
        ("http://localhost:8770", {}, False),
        ("https://localhost", {}, True),
        ("http://voice.example.com", {}, True),
        ("https://voice.example.com", {"origin": "https://voice.example.com"}, True),
    ],
)
async def test_the_cookie_is_for_this_site_alone_and_out_of_a_scripts_reach(
    app: App, base: str, headers: dict[str, str], secure: bool
) -> None:
    answer = await app.client.post(f"{base}/v1/viewer/login", json={"token": VIEWER}, headers=headers)
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "Path=/", f"Max-Age={COOKIE_S}"} <= set(cookie.split("; "))
    assert "samesite=strict" in cookie.lower() and "domain" not in cookie.lower()
    assert ("Secure" in cookie.split("; ")) is secure
    assert VIEWER not in cookie


async def test_a_wrong_token_opens_nothing_and_few_can_be_tried(app: App) -> None:
    for _ in range(LOGINS):
        answer = await login(app, "another-viewer-token")
        assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    answer = await login(app)
    assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (429, True)


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"{", 400), (b"{}", 422), (b'{"token": 1}', 422), (b"[]", 422)]
)
async def test_a_login_that_is_none_is_refused(app: App, body: bytes, status: int) -> None:
    answer = await app.client.post("/v1/viewer/login", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status


FOREIGN = [
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
]
OWN = [{"sec_fetch_site": "same-origin"}, {"sec_fetch_site": "none"}, {"origin": "http://127.0.0.1:8770"}]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_a_page_of_another_origin_makes_no_use_of_the_cookie(app: App, headers: dict[str, str]) -> None:
    assert (await login(app, **headers)).status_code == 403
    await login(app)
    assert await statuses(app, **headers) == {403}


@pytest.mark.parametrize("headers", OWN, ids=str)
async def test_the_receivers_own_pages_do(app: App, headers: dict[str, str]) -> None:
    assert (await login(app, **headers)).status_code == 204
    assert await statuses(app, **headers) == {200}


async def test_the_cookie_is_over_after_half_a_day(app: App) -> None:
    await login(app)
    app.clock.now += COOKIE_S - 1
    assert await statuses(app) == {200}
    app.clock.now += 2
    assert await statuses(app) == {401}


@pytest.mark.parametrize(
    "forged",
    [
        "nonsense",
        VIEWER,
        Tokens(TOKEN_KEY.encode()).mint(SESSION, 2**31),
        ViewerTokens("another-viewer-token", TOKEN_KEY.encode()).mint(2**31),
        ViewerTokens(VIEWER, b"another-signing-key-of-some-length").mint(2**31),
        jwt.encode({"aud": ViewerTokens.AUDIENCE, "exp": 2**31, "jti": "a"}, TOKEN_KEY, "HS256"),
        jwt.encode({"aud": ViewerTokens.AUDIENCE, "exp": 2**31, "jti": "a"}, None, "none"),
    ],
    ids=["nonsense", "the secret", "a session's", "another secret's", "another key's", "the bare key's", "unsigned"],
)
async def test_no_other_cookie_opens_anything(app: App, forged: str) -> None:
    app.client.cookies.set(COOKIE, forged)
    assert await statuses(app) == {401}


async def test_a_viewers_cookie_is_no_sessions_token(app: App) -> None:
    await login(app)
    found = app.client.cookies[COOKIE]
    app.client.cookies.clear()
    assert await statuses(app, authorization=f"Bearer {found}") == {401}
    assert (await app.post(mark(), token=found)).status_code == 401


async def test_after_a_change_of_keys_a_cookie_of_the_older_one_is_good(tmp_path: Path) -> None:
    new = "a-newer-signing-key-that-only-tests-know"
    async with running(tmp_path, api_key=API_KEY, viewer_token=VIEWER, token_key=f"{new},{TOKEN_KEY}") as app:
        await app.post(mark())
        app.client.cookies.set(COOKIE, ViewerTokens(VIEWER, TOKEN_KEY.encode()).mint(app.clock.now + 60))
        assert await statuses(app) == {200}


async def test_where_there_is_no_viewer_token_nobody_logs_in_and_the_key_opens(tmp_path: Path) -> None:
    async with running(tmp_path, api_key=API_KEY) as app:
        await app.post(mark())
        assert (await login(app)).status_code == 404
        assert await statuses(app) == {401}
        assert await statuses(app, authorization=f"Bearer {API_KEY}") == {200}


async def test_on_this_machine_without_a_key_nobody_has_to_log_in(tmp_path: Path) -> None:
    async with running(tmp_path, viewer_token=VIEWER) as app:
        await app.post(mark())
        assert await statuses(app) == {200}


async def test_behind_a_proxy_with_tls_the_cookie_is_for_tls_only(app: App) -> None:
    """One that speaks plainly to us, by our own address."""
    page = {"origin": "https://voice.example.com", "sec-fetch-site": "same-origin"}
    answer = await app.client.post("/v1/viewer/login", json={"token": VIEWER}, headers=page)
    assert answer.status_code == 204
    assert "; secure" in answer.headers["set-cookie"].lower()
