"""The predictor actor under Ray: the whole job on studies that need no decoding, so that the predictor is the limit.

The job is the shipped one, with the preparers of this machine; only `decode_view` is replaced (see `stub`).
"""

import functools
import tempfile
import time
from pathlib import Path

import memory  # benchmarks/memory.py draws the archive

from cxrpipe.config import ScoreConfig
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.on_ray import session
from cxrpipe.on_ray.score import engine
from cxrpipe.programs.score import score_archive
from cxrpipe.records import runs_of
from gpu_parts import ensembles, ours
from gpu_parts.scales import Scale, scale_for
from gpu_parts.sheet import Sheet
from gpu_parts.stub import nothing_decoded

_FIRST = {"cuda": 2_000, "cpu": 48}
"""Studies of the first run, which tells how many the second may have."""
_MOST = 40_000
_PART = 0.5
"""Part of the time left that the second run may take."""


def run(sheet: Sheet, device: str) -> None:
    scale = scale_for(device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ensemble = ensembles.make(folder, scale, device, crops=False, explains=False, learns=False)
        ours.forget()
        with session.session():
            per_second = _score(sheet, scale, ensemble, folder / "few studies", device, _FIRST[device])
            studies = min(_MOST, int(per_second * _PART * sheet.left_s))
            if device == "cuda" and studies > 2 * _FIRST[device]:
                _score(sheet, scale, ensemble, folder / "many studies", device, studies)


def _score(sheet: Sheet, scale: Scale, ensemble: Ensemble, folder: Path, device: str, studies: int) -> float:
    """Score so many studies. Gives studies per second by the stopwatch, start-up included."""
    folder.mkdir()
    memory.make(folder, studies)
    batch = min(scale.batches[-1], max(1, studies // 4))
    config = ScoreConfig(
        studies=str(folder / "studies.parquet"),
        models=tuple(member.url for member in ensemble.members),
        segmenter=tuple(segmenter.url for segmenter in ensemble.segmenters),
        out=str(folder / "scores"),
        batch_studies=batch,
        part_studies=max(batch, 256),
        precision="auto",
        compile="off",
    )
    started = time.monotonic()
    assert score_archive(config, functools.partial(engine, decode=nothing_decoded)) == 0
    seconds = time.monotonic() - started
    (report,) = runs_of(config.out)
    stages = report.stage_seconds
    sheet.row(
        "The job on Ray from studies that need no decoding",
        studies=studies,
        batch=batch,
        studies_s=report.studies_per_second,
        predictor_alone_studies_s=studies / stages["predict"],
        predictor_ms_a_study=1e3 * stages["predict"] / studies,
        preparer_ms_a_study=1e3 * stages["prepare"] / studies,
        seconds=seconds,
        computed_on=f"{report.device} {report.precision} {report.kernels}",
    )
    return studies / seconds
