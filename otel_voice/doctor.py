"""Doctor: one look at everything between here and the backend. Each finding says ok, or how to mend it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import structs

from otel_voice import fields
from otel_voice import semconv as s
from otel_voice.edge import TIME_HEADER
from otel_voice.findings import Finding, NoAnswer, get, look, mend, ok
from otel_voice.probe import Heard, Limits, backends, clock_of, langfuse_export, next_hop
from otel_voice.settings import BadSetting, Settings, data_dir_option, secrets_in
from otel_voice.store import FILE, Damaged, Locked, OtherSchema, Reader, Unavailable, lock

LITTLE_DISK, ENOUGH_DISK = 64 * 2**20, 2**30
USUAL = Limits()
# Of the resource: the first that is there counts for Langfuse.
ENVIRONMENTS = (s.ENVIRONMENT, "deployment.environment.name", "deployment.environment")


def exit_code(findings: Iterable[Finding]) -> int:
    return int(any(finding.state == "mend" for finding in findings))


def free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


def silent(_: str) -> None:
    """For whoever does not want to hear what is waited for."""


async def examine(
    settings: Settings,
    env: Mapping[str, str],
    limits: Limits = USUAL,
    waiting: Callable[[str], None] = silent,
    clock: Callable[[], float] = time.time,
    free: Callable[[Path], int] = free_bytes,
) -> AsyncIterator[Finding]:
    """Looks once, from here to the backend, and never fails. `waiting` hears what may take a while. No secret is in a
    finding, whoever repeats it."""
    secrets = _secrets(settings, env)
    async for finding in _findings(settings, env, limits, waiting, Heard(clock), free):
        text = finding.text
        for secret in secrets:
            text = text.replace(secret, "[secret]")
        yield structs.replace(finding, text=text)


async def _findings(
    settings: Settings,
    env: Mapping[str, str],
    limits: Limits,
    waiting: Callable[[str], None],
    heard: Heard,
    free: Callable[[Path], int],
) -> AsyncIterator[Finding]:
    yield _settings(settings)
    if (resource := _resource(settings, env)) is not None:
        yield resource
    waiting("reading the store")
    option = data_dir_option(settings, env)
    for finding in _store(settings.data_dir, option):
        yield finding
    yield _disk(settings, free)
    waiting("asking the receiver")
    yield await _receiver(settings, option, limits.answer_s)
    if settings.public_url is not None:
        waiting("asking by the public address")
        yield await _public(settings.public_url, limits.answer_s)
    waiting("sending a probe span")
    trace_id = uuid.uuid4().hex
    taken, finding = await next_hop(settings, trace_id, heard, limits.answer_s)
    yield finding
    async for finding in backends(env, trace_id if taken else None, limits, waiting, heard):
        yield finding
    yield clock_of(heard)


def _secrets(settings: Settings, env: Mapping[str, str]) -> list[str]:
    values = [env.get(name, "") for name in ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY", "OTEL_VOICE_API_KEY")]
    hops = [settings.export]
    with contextlib.suppress(BadSetting):
        hops.append(langfuse_export(env))
    values += [value for hop in hops if hop is not None for value in hop.headers.values()]
    return secrets_in(values)


# Here


def _settings(settings: Settings) -> Finding:
    if settings.export is not None:
        where = f"by this environment spans go to {settings.export.url}"
    elif settings.export_nothing:
        where = "spans go nowhere, as OTEL_TRACES_EXPORTER says"
    else:
        where = "by this environment spans wait in the store"
    return ok("settings", f"the store is in {settings.data_dir}, the receiver on {_address(settings)}; {where}")


def _resource(settings: Settings, env: Mapping[str, str]) -> Finding | None:
    """Where there is a Langfuse: any other backend takes any environment."""
    named = [(name, settings.resource[name]) for name in ENVIRONMENTS if settings.resource.get(name)]
    if not named or not (env.get("LANGFUSE_PUBLIC_KEY") or settings.langfuse_url):
        return None
    name, value = named[0]
    if re.search(fields.ENVIRONMENT, value):
        return None
    wants = "up to 40 of a-z, 0-9, - and _, and not to begin with langfuse"
    return look(
        "resource", f"Langfuse files calls under `default`, since {name}={value} is none that it takes: {wants}"
    )


def _address(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _store(directory: Path, option: str) -> Iterator[Finding]:
    path = directory / FILE
    if (store := _unreadable(path, option)) is None:
        try:
            with contextlib.closing(Reader(directory)) as reader:
                store = _checked(reader, path)
                if store.state != "mend":
                    yield store
                    yield _ledger(reader, path, option)
                    return
        except OtherSchema as error:
            store = mend("store", str(error))
        except FileNotFoundError:  # a start was killed before it had made anything
            store = _no_store(path, option)
    yield store
    yield look("ledger", "not asked: there is no store to read it from")


def _unreadable(path: Path, option: str) -> Finding | None:
    try:
        path.stat()
    except FileNotFoundError:
        return _no_store(path, option)
    except OSError as error:
        return mend("store", f"{path} cannot be read ({error.strerror}): choose another --data-dir")
    if path.is_file() and os.access(path, os.R_OK):
        return None
    return mend("store", f"{path} cannot be read by this user: let the receiver's own user ask")


def _no_store(path: Path, option: str) -> Finding:
    return look("store", f"there is no store in {path.parent} yet: `otel-voice serve{option}` makes one")


def _checked(reader: Reader, path: Path) -> Finding:
    try:
        found = reader.check()
    except Damaged as damaged:
        found = str(damaged), False
    except Unavailable as error:
        return mend("store", f"{path} cannot be read now ({error}): ask again, and look at the disk")
    if found is not None:
        wrong, is_words = found
        if is_words:
            anew = "the receiver begins it anew when it meets that, and keeps all else"
            return look("store", f"the index of words in {path} is damaged ({wrong}): {anew}")
        keep = "the receiver sets it aside when it meets the damage, or at its next start"
        return mend("store", f"{path} cannot be used ({wrong}): {keep}")
    if not all(os.access(each, os.W_OK) for each in (path.parent, path)):
        return mend("store", f"{path} cannot be written by this user: let the receiver's own user ask, or see to that")
    if reader.is_older:
        return look("store", f"{path} reads well; an earlier version wrote it, and the next start carries it over")
    if aside := _set_aside(path):
        recover = f"what is left in {aside[0].name} can be read with sqlite3; move it away when it is of no more use"
        return look("store", f"{path} reads well, and a damaged store lies beside it: {recover}")
    return ok("store", f"{path} reads well from end to end and can be written")


def _set_aside(path: Path) -> list[Path]:
    found = path.parent.glob(f"{path.name}.damaged-*")
    return sorted(aside for aside in found if not aside.name.endswith(("-wal", "-shm")))


def _ledger(reader: Reader, path: Path, option: str) -> Finding:
    try:
        said, counted = reader.ledger(), reader.counted_ledger()
        # A receiver at work moves the numbers between two readings.
        still = reader.ledger() == said
    except Unavailable as error:
        return mend("ledger", f"{path} cannot be read now ({error}): ask again, and look at the disk")
    if not counted.adds_up or (still and said != counted):
        report = "something was lost or counted twice; keep a copy of the store and report it"
        return mend("ledger", f"by its counters: {said}; by its rows: {counted}: {report}")
    if counted.dead:
        see = f"see `otel-voice dead-letters{option}`"
        return look("ledger", f"{counted}; the next hop refused the dead letters: {see}")
    if counted.pending:
        hop = "what is pending goes out when the receiver's own environment names a next hop, and that takes it"
        return look("ledger", f"{counted}; {hop}")
    return ok("ledger", str(counted))


def _disk(settings: Settings, free: Callable[[Path], int]) -> Finding:
    directory, most = settings.data_dir.absolute(), settings.max_store_mib * 2**20
    existing = next(path for path in (directory, *directory.parents) if os.path.exists(path))
    try:
        left, used = free(existing), _size(directory)
    except OSError as error:
        return mend("disk", f"{existing} does not say what is free ({error.strerror}): look at the disk")
    text = f"{left >> 20} MiB free; the store takes {used >> 20} of at most {settings.max_store_mib} MiB"
    if left < LITTLE_DISK:
        return mend("disk", f"{text}: make room, or soon nothing can be accepted")
    if left < max(ENOUGH_DISK, most - used):
        return look("disk", f"{text}: make room, or set OTEL_VOICE_MAX_STORE_MIB to what there is")
    if used > most:
        return look("disk", f"{text}: where all of it is in use, new work is refused; raise OTEL_VOICE_MAX_STORE_MIB")
    return ok("disk", text)


def _size(directory: Path) -> int:
    files = (directory / f"{FILE}{suffix}" for suffix in ("", "-wal"))
    return sum(file.stat().st_size for file in files if os.path.exists(file))


# The receiver


async def _receiver(settings: Settings, option: str, answer_s: float) -> Finding:
    directory, url, works = settings.data_dir, _address(settings), _is_worked_on(settings.data_dir)
    try:
        response = await get(f"{url}/readyz", answer_s)
    except NoAnswer as error:
        if works:
            return look("receiver", f"one works on {directory}, but not on {url} ({error}): it may have another --port")
        return look("receiver", f"none works on {directory}: `otel-voice serve{option}` starts one")
    if TIME_HEADER not in response.headers:
        return look("receiver", f"another program answers on {url}: choose another --port")
    if not works:
        return look("receiver", f"the one on {url} does not work on {directory}: it may have another --data-dir")
    if not response.is_success:
        return mend("receiver", f"{url} is not ready: {response.status_code} {response.text[:200].strip()}")
    return ok("receiver", f"{url} is ready")


async def _public(url: str, answer_s: float) -> Finding:
    """Whether it leads to a receiver, whose end of a session answers 405. Pages may go another way there."""
    try:
        response = await get(f"{url}/v1/sessions/doctor/end", answer_s)
    except NoAnswer as error:
        return look("public", f"pages post to {url}, which cannot be reached from here ({error}): can they?")
    if TIME_HEADER not in response.headers:
        return look("public", f"pages post to {url}, where from here no receiver answers, but {response.status_code}")
    if response.status_code == 404:
        return mend("public", f"pages post to {url}, where a receiver says 404: the proxy has to take off its own path")
    return ok("public", f"pages post to {url}, where a receiver answers")


def _is_worked_on(directory: Path) -> bool:
    try:
        # Who made the store has made the lock: asking leaves nothing behind.
        if (directory / FILE).is_file():
            lock(directory).close()
    except Locked:
        return True
    except OSError:  # another user's: the finding about the store says so
        return False
    return False
