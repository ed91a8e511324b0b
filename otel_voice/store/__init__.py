"""Store: the log, the sessions' rows, the outbox and the dead letters, in one SQLite file that only this package knows.

`writer` has the one thread that writes, `reader` reads beside it, `file` opens the file and sets a damaged one aside,
`schema` makes it and carries an older one over, `calls` has what lists and plots are made of, `dead_letters` what an
operator does to them, `copying` makes a backup's file.
"""

from otel_voice.store.copying import copy
from otel_voice.store.dead_letters import drop, retry
from otel_voice.store.file import FILE, lock
from otel_voice.store.reader import Reader
from otel_voice.store.rows import (
    Append,
    Call,
    Condition,
    Counted,
    Damaged,
    DeadLetter,
    Filter,
    Flush,
    Ledger,
    Locked,
    LogRow,
    OtherSchema,
    Pending,
    Plots,
    SessionRow,
    TooLong,
    Unavailable,
    Unwritable,
)
from otel_voice.store.writer import SEARCH_S, Store, check

__all__ = [
    "FILE",
    "SEARCH_S",
    "Append",
    "Call",
    "Condition",
    "Counted",
    "Damaged",
    "DeadLetter",
    "Filter",
    "Flush",
    "Ledger",
    "Locked",
    "LogRow",
    "OtherSchema",
    "Pending",
    "Plots",
    "Reader",
    "SessionRow",
    "Store",
    "TooLong",
    "Unavailable",
    "Unwritable",
    "check",
    "copy",
    "drop",
    "lock",
    "retry",
]
