"""`python -m benchmarks.browser`: what the client costs a page, in a real Chromium; writes benchmarks/browser.md.

A call is timed by the page itself, isolated so that its clock has steps of 5 µs; what comes after the calls (kept in
IndexedDB, sent) is the main thread's own count of its work, as the browser gives it.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import CDPSession, Page, sync_playwright

from otel_voice import __version__
from tests.browsing import Chromium, Site
from tests.components.browser import CHROMIUM
from tests.real import Receiver, wait_for

RESULTS = Path(__file__).with_name("browser.md")
RUNS = 5
CALLS = 5_000
BURST = 2_000
FLOW_S = 20
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
TRACE = "async () => { trace = new VoiceTrace(await token(), { renew }) }"
# Between two calls the page does something else, or their cost would be that of a loop that is warm.
TIMED = """async (calls) => {
  const took = [];
  for (let n = 0; n < calls; n++) {
    const before = performance.now();
    trace.transcript("agent", "a few words of what is said " + n, { item_id: "a" + n });
    took.push(performance.now() - before);
    if (n % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  took.sort((a, b) => a - b);
  return [0.5, 0.95, 0.99].map((share) => took[Math.floor(share * calls)] * 1000);
}"""
BURSTS = "(burst) => { for (let n = 0; n < burst; n++) trace.mark('mark ' + n, { n }) }"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        receiver = Receiver(Path(folder) / "data", Path(folder), {})
        app = Site(receiver.url, headers=ISOLATED)
        binary = CHROMIUM.find()
        assert binary is not None, CHROMIUM.how_to_get
        chromium = Chromium(binary, Path(folder) / "profile", Path(folder))
        try:
            browser = chromium.connect(playwright)
            rows = [run(browser.new_context().new_page(), app) for _ in range(RUNS)]
            RESULTS.write_text(table(rows, posts(browser.new_context().new_page(), app), browser.version))
        finally:
            chromium.kill()
            app.close()
            receiver.kill()
    print(RESULTS.read_text())


def run(page: Page, app: Site) -> dict[str, float]:
    page.goto(app.url + "/")
    page.wait_for_function("window.ready")
    assert page.evaluate("crossOriginIsolated")
    page.evaluate(TRACE)
    p50, p95, p99 = page.evaluate(TIMED, CALLS)
    wait_for(lambda: received(app) == CALLS, 60, "the events")
    page.evaluate("trace.end()")
    page.evaluate(TRACE)
    page.wait_for_timeout(1_500)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    before = busy(session)
    page.evaluate(BURSTS, BURST)
    wait_for(lambda: received(app) == BURST, 60, "the burst")
    page.wait_for_timeout(500)
    whole = (busy(session) - before) / BURST * 1e6
    page.context.close()
    return {"p50": p50, "p95": p95, "p99": p99, "burst": whole}


def busy(session: CDPSession) -> float:
    """Seconds of work of the page's main thread."""
    found: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
    return next(float(each["value"]) for each in found if each["name"] == "TaskDuration")


def received(app: Site) -> int:
    answer = httpx.get(f"{app.receiver_url}/v1/sessions/{app.made[-1]['session_id']}")
    count: int = answer.json()["events_received"]
    return count


def posts(page: Page, app: Site) -> float:
    """POSTs a second while ten events a second come."""
    page.goto(app.url + "/?trace")
    page.wait_for_function("window.ready")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.url.endswith("/events") else None)
    for n in range(FLOW_S * 10):
        page.evaluate("n => trace.mark('mark ' + n)", n)
        page.wait_for_timeout(100)
    page.context.close()
    return len(sent) / FLOW_S


def table(rows: list[dict[str, float]], posts_a_second: float, version: str) -> str:
    def median(key: str) -> str:
        return f"{statistics.median(row[key] for row in rows):.0f} µs"

    return f"""# What the client costs a page

`python -m benchmarks.browser`, medians of {RUNS} runs. Chromium {version} (headless), otel_voice {__version__},
{platform.machine()} with {os.cpu_count()} cores, which browser, site and receiver share.

| work | measured | to reach |
|---|---|---|
| a call, synchronous part, median; p95; p99 | {median("p50")}; {median("p95")}; {median("p99")} | p95 under 50 µs |
| a burst of {BURST}: the main thread's work until all is delivered, an event | {median("burst")} | under 100 µs |
| POSTs a second, while ten events a second come | {posts_a_second:.2f} | 1 |

The page's clock has steps of 5 µs.
"""


if __name__ == "__main__":
    main()
