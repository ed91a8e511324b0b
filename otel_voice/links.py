"""Links: where the backends show a trace."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct


class BackendLinks(Struct):
    """Where a backend shows the trace; null where the receiver knows no address of it."""

    jaeger: str | None = None
    langfuse: str | None = None


class Links(NamedTuple):
    """The backends' addresses, as the settings have them; None where there is none."""

    jaeger: str | None = None
    langfuse: str | None = None

    def to(self, trace_id: str) -> BackendLinks:
        return BackendLinks(
            self.jaeger and f"{self.jaeger}/trace/{trace_id}",
            self.langfuse and f"{self.langfuse}/traces/{trace_id}",
        )
