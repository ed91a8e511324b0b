"""What the end-to-end tests stand on: Langfuse's refusals are Langfuse's, and waiting ends."""

import httpx
import pytest

from tests.real import LangfuseServer, wait_for

PATH = "/api/public/otel/v1/traces"
KEYS = ("pk-lf-test", "sk-lf-test")


@pytest.mark.parametrize(
    ("path", "keys", "version", "body", "status"),
    [
        (PATH, KEYS, "4", b"", 200),
        (PATH, ("pk-lf-test", "wrong"), "4", b"", 401),
        (PATH, KEYS, "5", b"", 400),
        (PATH, KEYS, "4", b"\xff\xff", 400),
        ("/v1/traces", KEYS, "4", b"", 404),
    ],
)
def test_the_langfuse_server_answers_as_langfuse_does(
    langfuse_server: LangfuseServer, path: str, keys: tuple[str, str], version: str, body: bytes, status: int
) -> None:
    headers = {"x-langfuse-ingestion-version": version}
    assert httpx.post(langfuse_server.base_url + path, auth=keys, headers=headers, content=body).status_code == status


def test_the_langfuse_server_answers_what_it_is_told_and_then_judges_again(langfuse_server: LangfuseServer) -> None:
    langfuse_server.answer_next(500, 503)
    url, headers = langfuse_server.base_url + PATH, {"x-langfuse-ingestion-version": "4"}
    answers = [httpx.post(url, auth=KEYS, headers=headers).status_code for _ in range(3)]
    assert answers == [500, 503, 200]


def test_waiting_in_vain_fails_with_a_sentence() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.05 s in vain for godot"):
        wait_for(lambda: None, 0.05, "godot")
