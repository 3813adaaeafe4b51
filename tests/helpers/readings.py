"""Verdicts of readers, for tests."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from cxrpipe.records.verdicts import Verdict

MORNING = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
_numbers = itertools.count()


def verdict(
    study_id: str = "s1",
    word: str = "agree",
    *,
    finding: str = "Pneumonia",
    reader: str = "Ada",
    prob: float = 0.75,
    minute: float | None = None,
    verdict_id: str | None = None,
    **further: Any,
) -> Verdict:
    """A verdict with an id and a time of its own, on a consensus that is positive where prob is at least 0.5."""
    number = next(_numbers)
    row = {
        "study_id": study_id,
        "patient_id": further.pop("patient_id", f"patient_{study_id}"),
        "fingerprint": further.pop("fingerprint", "f1"),
        f"prob_{finding}": prob,
        f"consensus_{finding}": further.pop("consensus", prob >= 0.5),
    }
    return Verdict.on(
        row,
        finding,
        word,  # type: ignore[arg-type]
        verdict_id=verdict_id or f"00000000-0000-4000-8000-{number:012}",
        reader=reader,
        time=MORNING + timedelta(minutes=number if minute is None else minute),
        **further,
    )
