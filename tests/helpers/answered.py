"""A score root made of numbers alone: what an ensemble would have answered, without a film or a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxrpipe.records import ModelReport, RunReport, score_schema

FINGERPRINT = "f1f1f1f1f1f1f1f1"


def answered_root(
    root: Path,
    member_probs: Mapping[str, np.ndarray],
    *,
    ids: Sequence[str] = (),
    patients: Sequence[str] = (),
    threshold: float = 0.5,
    failed: Sequence[int] = (),
    run_id: str = "20261120T000000",
    fingerprint: str = FINGERPRINT,
) -> str:
    """Publish one complete run.

    member_probs  finding → (K, N) float, 0..1
    failed        the places of the studies that have no numbers
    """
    members, studies = next(iter(member_probs.values())).shape
    columns: dict[str, object] = {
        "study_id": list(ids) or [f"s{number:05d}" for number in range(studies)],
        "patient_id": list(patients) or [f"p{number:05d}" for number in range(studies)],
        "study_digest": ["d"] * studies,
        "fingerprint": [fingerprint] * studies,
        "status": ["failed" if place in failed else "ok" for place in range(studies)],
        "n_views": [1] * studies,
        "n_views_ok": [1] * studies,
        "flags": [[]] * studies,
        "views": [[{"status": "ok"}]] * studies,
    }
    unscored = np.isin(np.arange(studies), failed)
    for finding, probs in member_probs.items():
        mean, votes = probs.mean(axis=0), (probs >= threshold).sum(axis=0)
        consensus = np.where(2 * votes == members, mean >= threshold, 2 * votes > members)
        columns |= {
            f"prob_{finding}": pa.array(mean, mask=unscored),
            f"votes_{finding}": pa.array(votes, mask=unscored),
            f"consensus_{finding}": pa.array(consensus, mask=unscored),
            f"member_probs_{finding}": pa.array(probs.T.tolist(), pa.list_(pa.float32()), mask=unscored),
            f"disagreement_{finding}": pa.array(probs.std(axis=0), mask=unscored),
        }
    schema = score_schema([*member_probs])
    rows = pa.table({name: columns.get(name, pa.nulls(studies, schema.field(name).type)) for name in schema.names})
    file = root / "scores" / f"run={run_id}" / "scores-00000.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(rows.cast(schema), file)
    models = tuple(
        ModelReport(
            url=f"/models/m{number}",
            findings=tuple(member_probs),
            thresholds=dict.fromkeys(member_probs, threshold),
            weights_sha256=f"{number:064}",
        )
        for number in range(members)
    )
    report = RunReport(
        run_id=run_id, studies=studies, fingerprint=fingerprint, findings=tuple(member_probs), models=models
    )
    (root / "runs" / run_id).mkdir(parents=True)
    (root / "runs" / run_id / "run.json").write_bytes(report.to_json())
    return str(root)
