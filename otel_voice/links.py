"""Links: where the backends show a trace."""

from __future__ import annotations

from typing import NamedTuple


class Links(NamedTuple):
    """The backends' addresses, as the settings have them; None where there is none."""

    jaeger: str | None = None
    langfuse: str | None = None

    def to(self, trace_id: str) -> dict[str, str | None]:
        return {
            "jaeger": self.jaeger and f"{self.jaeger}/trace/{trace_id}",
            "langfuse": self.langfuse and f"{self.langfuse}/traces/{trace_id}",
        }
