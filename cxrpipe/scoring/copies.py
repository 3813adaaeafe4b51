"""Scores corrupted copies of studies, by the steps of the plain loop: every file is read and decoded once."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from cxrpipe.archives.reader import Reader
from cxrpipe.archives.truth import truth_mask
from cxrpipe.errors import StudyError
from cxrpipe.evaluation.metrics import Overlap, overlap
from cxrpipe.images import masks, squares
from cxrpipe.images.corruptions import CLEAN, COPIES, Copy, corrupt, corrupt_mask
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decode, Decoded, Radiographs
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records import Study, View
from cxrpipe.records.study_table import StudyTable
from cxrpipe.scoring.batch import Batch, predict
from cxrpipe.scoring.finish import finish
from cxrpipe.scoring.prepare import Preparer

if TYPE_CHECKING:
    from cxrpipe.scoring.predict import Predictor


def score_copies(
    studies: Iterable[Study],
    table: StudyTable,
    ensemble: Ensemble,
    predictor: "Predictor",
    decode: Decode,
    reader: "RememberingReader",
) -> Iterator[tuple[Study, pa.Table]]:
    """Score every copy of every study. Yields a study, and its rows in the order of `COPIES` (see `parts.score_table`).

    decode  decodes the clean copy: `Isolated(decode_view)`, which a bad file may crash. A file that passes is decoded
            once more in this process.
    """
    copying = _CopyingDecode(decode)
    with Preparer(table, ensemble, None, decode=copying, reader=lambda _: reader) as prepare:
        for study in studies:
            prepared = []
            for copying.copy in COPIES:
                prepared.append(prepare(study))
            outputs = predict(Batch.of(prepared, ensemble), predictor)
            yield study, finish([copy.row for copy in prepared], outputs, ensemble)
            reader.forget()
            copying.forget()


def seed_of(data: bytes) -> str:
    """The seed of a view's corruptions: the SHA-256 of its file."""
    return hashlib.sha256(data).hexdigest()


class RememberingReader(Reader):
    """Reads a view once, however often it is asked for, until it forgets."""

    def __init__(self, seek_points: str) -> None:
        super().__init__(seek_points)
        self._bytes: dict[View, bytes] = {}

    def read(self, view: View) -> bytes:
        if view not in self._bytes:
            self._bytes[view] = super().read(view)
        return self._bytes[view]

    def forget(self) -> None:
        self._bytes.clear()


class _Known(NamedTuple):
    clean: Decoded
    radiographs: Radiographs


class _CopyingDecode:
    """Decodes a view once, and gives the squares of `copy` of it."""

    def __init__(self, decode: Decode) -> None:
        self.copy = CLEAN
        self._decode = decode
        self._known: dict[str, _Known | StudyError] = {}

    def __call__(self, data: bytes, name: str, preparations: Sequence[Preparation]) -> Decoded:
        seed = seed_of(data)
        if seed not in self._known:
            try:
                clean = self._decode(data, name, preparations)
                self._known[seed] = _Known(clean, squares.radiographs_of(data, name, preparations))
            except StudyError as error:  # a file that takes a minute to fail would take it for every copy
                self._known[seed] = error
        known = self._known[seed]
        if isinstance(known, StudyError):
            raise known
        clean, radiographs = known
        if self.copy == CLEAN:
            return clean
        copies = {
            intensity: radiograph._replace(pixels=corrupt(radiograph.pixels, self.copy, seed))
            for intensity, radiograph in radiographs.items()
        }
        return squares.fitted(copies, preparations)

    def forget(self) -> None:
        self._known.clear()


def mask_overlap(study: Study, row: Mapping[str, Any], copy: Copy, reader: Reader) -> Overlap | None:
    """The overlap of predicted masks with those of people, which are moved as the copy of the view is.

    row  of the copy, with `views` and `masks`; None where no view of the study has both masks
    """
    total: Overlap | None = None
    for number, (view, png) in enumerate(zip(row["views"], row["masks"] or (), strict=False)):
        if png is None or not any(mask.view == number for mask in study.mask_views):
            continue
        truth = truth_mask(study, number, reader, (view["rows_px"], view["columns_px"]))
        truth = corrupt_mask(truth, copy, seed_of(reader.read(study.views[number])))
        of_view = overlap(masks.on_image(masks.decode(png), *truth.shape), truth)
        total = of_view if total is None else total + of_view
    return total
