"""Score roots of a few rows that a test writes down, on disk or on S3: no film, no network."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxrpipe import storage
from cxrpipe.records import ModelReport, RunReport, score_schema

FINDINGS = ("Pneumonia", "Pleural_Effusion")
FINGERPRINT = "f" * 16


def row(
    study_id: str,
    probs: Mapping[str, Sequence[float]] | None = None,
    *,
    patient_id: str | None = None,
    status: str = "ok",
    reason: str | None = None,
    positions: Sequence[str | None] = ("PA",),
    **more: Any,
) -> dict[str, Any]:
    """One score row. `probs`: finding → the members' probabilities; without them nothing was scored."""
    numbers: dict[str, Any] = {}
    for finding, members in (probs or {}).items():
        votes = sum(prob >= 0.5 for prob in members)
        numbers |= {
            f"prob_{finding}": float(np.mean(members)),
            f"votes_{finding}": votes,
            f"consensus_{finding}": 2 * votes > len(members),
            f"member_probs_{finding}": list(members),
            f"disagreement_{finding}": float(np.std(members)),
        }
    return {
        "study_id": study_id,
        "patient_id": patient_id,
        "study_digest": f"digest of {study_id}",
        "status": status,
        "reason": reason,
        "detail": f"{study_id}: {reason}" if reason else None,
        "n_views": len(positions),
        "n_views_ok": len(positions) if probs else 0,
        "flags": [],
        "views": [{"url": f"/cxr/{study_id}", "view_position": each, "status": "ok"} for each in positions],
        **numbers,
        **more,
    }


def publish(
    root: str,
    run_id: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    findings: Sequence[str] = FINDINGS,
    fingerprint: str = FINGERPRINT,
    without: Sequence[str] = (),
    is_complete: bool = True,
    **report: Any,
) -> str:
    """Write a run; the url of its file, which has row groups of two rows.

    without  columns that its version did not write
    """
    schema = score_schema(findings)
    table = pa.Table.from_pylist([{"fingerprint": fingerprint, **each} for each in rows], schema=schema)
    data, url = io.BytesIO(), storage.join(root, "scores", f"run={run_id}", "scores-00000.parquet")
    pq.write_table(table.drop_columns(list(without)), data, row_group_size=2)
    storage.write(url, data.getvalue())
    facts = {"start": f"{run_id}T20:00", "end": f"{run_id}T23:00", "studies_per_second": 2.0, "seconds": 9.0} | report
    models = tuple(ModelReport(url=f"/models/{name}", findings=tuple(findings)) for name in ("first", "second"))
    made = RunReport(
        run_id=run_id,
        studies=table.num_rows,
        fingerprint=fingerprint,
        findings=tuple(findings),
        models=models,
        **facts,
    )
    if is_complete:
        storage.write(storage.join(root, "runs", run_id, "run.json"), made.to_json())
    return url
