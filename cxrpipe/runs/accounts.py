"""What a run says of itself in `run.json` and on the terminal: what was done, by which models, how fast, where."""

import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from cxrpipe import __version__, console
from cxrpipe.config import ScoreConfig
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.rate import SteadyRate
from cxrpipe.runs.root import Run
from cxrpipe.scoring.parts import Receipt


class Work:
    """What the receipts add up to: stages, wall time and rate. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stages: Counter = Counter()
        self._computed_on = ""
        self._start = self._last = clock()
        self._studies = 0
        self._rate = SteadyRate()

    def add(self, receipt: Receipt) -> None:
        self._stages.update(receipt.seconds)
        self._computed_on = receipt.computed_on
        self._last = self._clock()
        self._studies += receipt.studies
        self._rate.add(receipt.prepared_at, receipt.predicted_at)

    def account(self) -> dict[str, Any]:
        """Device, precision and kernels are null where nothing was computed."""
        parts: list[Any] = self._computed_on.rsplit(" ", 2) if self._computed_on else [None] * 3
        return {
            "studies_per_second": self._studies_per_second(),
            "seconds": round(self._clock() - self._start, 3),
            **dict(zip(("device", "precision", "kernels"), parts, strict=True)),
            "stage_seconds": {stage: round(seconds, 3) for stage, seconds in self._stages.items()},
        }

    def _studies_per_second(self) -> float | None:
        """The steady rate; of a run too short for one that of the whole, start-up and all. None: nothing was scored."""
        if not self._studies:
            return None
        return round(self._rate.per_second() or self._studies / max(self._last - self._start, 1e-9), 2)


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
