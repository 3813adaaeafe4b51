"""How many films a second a prediction actor can take, and what the rest of the job costs, without any network.

    python benchmarks/ceiling.py [--films 20480] [--block 256]

Prepared studies go through Ray, the prediction actor, finish and land, as in scoring. Stubs stand for the networks.
Their outputs have the shapes of two classifiers with 14 findings at 224 px and a segmenter at 256 px. The job runs
twice, on a quarter of the films and on all of them. The difference is what a film costs: CPU time of each stage's
processes, and films a second for each core that predicts, as a GPU would see them.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import cpu
import numpy as np
import pyarrow as pa
import ray.data

from cxrpipe.archives import phantom
from cxrpipe.config import ScoreConfig
from cxrpipe.models.card import Card
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder
from cxrpipe.on_ray import score, session, sizing, wire
from cxrpipe.on_ray.tally import Tally, counting
from cxrpipe.scoring.predictions import Predictions
from cxrpipe.scoring.prepare import Prepared

FINDINGS = tuple(f"Finding_{number}" for number in range(14))
CLASSIFIER_PX, SEGMENTER_PX = 224, 256


def ensemble() -> Ensemble:
    classifier = Card(
        task="classify", architecture="resnet50", side_px=CLASSIFIER_PX, mean=0.5, std=0.25, findings=FINDINGS
    )
    segmenter = Card(task="segment", architecture="unet-resnet34", side_px=SEGMENTER_PX, mean=0.5, std=0.25)
    return Ensemble((ModelFolder("a", classifier), ModelFolder("b", classifier)), (ModelFolder("lungs", segmenter),))


def prepared_block(block: int) -> pa.Table:
    """So many prepared studies of one view."""
    models, rng = ensemble(), np.random.default_rng(0)
    pixels = {
        each: rng.integers(0, 256, (1, each.side_px, each.side_px), dtype=np.uint8) for each in models.preparations
    }
    view = {"url": "s3://bucket/images_001.tar.gz", "view_position": "PA", "status": "ok", "reason": None}
    view |= {"sha256": "0" * 64, "rows_px": 1024, "columns_px": 1024}
    row = {"patient_id": "1", "study_digest": "0" * 32, "fingerprint": models.fingerprint, "flags": []}
    row |= {"status": "ok", "n_views": 1, "n_views_ok": 1, "prepare_s": 0.01, "prepared_at": 0.0, "prepared_by": "none"}
    studies = [
        Prepared(row | {"study_id": f"{number:08d}", "views": [view | {"entry": f"{number}.png"}]}, pixels)
        for number in range(block)
    ]
    return wire.prepared_table(studies, models)


class StubNetworks:
    """Outputs of the right shapes at once: half of the findings are present, and two lungs are drawn."""

    computed_on = "none none none"
    views_at_once = None

    def __init__(self, most_views: int) -> None:
        rng = np.random.default_rng(0)
        film = phantom.radiograph(rng, side_px=SEGMENTER_PX)
        self._all = Predictions(
            rng.random((2, most_views, len(FINDINGS)), np.float32),
            np.repeat(np.packbits(film.left | film.right)[None], most_views, axis=0),
            np.full(most_views, 0.95, np.float32),
        )

    def predict(self, pixels: dict[Any, np.ndarray]) -> Predictions:
        return self._all.of(slice(0, len(next(iter(pixels.values())))))


class PredictorStub(score._Predictor):
    """The prediction actor with stub networks."""

    def __init__(self, ensemble: Ensemble, tally: Tally, **_: Any) -> None:
        self._ensemble, self._tally, self._suspects = ensemble, tally, Counter()
        self._predictor = StubNetworks(4_096)


def push(films: int, block: pa.Table, out: Path) -> float:
    """Push so many prepared studies through the job; the seconds that this takes."""
    models = ensemble()
    config = ScoreConfig(studies="none", models=("a", "b"), out=str(out), batch_studies=block.num_rows)
    job = SimpleNamespace(ensemble=models, config=config, run=SimpleNamespace(parts=str(out / "parts")))
    started = time.monotonic()
    prepared = ray.data.range(films // block.num_rows, override_num_blocks=films // block.num_rows).map_batches(
        lambda numbers, block=block: block, batch_size=1, num_cpus=sizing.SMALL_CPU
    )
    with counting(lambda studies: None) as tally:
        receipts = score.landed(
            prepared, job, sizing.size(config.resources, films, config.batch_studies), tally, {}
        ).iter_rows()
        assert sum(1 for _ in receipts) >= films // config.part_studies
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=20_480)
    parser.add_argument("--block", type=int, default=256, help="Studies in a block.")
    given = parser.parse_args()
    score._Predictor = PredictorStub
    block = prepared_block(given.block)
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as scratch, session.session(), cpu.CpuSeconds() as spent:
        seconds, looks = [], [spent.look()]
        for films in (given.films // 4, given.films):
            seconds.append(push(films, block, Path(scratch) / str(films)))
            looks.append(spent.look())
    more = given.films - given.films // 4
    print(f"{more:,} films in blocks of {given.block}, CPU time for each film:")
    of_short, of_long = looks[1] - looks[0], looks[2] - looks[1]
    print(cpu.table(of_short, of_long, more))
    predict_s = (of_long["predict"] - of_short["predict"]) / more
    by_clock = more / (seconds[1] - seconds[0])
    print(f"{1 / predict_s:,.0f} films/s for each core that predicts; {by_clock:,.0f} by the clock")


if __name__ == "__main__":
    main()
