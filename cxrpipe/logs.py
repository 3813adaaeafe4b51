"""Log lines for machines: with CXRPIPE_LOG=json each line on stderr is one JSON object.

    {"time": "2026-01-31T02:00:05.123+00:00", "level": "info", "program": "score", "run": "…-1a2b3c4d", "message": …}

`program` and `run` are there where they are known. No line names a patient; a study is named by its id, where at all.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime

_about: dict[str, str] = {}  # of the whole process, its threads too: it runs one program, and one run at a time


def as_json() -> bool:
    return os.environ.get("CXRPIPE_LOG") == "json"


@contextlib.contextmanager
def about(**what: str) -> Iterator[None]:
    """What the lines in this block are about: `program`, `run`."""
    before = dict(_about)
    _about.update(what)
    try:
        yield
    finally:
        _about.clear()
        _about.update(before)


def line(message: str, level: str) -> str:
    """One JSON object on one line."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, **_about, "message": message}, ensure_ascii=False)
