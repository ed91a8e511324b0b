"""Backup: a data directory as it was at one moment, in a folder that a receiver can be started on."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from otel_voice.store import Ledger, Reader, Unavailable, copy
from otel_voice.tokens import FILE as KEY


def back_up(data_dir: Path, folder: Path, advance: Callable[[int], None]) -> Ledger:
    """The store and the token key, if there is one; `folder` must not exist, and does so only once it is whole.
    `advance` hears of each MiB. Raises OSError, Unavailable."""
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} exists already")
    # For its owner only.
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        copy(data_dir, partial, advance)
        ledger = _checked(partial)
        if (data_dir / KEY).exists():
            shutil.copy(data_dir / KEY, partial)
        partial.rename(folder)
    except Unavailable as error:
        raise Unavailable(f"the store in {data_dir} could not be copied ({error}); no backup was made") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ledger


def _checked(directory: Path) -> Ledger:
    """What the copy holds. Raises Unavailable where the store was damaged; its index of words a start makes anew."""
    with contextlib.closing(Reader(directory)) as reader:
        if (found := reader.check()) and not found[1]:
            raise Unavailable(f"it is damaged: {found[0]}")
        return reader.ledger()
