"""Lines that would come too often: one a minute, with the number of those held back."""

import logging

import pytest

from otel_voice.loud import OnceAMinute

log = logging.getLogger(__name__)


def test_one_line_a_minute_says_how_many_were_held_back(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    loud = OnceAMinute(lambda: now)
    said = []
    for now in range(0, 121, 20):
        said.append(loud.say(log.warning, "it is %d", now))
    assert said == [True, False, False, True, False, False, True]
    more = " (2 more like this since the last line)"
    assert caplog.messages == ["it is 0", f"it is 60{more}", f"it is 120{more}"]
