"""The program `predict`: scores a few images for a person who tries a model. Every image is a study of one view."""

import atexit
import contextlib
import functools
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from cxrpipe import console, storage
from cxrpipe.archives.named_files import on_one_line, studies_of
from cxrpipe.archives.reader import Reader
from cxrpipe.config import DECODE_TIMEOUT_S, PredictConfig
from cxrpipe.errors import ConfigError, ExitStatus, StudyError
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decode, Decoded, decode_view
from cxrpipe.models.ensemble import Ensemble, explaining, open_ensemble
from cxrpipe.records import Study, score_schema
from cxrpipe.report.files_table import lines_of
from cxrpipe.report.models import log_models
from cxrpipe.report.sheet import draw
from cxrpipe.report.study_panels import panels, scored
from cxrpipe.runs.reports import model_reports
from cxrpipe.scoring.loop import score
from cxrpipe.scoring.prepare import Prepared, Preparer

if TYPE_CHECKING:  # torch takes two seconds to import: a request that is refused does not wait for it
    from cxrpipe.scoring.predict import Predictor


def run(config: PredictConfig) -> ExitStatus:
    out = storage.normalise(config.out)
    studies = studies_of(config.files, out)
    ensemble = open_ensemble(config.models, config.segmenter)
    if config.explain and any(member.card.has_heat_maps for member in ensemble.members):
        ensemble = explaining(ensemble)
    _make_folder(out)
    log_models(model_reports(ensemble, private=False))
    with Reader("") as reader, Isolated(decode_view, DECODE_TIMEOUT_S) as isolated:
        decode = functools.partial(_decode, isolated)
        predictor = _load(ensemble, decode)
        prepare = _OfNamedFiles(None, ensemble, None, decode=decode)
        with console.progress("predict", len(studies)) as advance:
            table = pa.concat_tables(score(studies, prepare, predictor, predicted=advance))
        table = table.select(score_schema(ensemble.findings).names)
        storage.write_table(storage.join(out, "scores.parquet"), table)
        rows = table.to_pylist()  # with every column of the file
        out_of = console.out()
        out_of.print("\n".join(lines_of(rows, ensemble, out_of.width)), markup=False)
        for study, row in zip(studies, rows, strict=True):
            heading = "\n".join([row["views"][0]["url"], *scored(row)])
            sheet = draw([*panels(study, reader, row, decode, ensemble.preparations[0].intensity)], heading)
            storage.write(storage.join(out, f"{study.study_id}.png"), sheet)
    out_of.print(f"Pictures and scores: {on_one_line(out)}", markup=False)
    some_failed = any(row["status"] == "failed" for row in rows)
    return ExitStatus.TOO_MANY_FAILED if some_failed else ExitStatus.DONE


def _make_folder(out: str) -> None:
    """Make the folder of the results. ConfigError where that fails: scoring could take minutes before it failed."""
    if storage.is_s3(out):
        return
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out {out}: cannot be made a folder ({error.strerror}); name another with --out") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise ConfigError(f"out {out}: a folder that must not be written; name another with --out")


def _decode(isolated: "Isolated", data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
    return isolated(data, on_one_line(name), preparations)


def _load(ensemble: Ensemble, decode: Decode) -> "Predictor":
    """Load the networks. While torch is imported, the decoding process starts, and weights are read and hashed."""

    def start() -> None:
        with contextlib.suppress(StudyError):  # zero bytes are no image
            decode(b"", "nothing", ensemble.preparations)

    atexit.register(_end_without_collecting)
    with ThreadPoolExecutor(2) as threads, _uncollected():
        threads.submit(start)
        weights = {model.url: threads.submit(model.read_weights) for model in ensemble.models}
        from cxrpipe.models import execution
        from cxrpipe.scoring.predict import Predictor

        return Predictor(
            ensemble, plan=execution.plan(precision="auto"), read=lambda model: weights[model.url].result()
        )


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Switch garbage collection off. It takes 0.5 of the 2.6 s in which torch and its libraries are imported."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _end_without_collecting() -> None:
    """Skip the last garbage collection of the process: 0.6 to 1.2 s where torch and its libraries are imported."""
    if "triton" not in sys.modules:  # triton comes with the compiler, and complains of uncollected objects
        gc.freeze()


class _OfNamedFiles(Preparer):
    """Prepares files whose names need not be UTF-8, and gives rows with names that Parquet can hold."""

    def __call__(self, study: Study) -> Prepared:
        row, pixels = super().__call__(study)
        views = [view | {"url": on_one_line(view["url"])} for view in row["views"]]
        return Prepared(row | {"views": views, "detail": row["detail"] and on_one_line(row["detail"])}, pixels)
