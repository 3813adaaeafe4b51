"""What another precision or compiling changes: python benchmarks/parity.py --archive DIR --models A,B [--segmenter C].

The archive is scored by the plain loop, once in float32 as the plain networks say it and once for each way asked for.
Per way: images per second beside the reference's in the same run, the largest difference of any member's probability
in any view, how often the consensus changed and how far from its threshold the nearest member then is (or their mean,
which decides a tie), and the part of the pixels of masks that changed. Where a way is emulated (bf16 without units) its
numbers are right, and not its time.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np

from cxrpipe.archives.index import index
from cxrpipe.config import ScoreConfig
from cxrpipe.images import masks
from cxrpipe.models import execution
from cxrpipe.models.ensemble import open_ensemble
from cxrpipe.programs.score import score_archive
from cxrpipe.records import read_scores, runs_of
from cxrpipe.runs.engine import loop

Row = dict[str, Any]
BATCH = 16


def rows(config: ScoreConfig) -> tuple[list[Row], float]:
    """Score rows in the order of their ids, and how many views were predicted in a second of predicting."""
    assert score_archive(config, loop) == 0
    (account,) = runs_of(config.out)
    found = sorted(read_scores(config.out).to_pylist(), key=lambda row: row["study_id"])
    return found, sum(row["n_views_ok"] for row in found) / account.stage_seconds["predict"]


def plain_rows(config: ScoreConfig) -> tuple[list[Row], float]:
    """In float32 by the networks as they are, nothing fused."""
    speed_up = execution.speed_up
    execution.speed_up = lambda network, side_px, plan, channels: (execution.move(network, plan), "plain")
    try:
        return rows(config)
    finally:
        execution.speed_up = speed_up


def largest_difference(found: list[Row], reference: list[Row]) -> float:
    def probs(row: Row) -> np.ndarray:
        return np.array([view["member_probs"] for view in row["views"] if view["member_probs"]], np.float64)

    return max(float(np.abs(probs(a) - probs(b)).max(initial=0)) for a, b in zip(found, reference, strict=True))


def flipped(found: list[Row], reference: list[Row], config: ScoreConfig) -> list[float]:
    """Of every study and finding whose consensus changed: how far the nearest member, or their mean, which decides a
    tie, is from its threshold."""
    ensemble = open_ensemble(config.models, config.segmenter)
    operating_points = np.array([member.card.operating_points for member in ensemble.members])
    distances = []
    for finding, thresholds in zip(ensemble.findings, operating_points.T, strict=True):
        for one, other in zip(found, reference, strict=True):
            if one[f"consensus_{finding}"] != other[f"consensus_{finding}"]:
                gaps = np.array(other[f"member_probs_{finding}"]) - thresholds
                distances.append(float(min(np.abs(gaps).min(), abs(gaps.mean()))))
    return distances


def mask_pixels(found: list[Row], reference: list[Row]) -> float:
    """The part of all pixels of masks that differ."""
    changed = pixels = 0
    for one, other in zip(found, reference, strict=True):
        for png, its in zip(one["masks"] or (), other["masks"] or (), strict=True):
            if png and its:
                mask = masks.decode(png)
                changed, pixels = changed + int((mask != masks.decode(its)).sum()), pixels + mask.size
    return changed / max(pixels, 1)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--archive", required=True)
    asked.add_argument("--models", required=True, help="Model folders, by comma.")
    asked.add_argument("--segmenter", default="")
    asked.add_argument("--studies", type=int, default=0, help="How many; all by default.")
    asked.add_argument("--ways", default="fp32 off,bf16 off,fp32 on,bf16 on", help="Precision and compile of each.")
    args = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="cxrpipe-parity-") as scratch:
        folder = Path(scratch)
        table = str(folder / "table/studies.parquet")
        index(args.archive, table)

        def config(name: str, precision: str, compile: str) -> ScoreConfig:
            return ScoreConfig(
                studies=table,
                models=tuple(args.models.split(",")),
                segmenter=tuple(filter(None, args.segmenter.split(","))),
                out=str(folder / name),
                limit=args.studies,
                precision=precision,
                compile=compile,
                batch_studies=BATCH,
            )

        reference, its_speed = plain_rows(config("reference", "fp32", "off"))
        print(f"{len(reference)} studies, {its_speed:.1f} images/s as they are in fp32")
        print(f"{'way':12}{'x speed':>9}{'most by':>10}{'flipped':>9}{'farthest flip':>15}{'mask pixels':>13}")
        for way in args.ways.split(","):
            asked_for = config(way.replace(" ", "-"), *way.split())
            found, speed = rows(asked_for)
            distances = flipped(found, reference, asked_for)
            print(
                f"{way:12}{speed / its_speed:9.2f}{largest_difference(found, reference):10.1e}{len(distances):9}"
                f"{max(distances, default=0.0):15.5f}{mask_pixels(found, reference):13.6f}"
            )


if __name__ == "__main__":
    main()
