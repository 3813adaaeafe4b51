"""The tables that Ray moves between the stages: one cell of bytes for each study and array, so that nothing is copied.

prepared   study_id, row, views, pixels_<preparation>
predicted  study_id, row, views, probs, fault, and where the ensemble gives them mask_bits, expected_dice,
           out_of_distribution, structure_bits, maps_<member> and features_<member>; then the marks of the batch

The bytes of a column lie one after another in memory. They are the array of the whole block.
"""

import math
import pickle
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cxrpipe.models.ensemble import Ensemble
from cxrpipe.scoring.batch import Batch, Predicted
from cxrpipe.scoring.predictions import Predictions
from cxrpipe.scoring.prepare import Prepared, Row


def prepared_table(prepared: Sequence[Prepared], ensemble: Ensemble) -> pa.Table:
    """Prepared studies as a table. Their rows travel as pickles, because nothing on the way reads them."""
    views, pixels = Batch.of(prepared, ensemble)
    columns = {
        "study_id": pa.array([study.row["study_id"] for study in prepared]),
        "row": pa.array([pickle.dumps(study.row) for study in prepared], pa.large_binary()),
        "views": pa.array(views),
    }
    for number, preparation in enumerate(ensemble.preparations):
        columns[f"pixels_{number}"] = _cells(pixels[preparation], views)
    return pa.table(columns)


def batch_of(prepared: pa.Table, ensemble: Ensemble) -> Batch:
    """The views of a table of `prepared_table`; their pixels share its memory where it is one block."""
    views = prepared["views"].to_numpy()
    pixels = {}
    for number, preparation in enumerate(ensemble.preparations):
        array = _array(prepared[f"pixels_{number}"], np.uint8, views)
        pixels[preparation] = array.reshape(len(array), preparation.side_px, preparation.side_px)
    return Batch(views, pixels)


def predicted_table(prepared: pa.Table, predicted: Predicted) -> pa.Table:
    """The outputs of the networks in the place of the pixels."""
    predictions, views = predicted.predictions, predicted.views
    faults = [None if fault is None else pickle.dumps(fault) for fault in predicted.faults]
    columns = {
        "study_id": prepared["study_id"],
        "row": prepared["row"],
        "views": pa.array(views),
        "probs": _cells(predictions.probs.swapaxes(0, 1), views),
        "fault": pa.array(faults, pa.binary()),
    }
    for name in _OF_VIEWS:
        if (array := getattr(predictions, name)) is not None:
            columns[name] = _cells(array, views)
    for number, maps in enumerate(predictions.maps or ()):
        if maps is not None:
            columns[f"maps_{number}"] = _cells(maps, views)
    for number, vectors in enumerate(predictions.features or ()):
        if vectors is not None:
            columns[f"features_{number}"] = _cells(vectors, views)
    marks = predicted.marks
    return pa.table(columns | dict(zip(marks.column_names, marks.columns, strict=True)))


def rows_of(predicted: pa.Table) -> list[Row]:
    """The rows of the studies, as they were prepared."""
    return [pickle.loads(row) for row in predicted["row"].to_pylist()]


def predicted_of(table: pa.Table, ensemble: Ensemble) -> Predicted:
    """The outputs of the networks in a table of `predicted_table`."""
    members, findings, views = len(ensemble.members), len(ensemble.findings), table["views"].to_numpy()
    number = int(views.sum())

    def array(name: str, dtype: type[np.generic] = np.float32) -> np.ndarray | None:
        return _array(table[name], dtype, views) if name in table.column_names else None

    def maps_of(member: int) -> np.ndarray | None:
        known, flat = len(ensemble.places[member]), array(f"maps_{member}")
        side = 0 if flat is None else math.isqrt(flat.shape[1] // known)
        return None if flat is None else flat.reshape(number, known, side, side)

    maps = tuple(map(maps_of, range(members)))
    features = tuple(array(f"features_{member}", np.float16) for member in range(members))
    probs, dice, unlike = array("probs"), array("expected_dice"), array("out_of_distribution", np.bool_)
    assert probs is not None
    structures, bits = len(ensemble.structures), array("structure_bits", np.uint8)
    predictions = Predictions(
        probs.reshape(number, members, findings).swapaxes(0, 1),
        array("mask_bits", np.uint8),
        None if dice is None else dice.reshape(number),
        maps if any(of_member is not None for of_member in maps) else None,
        None if unlike is None else unlike.reshape(number),
        features if ensemble.embed and number else None,
        structure_bits=None if bits is None else bits.reshape(number, structures, bits.shape[1] // structures),
    )
    faults = tuple(None if fault is None else pickle.loads(fault) for fault in table["fault"].to_pylist())
    return Predicted(predictions, views, faults, table.select(_MARKS))


_OF_VIEWS = ("mask_bits", "expected_dice", "out_of_distribution", "structure_bits")
"""Fields of `Predictions` that ensembles may lack, with one value or row for each view."""
_MARKS = ["predict_s", "predicted_at", "predicted_by", "computed_on"]


def _cells(array: np.ndarray, views: np.ndarray) -> pa.LargeBinaryArray:
    """(ΣV, …) → N cells, each with the bytes of the views of one study."""
    array = np.ascontiguousarray(array)
    bytes_of_view = array.nbytes // len(array) if len(array) else 0
    offsets = np.concatenate([[0], np.cumsum(views)]) * bytes_of_view
    buffers = [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(array.reshape(-1).view(np.uint8))]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(views), buffers)


def _array(cells: pa.ChunkedArray, dtype: type[np.generic], views: np.ndarray) -> np.ndarray:
    """The cells of `_cells` → (ΣV, X), where X values belong to each view."""
    column = cells.chunk(0) if cells.num_chunks == 1 else cells.combine_chunks()  # the latter always copies
    _, offsets, data = column.buffers()
    start, *_, end = [0, 0] if not len(column) else np.frombuffer(offsets, np.int64)[column.offset :][: len(column) + 1]
    values = np.frombuffer(data or b"", np.uint8)[start:end].view(dtype)
    number = int(views.sum())
    return values.reshape(number, len(values) // max(number, 1))
