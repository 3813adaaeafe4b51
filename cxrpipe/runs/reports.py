"""Makes the report of a run, `run.json`, and prints its main numbers."""

import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from cxrpipe import __version__, console
from cxrpipe.config import ScoreConfig
from cxrpipe.images.flags import FLAGS_VERSION
from cxrpipe.images.letterbox import PREPARATION_VERSION
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder
from cxrpipe.records import ModelReport, RunReport
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.busy import Busy, what_limits
from cxrpipe.runs.rate import SteadyRate
from cxrpipe.runs.root import Run
from cxrpipe.scoring.parts import Receipt


class Work:
    """Adds up the receipts of a run: stages, wall time and rate. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._busy = Busy()
        self._computed_on: Counter[str] = Counter()
        self._start = self._last = clock()
        self._studies = 0
        self._rate = SteadyRate()

    def add(self, receipt: Receipt) -> None:
        self._busy.add(receipt.spans)
        self._computed_on.update(receipt.computed_on)
        self._last = self._clock()
        self._studies += receipt.studies
        self._rate.add(receipt.prepared_at, receipt.predicted_at)

    def seconds(self) -> float:
        """Since this object was made."""
        return round(self._clock() - self._start, 3)

    def stage_seconds(self) -> dict[str, float]:
        return {stage: round(seconds, 3) for stage, seconds in self._busy.seconds().items()}

    def busy_shares(self) -> dict[str, float]:
        return {stage: round(share, 3) for stage, share in self._busy.shares().items()}

    def computed_on(self) -> dict[str, int]:
        """Device, precision and kernels (`cpu float32 fused`) → studies, the most first."""
        return dict(self._computed_on.most_common())

    def studies_per_second(self) -> float | None:
        """The steady rate, or in a run too short for one the rate of the whole run with its start-up.

        None: nothing was scored.
        """
        if not self._studies:
            return None
        return round(self._rate.per_second() or self._studies / max(self._last - self._start, 1e-9), 2)


def run_report(
    run: Run,
    work: Work,
    counts: Mapping[str, int],
    ensemble: Ensemble,
    config: ScoreConfig,
    *,
    scored_before_resume: int,
    derived: int,
    start: datetime,
) -> RunReport:
    """The report of a run that ends now."""
    table = StudyTable(run.studies)
    computed_on = work.computed_on()
    device, precision, kernels = next(iter(computed_on)).rsplit(" ", 2) if computed_on else (None, None, None)
    return RunReport(
        run_id=run.run_id,
        studies=table.rows,
        studies_per_second=work.studies_per_second(),
        seconds=work.seconds(),
        device=device,
        precision=precision,
        kernels=kernels,
        computed_on=computed_on,
        stage_seconds=work.stage_seconds(),
        busy_shares=work.busy_shares(),
        scored_before_resume=scored_before_resume,
        derived=derived,
        counts=dict(counts),
        fingerprint=ensemble.fingerprint,
        views_fingerprint=ensemble.views_fingerprint,
        findings=tuple(ensemble.findings),
        models=model_reports(ensemble, table.is_pseudonymised),
        settings=reported_settings(config, table),
        versions=versions(),
        start=start.isoformat(timespec="seconds"),
        end=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def model_reports(ensemble: Ensemble, private: bool) -> tuple[ModelReport, ...]:
    """The models that scored. `private`: without the url of the archive that they learned from."""
    return tuple(_model_report(model, private) for model in ensemble.models)


def _model_report(model: ModelFolder, private: bool) -> ModelReport:
    card, facts = model.card, model.card.facts
    backbone = facts.get("backbone", {})
    return ModelReport(
        url=model.url,
        task=card.task,
        architecture=card.architecture,
        weights_sha256=card.weights_sha256,
        findings=card.findings,
        thresholds=dict(zip(card.findings, card.operating_points.tolist(), strict=True)),
        archive=None if private else facts.get("archive"),
        split_seed=facts.get("split_seed"),
        source=facts.get("source"),
        licence=facts.get("licence"),
        citation=facts.get("citation"),
        card=card.view_fields(),
        backbone_archive=None if private else backbone.get("archive"),
        backbone_split_seed=backbone.get("split_seed"),
    )


def reported_settings(config: ScoreConfig, table: StudyTable) -> dict[str, Any]:
    """The settings as plan and report have them. Of a private table they hold its metadata, but no url."""
    if not table.is_pseudonymised:
        return asdict(config)
    metadata = {name: value for name, value in table.metadata.items() if name not in ("archive", "seek_points")}
    return asdict(config) | {"archive": None, "studies": None, "table": metadata}


def versions() -> dict[str, str]:
    """Package → version, of the packages that decide what is computed; `preparation` and `flags` are our own."""
    packages = ("ray", "torch", "torchvision", "pyarrow", "numpy", "opencv-python-headless")
    return {
        "cxrpipe": __version__,
        "python": platform.python_version(),
        "preparation": str(PREPARATION_VERSION),
        "flags": str(FLAGS_VERSION),
        **{name: version(name) for name in packages},
    }


def print_report(run: Run, report: RunReport) -> None:
    out, counts = console.out(), Counter(report.counts)
    statuses = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    out.print(f"{report.studies:,} studies: {statuses}")
    if report.studies_per_second:
        out.print(f"{report.studies_per_second} studies/s, {report.seconds:.0f} s in all")
    if limits := what_limits(report.busy_shares, report.device):
        out.print(limits)
    out.print(f"Scores: {run.scores}\nReport: {run.report}")
