"""What a run says of itself in `run.json` and on the terminal: what was done, by which models, how fast, where."""

import platform
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from cxrpipe import __version__, console
from cxrpipe.config import ScoreConfig
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.root import Run
from cxrpipe.scoring.rows import Receipt

_STEADY_S = 5.0
"""Receipts come in bursts: two of 256 studies, 40 ms apart, had made 6,274 studies/s of 25."""


class Work:
    """What the receipts add up to: stages, wall time, and the steady rate after the first receipt."""

    def __init__(self) -> None:
        self._stages: Counter = Counter()
        self._computed_on = ""
        self._start = time.monotonic()
        self._first = self._last = 0.0
        self._studies = self._after_first = 0

    def add(self, receipt: Receipt) -> None:
        self._stages.update(receipt.seconds)
        self._computed_on = receipt.computed_on
        self._last = time.monotonic()
        if self._first:
            self._after_first += receipt.studies
        else:
            self._first = self._last
        self._studies += receipt.studies

    def account(self) -> dict[str, Any]:
        """Device, precision and kernels are null where nothing was computed."""
        parts: list[Any] = self._computed_on.rsplit(" ", 2) if self._computed_on else [None] * 3
        return {
            "studies_per_second": self._studies_per_second(),
            "seconds": round(time.monotonic() - self._start, 3),
            **dict(zip(("device", "precision", "kernels"), parts, strict=True)),
            "stage_seconds": {stage: round(seconds, 3) for stage, seconds in self._stages.items()},
        }

    def _studies_per_second(self) -> float | None:
        """None where nothing was scored; start-up is in it where most studies came at once."""
        if not self._studies:
            return None
        steady = self._after_first > self._studies / 2 and self._last - self._first >= _STEADY_S
        studies, since = (self._after_first, self._first) if steady else (self._studies, self._start)
        return round(studies / (self._last - since), 2)


def ensemble_account(ensemble: Ensemble, private: bool) -> dict[str, Any]:
    """What scored; `private`: without the place of the archive that the models learned from."""
    return {
        "fingerprint": ensemble.fingerprint,
        "views_fingerprint": ensemble.views_fingerprint,
        "findings": ensemble.findings,
        "models": [
            {
                "url": model.url,
                "task": model.card.task,
                "architecture": model.card.architecture,
                "weights_sha256": model.card.weights_sha256,
                "thresholds": dict(zip(model.card.findings, model.card.operating_points.tolist(), strict=True)),
                "archive": None if private else model.card.facts.get("archive"),
                "split_seed": model.card.facts.get("split_seed"),
            }
            for model in ensemble.models
        ],
    }


def settings_account(config: ScoreConfig, table: StudyTable) -> dict[str, Any]:
    """The settings; of a private table not where it lies, but what it is."""
    if not table.is_pseudonymised:
        return asdict(config)
    told = {name: value for name, value in table.metadata.items() if name not in ("archive", "seek_points")}
    return asdict(config) | {"archive": None, "studies": None, "table": told}


def versions_account() -> dict[str, str]:
    packages = ("ray", "torch", "torchvision", "pyarrow", "numpy", "opencv-python-headless")
    return {
        "cxrpipe": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def print_account(run: Run, account: Mapping[str, Any]) -> None:
    out, counts = console.out(), Counter(account["counts"])
    out.print(
        f"{account['studies']:,} studies: " + ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    )
    if account["studies_per_second"]:
        out.print(f"{account['studies_per_second']} studies/s, {account['seconds']:.0f} s in all")
    out.print(f"Scores: {run.scores}\nAccount: {run.account}")
