"""The API's document as a judge: an answer that it does not allow fails the test that got it."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema_rs
import msgspec
from starlette.routing import compile_path

from otel_voice.calls import Schema


class Contract:
    def __init__(self, document: Schema) -> None:
        self.document = document
        # A path of its own goes before a pattern that it matches, too.
        self._paths = [
            (compile_path(path)[0], path) for path in sorted(document["paths"], key=lambda path: "{" in path)
        ]
        self._validators: dict[str, jsonschema_rs.Validator] = {}

    def answer(self, path: str, method: str, status: int) -> Schema | None:
        """What is said of such an answer; None where the document knows no such call. Fails where it is not said."""
        method = "get" if method == "HEAD" else method.lower()
        found = next((known for pattern, known in self._paths if pattern.match(path)), None)
        operation = None if found is None else self.document["paths"][found].get(method)
        if operation is None:
            return None
        answers: Schema = operation["responses"]
        assert str(status) in answers, f"{method} {path} answers {status}, which is not documented"
        return self._resolved(answers[str(status)])

    def check(self, response: httpx.Response) -> None:
        """Of JSON the body, too, which must have been read."""
        request = response.request
        said = self.answer(request.url.path, request.method, response.status_code)
        if said is None or request.method == "HEAD":
            return
        media, content = response.headers.get("content-type", "").partition(";")[0], said.get("content", {})
        assert media in content or not (media or content), f"{request.url.path} answers with {media or 'nothing'}"
        for name, header in said["headers"].items():
            assert name in response.headers or not self._resolved(header).get("required"), f"{name} is missing"
        if media == "application/json":
            self.validate(content[media]["schema"], msgspec.json.decode(response.content))

    def validate(self, schema: Schema, value: Any) -> None:
        """Raises jsonschema_rs.ValidationError."""
        key = str(schema)
        if key not in self._validators:
            whole = {**schema, "components": self.document["components"]}
            self._validators[key] = jsonschema_rs.validator_for(whole)
        self._validators[key].validate(value)

    def _resolved(self, said: Schema) -> Schema:
        if "$ref" not in said:
            return said
        found: Any = self.document
        for name in said["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return dict(found)
