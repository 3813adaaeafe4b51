"""What a film costs through the whole job, against the time that OpenCV takes to decode it.

    python benchmarks/job.py --archive NIH [--films 220,880] [--block 64]

The PNG files of an archive are copied, as often as it takes, into a folder and into a tar.gz. The program `score`
scores both, each at two sizes: trial, preparation to 224 and 256 px, prediction by stub networks (see `ceiling.py`),
rows, parts, publishing. The difference of the two sizes is what a film costs: CPU time of all processes, those of Ray
among them. `cv2.imdecode` decodes the same films in this process, before and after each job.
"""

import argparse
import io
import itertools
import os
import statistics
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import cpu
import cv2
import numpy as np
import torch
from ceiling import PredictorStub, ensemble

from cxrpipe.archives.index import index
from cxrpipe.archives.reader import Reader
from cxrpipe.config import ScoreConfig
from cxrpipe.models import architectures, weights
from cxrpipe.models.folder import save_model
from cxrpipe.on_ray import score, session
from cxrpipe.programs.score import score_archive
from cxrpipe.records.study_table import StudyTable


def films_of(archive: str, folder: Path, most: int) -> list[bytes]:
    table = str(folder / "given/studies.parquet")
    index(archive, table)
    studies = itertools.islice(StudyTable(table).studies(), most)
    with Reader(StudyTable(table).seek_points) as reader:
        return [reader.read(view) for study in studies for view in study.views]


def write_archives(films: list[bytes], number: int, folder: Path) -> dict[str, str]:
    """Name → url of an archive with so many films."""
    files, packed = folder / "files", folder / "packed"
    files.mkdir(), packed.mkdir()
    with tarfile.open(packed / "images.tar.gz", "w:gz", compresslevel=1) as tar:
        for place, data in enumerate(itertools.islice(itertools.cycle(films), number)):
            name = f"{place:06d}.png"
            (files / name).write_bytes(data)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return {"plain files": str(files), "tar.gz": str(packed)}


def write_models(folder: Path) -> list[str]:
    """Model folders that name the right sizes. Their networks are small, and never run."""
    urls = []
    for number, model in enumerate(ensemble().models):
        torch.manual_seed(number)
        network = architectures.build_from_card(model.card)
        urls.append(save_model(str(folder / model.url), model.card, weights.weights_bytes(network), {}).url)
    return urls


def decode_ms(films: list[bytes]) -> float:
    """CPU time of `cv2.imdecode` for a film."""
    started = time.thread_time()
    for data in films:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    return 1_000 * (time.thread_time() - started) / len(films)


def spent(config: ScoreConfig) -> Counter[str]:
    """Part → CPU seconds of a job."""
    with cpu.CpuSeconds() as seconds:
        before = seconds.look()
        with session.session():
            assert score_archive(config, score.engine) == 0
            return seconds.look() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", required=True, help="An archive of PNG radiographs, such as NIH ChestX-ray14.")
    parser.add_argument("--films", default="220,880", help="The two sizes.")
    parser.add_argument("--block", type=int, default=64, help="Studies in a block.")
    given = parser.parse_args()
    fewer, more = map(int, given.films.split(","))
    score._Predictor = PredictorStub
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as scratch:
        folder = Path(scratch)
        films = films_of(given.archive, folder, fewer)
        *models, segmenter = write_models(folder / "models")
        for name, url in write_archives(films, more, folder).items():
            decoded, parts = [decode_ms(films)], []
            for size in (fewer, more):
                out = folder / f"{name} {size}"
                config = ScoreConfig(
                    archive=url,
                    models=tuple(models),
                    segmenter=(segmenter,),
                    out=str(out),
                    limit=size,
                    batch_studies=given.block,
                )
                parts.append(spent(config))
                decoded.append(decode_ms(films))
            film_ms = 1_000 * (parts[1].total() - parts[0].total()) / (more - fewer)
            decode = statistics.median(decoded)
            print(
                f"\n{name}: {film_ms:.1f} ms of CPU for a film, {film_ms / decode:.2f} x cv2.imdecode ({decode:.1f} ms)"
            )
            print(cpu.table(*parts, more - fewer))


if __name__ == "__main__":
    main()
