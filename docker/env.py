"""Writes `.env` with fresh secrets for docker-compose.yml, and says what to do next: `make env`."""

import os
import re
import secrets
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

FILE = Path(".env")

TEXT = """\
# For docker-compose.yml, made by `make env`. The volumes are made with these values: keep the file as long as those.

# Your backend sends this as Bearer.
OTEL_VOICE_API_KEY=<secret>
# Opens http://127.0.0.1:8770 in a browser.
OTEL_VOICE_VIEWER_TOKEN=<secret>
# Where pages reach the receiver, as https://voice.example.com; empty for the address by which your backend asks
OTEL_VOICE_PUBLIC_URL=
# Origins of your pages, as https://app.example.com,https://www.example.com
OTEL_VOICE_ALLOWED_ORIGINS=
# Where the links to Langfuse go; empty for none.
OTEL_VOICE_LANGFUSE_URL=http://localhost:3000/project/otel-voice

# Langfuse's login, at http://localhost:3000, and the keys of its project.
LANGFUSE_USER_EMAIL=admin@example.com
LANGFUSE_USER_PASSWORD=<password>
LANGFUSE_PUBLIC_KEY=pk-lf-<uuid>
LANGFUSE_SECRET_KEY=sk-lf-<uuid>
# What its parts alone need to know.
LANGFUSE_NEXTAUTH_SECRET=<secret>
LANGFUSE_SALT=<secret>
LANGFUSE_ENCRYPTION_KEY=<secret>
LANGFUSE_POSTGRES_PASSWORD=<secret>
LANGFUSE_CLICKHOUSE_PASSWORD=<secret>
LANGFUSE_REDIS_PASSWORD=<secret>
LANGFUSE_MINIO_PASSWORD=<secret>
"""

FRESH: dict[str, Callable[[], str]] = {
    # 64 hex digits: what Langfuse encrypts by has to be that, and nothing in an address needs escaping.
    "<secret>": lambda: secrets.token_hex(32),
    # Langfuse wants letters, digits and something else.
    "<password>": lambda: f"Lf-{secrets.token_hex(12)}",
    "<uuid>": lambda: str(uuid.uuid4()),
}

NEXT = """\
.env is written, with fresh secrets that only you can read. Next:

  docker compose up -d                      receiver, collector and Jaeger
  docker compose --profile langfuse up -d   and Langfuse, which takes some minutes at its first start

  http://127.0.0.1:8770    the calls; asks for OTEL_VOICE_VIEWER_TOKEN
  http://127.0.0.1:16686   Jaeger
  http://localhost:3000    Langfuse; asks for LANGFUSE_USER_EMAIL and LANGFUSE_USER_PASSWORD

The values are in .env; your backend needs OTEL_VOICE_API_KEY from it."""


def main() -> int:
    try:
        file = os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(
            ".env is there already and stays as it is: the volumes were made with its passwords. "
            "To begin anew, remove the volumes (docker compose --profile langfuse down -v) and then .env.",
            file=sys.stderr,
        )
        return 1
    with open(file, "w") as env:
        env.write(re.sub("|".join(FRESH), lambda wanted: FRESH[wanted[0]](), TEXT))
    print(NEXT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
