"""New rows of old ones: where only aggregation, calibration or thresholds changed, no image needs to be opened.

What the members said of each view stands in the row (`views.member_probs`, uncalibrated). All else of a finding
follows from that, by the same function as when it was scored.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from cxrpipe import storage
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records import REASONS, complete_runs, published
from cxrpipe.records.id_set import IdSet
from cxrpipe.runs.ledger import versions
from cxrpipe.scoring.prepare import Row
from cxrpipe.scoring.rows import findings_of

_BATCH = 1_000


def derived_rows(root: str, ensemble: Ensemble, wanted: IdSet) -> Iterator[list[Row]]:
    """Rows for the studies of `wanted` (see `ledger.versions`) that complete runs of the same networks hold.

    Each study once, from its newest row; those that may succeed when they are tried again are left out.
    """
    taken = np.zeros(len(wanted), bool)
    for run in reversed(sources(root, ensemble)):
        for url in published(root, run["run_id"]):
            yield from _derive(storage.read_table(url), ensemble, wanted, taken)


def sources(root: str, ensemble: Ensemble) -> list[dict[str, Any]]:
    """The complete runs from whose rows others can be derived, oldest first."""
    same_views = (run for run in complete_runs(root) if run.get("views_fingerprint") == ensemble.views_fingerprint)
    return [run for run in same_views if run["fingerprint"] != ensemble.fingerprint]


def _derive(rows: pa.Table, ensemble: Ensemble, wanted: IdSet, taken: np.ndarray) -> Iterator[list[Row]]:
    for start in range(0, rows.num_rows, _BATCH):
        batch = rows.slice(start, _BATCH)
        places = wanted.places(versions(batch))
        derived = []
        for place, row in zip(places, batch.to_pylist(), strict=True):
            retryable = row["reason"] is not None and REASONS[row["reason"]].retryable
            if place >= 0 and not taken[place] and not retryable:
                taken[place] = True
                derived.append(derive_row(row, ensemble))
        if derived:
            yield derived


def derive_row(row: Row, ensemble: Ensemble) -> Row:
    """The row that `ensemble` would give, of the row that the same networks gave."""
    row = row | {"fingerprint": ensemble.fingerprint}
    by_view = [view["member_probs"] for view in row["views"] if view["member_probs"] is not None]  # V × (K, F)
    return row | findings_of(ensemble, np.array(by_view, np.float32).swapaxes(0, 1)) if by_view else row
