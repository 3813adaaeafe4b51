"""Tries a few studies before a run writes anything: a wrong archive costs a minute, not a night."""

import random

import pyarrow as pa

from cxrpipe.config import ScoreConfig
from cxrpipe.errors import RunError
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records import Study
from cxrpipe.runs.plan import Selection
from cxrpipe.runs.watch import tell
from cxrpipe.scoring.faults import Fault
from cxrpipe.scoring.prepare import Preparer

TRIED_FIRST = 50


def try_some(selection: Selection, studies: int, ensemble: Ensemble, config: ScoreConfig) -> None:
    """Fetch and decode 50 studies at random. RunError where more than half of them cannot be read.

    Studies that meet an error in this program count as unreadable too.
    """
    chosen = random.Random(0).sample(range(studies), min(TRIED_FIRST, studies))
    table = selection.table
    failures: list[str] = []
    first_fault: tuple[str, Fault] | None = None
    before, allowed = 0, max(0.5, config.max_failed_fraction)
    with Preparer(table, ensemble, config.decode_timeout_s) as prepare:
        for batch in selection.batches():
            places = sorted(place - before for place in chosen if 0 <= place - before < batch.num_rows)
            before += batch.num_rows
            for row in batch.take(pa.array(places, pa.int64())).to_pylist():
                prepared = prepare(Study.from_row(row))
                if prepared.row["status"] == "failed":
                    failures.append(prepared.row["detail"])
                if "fault" in prepared.row:
                    first_fault = first_fault or (row["study_id"], Fault(**prepared.row["fault"]))
    if len(failures) > allowed * len(chosen):
        if first_fault:
            tell(*first_fault, table.is_pseudonymised)
        archive = table.url if table.is_pseudonymised else table.metadata["archive"]
        raise RunError(
            f"{archive}: {len(failures)} of {len(chosen)} studies tried at random cannot "
            f"be read, so nothing was started; the first: {failures[0]}"
        )
