"""`python -m benchmarks.http [--quick] [--only ROW ...] [--servers NAME ...]`: otel_voice beside a server that does
nothing and two that an engineer would write, under the same bytes.

The server has core 0 to itself; the load and the backend share core 1. CPU is counted until the last span is delivered.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.corpus import TOKEN_KEY, Corpus, make
from tests.real import Program, free_port

ROOT, SOURCE = Path(__file__).parent.parent, Path(__file__).parent / "load.c"
SERVER_CORE, LOAD_CORE = 0, 1
BASELINES = ("bare", "sdk", "langfuse")
OURS = {"otel_voice": "FULL", "otel_voice_normal": "NORMAL"}
SERVERS = (*BASELINES, *OURS)
DEADLINE_S = 90.0
# What nothing is heard of for so long will not come: a turn is held back for 12 s at most.
QUIET_S = 20.0
# The last answer of the backend is still to be read when its count is complete.
LAST_ANSWER_S = 0.2
TICKS = os.sysconf("SC_CLK_TCK")
ROUNDS = 5
CONNECTIONS = 64


@dataclass(frozen=True)
class Measured:
    """One run. `core_1` is the load's and the backend's share of theirs: near 1, they were the limit.

    `elsewhere` is how many cores went to others meanwhile: the kernel's own threads, and whatever else ran there.
    """

    server: str
    events: int
    rate: int
    events_per_s: float
    cpu_us: float
    spans: int
    missing: int
    answers: dict[str, int]
    broken: int
    latency_ms: dict[str, float]
    peak_mib: float
    core_1: float
    elsewhere: float
    delivered_after_s: float

    @property
    def wrong(self) -> list[str]:
        """What makes its figures worth less, in sentences."""
        others = {status: count for status, count in self.answers.items() if status != "204"}
        found = [f"{self.server}: {count} answers were {status}" for status, count in others.items()]
        if self.broken:
            found.append(f"{self.server}: {self.broken} requests got no answer")
        if self.missing:
            found.append(f"{self.server}: of {self.spans + self.missing} spans {self.missing} were missing")
        if self.core_1 > 0.95:
            found.append(f"{self.server}: the load and the backend took {self.core_1:.0%} of their core")
        if self.rate and self.events_per_s < 0.98 * self.rate:
            found.append(f"{self.server}: it did not keep up with {self.rate} a second")
        if self.elsewhere > 0.3:
            found.append(f"{self.server}: {self.elsewhere:.1f} cores went to others meanwhile")
        return found


@dataclass(frozen=True)
class Median:
    """Of a server's runs; the worst of them for what ought to be nothing."""

    events_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    peak_mib: float
    missing: int
    core_1: float
    elsewhere: float


@dataclass(frozen=True)
class Row:
    """`ratios` by what they compare, such as "otel_voice/bare events_per_s"."""

    name: str
    batch: int
    rate: int
    requests: int
    events: int
    rounds: int
    medians: dict[str, Median]
    ratios: dict[str, float]
    wrong: list[str]


# The rows


def throughput(batch: int = 1, rounds: int = ROUNDS, requests: int = 0, servers: Sequence[str] = SERVERS) -> Row:
    """As fast as some connections get it taken, each its next request when the last is answered."""
    requests = requests or (77_000 if batch == 1 else 3_000)
    measured = interleaved(servers, rounds, requests, batch)
    return row(f"throughput{batch}", measured, batch, 0, throughput_ratios)


def latency(
    rate: int = 5000, rounds: int = ROUNDS, requests: int = 96_000, servers: Sequence[str] = ("sdk", "otel_voice")
) -> Row:
    """At a rate that comes whether or not the last request was answered."""
    return row("latency", interleaved(servers, rounds, requests, 1, rate), 1, rate, latency_ratios)


def interleaved(
    servers: Sequence[str], rounds: int, requests: int, batch: int, rate: int = 0
) -> dict[str, list[Measured]]:
    """Each in turn, so many times: what else happens on the machine happens to all of them."""
    measured: dict[str, list[Measured]] = {server: [] for server in servers}
    for _ in range(rounds):
        with folder() as place:
            corpus = make(place / "corpus", requests, batch, CONNECTIONS)
            for server in servers:
                measured[server].append(run(server, corpus, rate))
                print(sentence(measured[server][-1]), file=sys.stderr, flush=True)
    return measured


def row(name: str, measured: Mapping[str, Sequence[Measured]], batch: int, rate: int, ratios: Any) -> Row:
    medians = {server: median_of(runs) for server, runs in measured.items()}
    every = [one for runs in measured.values() for one in runs]
    wrong = [sentence for one in every for sentence in one.wrong]
    requests, rounds = sum(every[0].answers.values()) + every[0].broken, len(every) // len(measured)
    return Row(name, batch, rate, requests, every[0].events, rounds, medians, ratios(medians), wrong)


def median_of(runs: Sequence[Measured]) -> Median:
    return Median(
        events_per_s=median(run.events_per_s for run in runs),
        cpu_us=median(run.cpu_us for run in runs),
        p50_ms=median(run.latency_ms["p50"] for run in runs),
        p99_ms=median(run.latency_ms["p99"] for run in runs),
        p999_ms=median(run.latency_ms["p99.9"] for run in runs),
        peak_mib=median(run.peak_mib for run in runs),
        missing=max((run.missing for run in runs), key=abs),
        core_1=max(run.core_1 for run in runs),
        elsewhere=max(run.elsewhere for run in runs),
    )


def throughput_ratios(medians: Mapping[str, Median]) -> dict[str, float]:
    ratios = {}
    for own, base in pairs(medians):
        ratios[f"{own}/{base} events_per_s"] = medians[own].events_per_s / medians[base].events_per_s
        ratios[f"{own}/{base} events_per_cpu_s"] = medians[base].cpu_us / medians[own].cpu_us
    return ratios


def latency_ratios(medians: Mapping[str, Median]) -> dict[str, float]:
    return {
        f"{own}/{base} {part}": getattr(medians[own], part) / getattr(medians[base], part)
        for own, base in pairs(medians)
        for part in ("p50_ms", "p99_ms", "p999_ms")
    }


def pairs(medians: Mapping[str, Median]) -> Iterator[tuple[str, str]]:
    return ((own, base) for own in OURS if own in medians for base in BASELINES if base in medians)


# One run


def run(server_name: str, corpus: Corpus, rate: int = 0) -> Measured:
    """Fresh processes and an empty store; both end with it."""
    with folder() as place, ExitStack() as stack:
        port = free_port()
        sink = Pinned("sink", LOAD_CORE, place, [sys.executable, "-m", "benchmarks.sink", "--port", str(port)])
        stack.callback(sink.kill)
        backend = f"http://127.0.0.1:{port}"
        sink.wait_until_answers(f"{backend}/count")
        port = free_port()
        server = Pinned(server_name, SERVER_CORE, place, *program(server_name, port, backend, place))
        stack.callback(server.kill)
        server.wait_until_answers(f"http://127.0.0.1:{port}/readyz")
        return measure(server, sink, backend, port, corpus, rate)


class Pinned(Program):
    """A process on one core; `cpu_s` is what it has used of it."""

    def __init__(
        self, name: str, core: int, folder: Path, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        own = {"PYTHONPATH": str(ROOT)} | dict(env or {})
        super().__init__(name, ["taskset", "-c", str(core), *command], folder, own)

    @property
    def cpu_s(self) -> float:
        return sum(used_s(pid) for pid in tree(self.process.pid))

    @property
    def peak_mib(self) -> float:
        return sum(peak_kib(pid) for pid in tree(self.process.pid)) / 1024


def program(name: str, port: int, backend: str, place: Path) -> tuple[list[str], dict[str, str]]:
    """A server's command and environment."""
    if name in BASELINES:
        return [sys.executable, "-m", "benchmarks.servers", name, "--port", str(port), "--sink", backend], {}
    serve = [str(Path(sys.executable).parent / "otel-voice"), "serve"]
    env = {
        "OTEL_VOICE_API_KEY": "a-key-of-the-benchmarks-backend",
        "OTEL_VOICE_TOKEN_KEY": TOKEN_KEY,
        "OTEL_VOICE_SYNCHRONOUS": OURS[name],
        "OTEL_VOICE_MAX_STORE_MIB": "65536",
        "OTEL_EXPORTER_OTLP_ENDPOINT": backend,
    }
    return [*serve, "--port", str(port), "--data-dir", str(place / "data")], env


def measure(server: Pinned, sink: Pinned, backend: str, port: int, corpus: Corpus, rate: int) -> Measured:
    expected = {"bare": 0, "sdk": corpus.events, "langfuse": corpus.events}.get(server.name, corpus.spans)
    before, sink_before, busy_before = server.cpu_s, sink.cpu_s, busy_s()
    load = load_on(port, corpus, rate)
    used, sink_used, busy = server.cpu_s - before, sink.cpu_s - sink_before, busy_s() - busy_before
    ended = time.monotonic()
    spans = delivered(backend, expected)
    delivered_after_s = time.monotonic() - ended
    time.sleep(LAST_ANSWER_S)
    assert not server.ended(), f"{server.name} ended with {server.process.returncode}\n{server.log()}"
    seconds = load["seconds"]
    return Measured(
        server=server.name,
        events=corpus.events,
        rate=rate,
        events_per_s=corpus.events / seconds,
        cpu_us=(server.cpu_s - before) / corpus.events * 1e6,
        spans=spans,
        missing=expected - spans,
        answers=load["by_status"],
        broken=load["broken"],
        latency_ms=load["latency_ms"],
        peak_mib=server.peak_mib,
        core_1=(load["cpu_seconds"] + sink_used) / seconds,
        elsewhere=max(0.0, busy - used - sink_used - load["cpu_seconds"]) / seconds,
        delivered_after_s=delivered_after_s,
    )


def load_on(port: int, corpus: Corpus, rate: int) -> dict[str, Any]:
    paced = ["--rate", str(rate)] if rate else []
    command = ["taskset", "-c", str(LOAD_CORE), str(load_binary()), *paced, str(port), str(corpus.path)]
    said: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600).stdout)
    return said


def delivered(backend: str, expected: int) -> int:
    """How many spans came, once they are all there or no longer waited for."""
    began = heard = time.monotonic()
    spans = 0
    while True:
        now, before, spans = time.monotonic(), spans, count(backend)
        heard = heard if spans == before else now
        if spans >= expected or now > began + DEADLINE_S or now > heard + QUIET_S:
            return spans
        time.sleep(0.1)


def count(backend: str) -> int:
    return int(httpx.get(f"{backend}/count", timeout=10).json()["spans"])


def load_binary() -> Path:
    """The load generator, compiled once."""
    binary = cache_folder() / f"load-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    if not binary.exists():
        with folder() as place:
            subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", place / "load", SOURCE], check=True)
            (place / "load").rename(binary)
    return binary


def cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = base / "otel-voice" / "benchmarks"
    place.mkdir(parents=True, exist_ok=True)
    return place


@contextmanager
def folder() -> Iterator[Path]:
    """Beside the cache: a temporary folder may lie in memory, where a commit costs nothing."""
    place = Path(tempfile.mkdtemp(prefix="run-", dir=cache_folder()))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


# What the kernel counts


def tree(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [pid, *(below for child in children for below in tree(child))]


def used_s(pid: int) -> float:
    """What a process has used with all its threads, those that have ended too."""
    # The clock of another process, as clock_getcpuclockid(3) makes it: to the nanosecond, where /proc has ticks of ten
    # milliseconds.
    return time.clock_gettime(~pid << 3 | 2)


def peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def busy_s() -> float:
    """What all used of both cores."""
    cores = (f"cpu{SERVER_CORE}", f"cpu{LOAD_CORE}")
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    # user, nice, system, (idle, iowait,) irq, softirq, steal
    return sum(int(line[field]) for line in lines if line[0] in cores for field in (1, 2, 3, 6, 7, 8)) / TICKS


# The table


def sentence(run: Measured) -> str:
    """One run, while the others are still to come."""
    latencies = ", ".join(f"{part} {run.latency_ms[part]:.2f}" for part in ("p50", "p99", "p99.9"))
    return (
        f"{run.server:18}{run.events_per_s:9,.0f} events/s {run.cpu_us:7.1f} us/event  {latencies} ms  "
        f"core 1 {run.core_1:.0%}, elsewhere {run.elsewhere:.2f}, delivered after {run.delivered_after_s:.1f} s"
    )


def table(row: Row) -> str:
    how = f"{row.rate} requests/s" if row.rate else f"{CONNECTIONS} connections"
    lines = [
        f"{row.name}: {row.requests:,} requests, {row.events:,} events, {how}; medians of {row.rounds}",
        f"{'':18}{'events/s':>10}{'CPU us/ev':>11}{'ev/CPU s':>10}{'p50 ms':>9}{'p99 ms':>9}{'p99.9':>9}"
        f"{'MiB':>7}{'missing':>9}{'core 1':>8}{'elsewh.':>8}",
    ]
    for name, one in row.medians.items():
        lines.append(
            f"{name:18}{one.events_per_s:10,.0f}{one.cpu_us:11.1f}{1e6 / one.cpu_us:10,.0f}{one.p50_ms:9.2f}"
            f"{one.p99_ms:9.2f}{one.p999_ms:9.2f}{one.peak_mib:7.0f}{one.missing:9,}{one.core_1:8.0%}"
            f"{one.elsewhere:8.2f}"
        )
    lines += [f"  {name:42}{ratio:7.3f}" for name, ratio in row.ratios.items()]
    return "\n".join([*lines, *(f"  ! {wrong}" for wrong in row.wrong)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when an answer was wrong or a span is missing."""
    chosen = parsed(arguments)
    os.sched_setaffinity(0, {LOAD_CORE})
    failed = False
    for name in chosen.only or QUICK:
        requests = chosen.requests or (QUICK[name] if chosen.quick else 0)
        rounds = chosen.rounds or (1 if chosen.quick else ROUNDS)
        row = row_of(name, rounds, requests, chosen.servers)
        print(table(row), flush=True)
        failed = failed or bool(row.wrong)
    return int(failed)


QUICK = {"throughput1": 30_000, "throughput50": 2_300, "latency": 30_000}


def row_of(name: str, rounds: int, requests: int, servers: Sequence[str] | None) -> Row:
    if name == "latency":
        return latency(rounds=rounds, requests=requests or 96_000, servers=servers or ("sdk", "otel_voice"))
    return throughput(int(name.removeprefix("throughput")), rounds, requests, servers or SERVERS)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description="Events a second, CPU an event.")
    parser.add_argument("--quick", action="store_true", help="one round of a fifth of the requests")
    parser.add_argument("--only", nargs="+", choices=QUICK, metavar="ROW", help=", ".join(QUICK))
    parser.add_argument("--servers", type=names, metavar="NAME,NAME", help=", ".join(SERVERS))
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--requests", type=int, default=0, help="about so many in a run")
    return parser.parse_args(arguments)


def names(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := set(chosen).difference(SERVERS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(SERVERS)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
