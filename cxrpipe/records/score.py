"""The score row: the columns of a scored study in Parquet."""

from collections.abc import Sequence

import pyarrow as pa

ASIDE = ("masks", "heatmaps", "structures", "feature_vectors")
"""Columns apart from the rest: they are most of a root, and a query on numbers leaves them out."""
FEATURE_VECTORS = pa.list_(pa.list_(pa.list_(pa.float16())))
"""Views × members × D, in the order of `views` and of the run's members. Null: a view that was not scored, or a member
without a vector."""
LARGEST_FEATURE = 65_504.0
"""The largest number of float16. A feature beyond it is stored as this number."""
SCORED_VIEW = pa.struct(
    [
        pa.field("url", pa.string()),
        pa.field("entry", pa.string()),
        pa.field("view_position", pa.string()),
        pa.field("status", pa.string(), nullable=False),  # ok, rejected, failed, skipped
        pa.field("reason", pa.string()),
        pa.field("rows_px", pa.int32()),
        pa.field("columns_px", pa.int32()),
        pa.field("sha256", pa.string()),
        pa.field("lung_fraction", pa.float32()),  # of the image without its padding
        pa.field("left_fraction", pa.float32()),
        pa.field("right_fraction", pa.float32()),
        pa.field("mask_quality", pa.float32()),
        pa.field("member_probs", pa.list_(pa.list_(pa.float32()))),  # (K, F), uncalibrated; null as below
    ]
)
STRUCTURE = pa.struct([pa.field("name", pa.string()), pa.field("png", pa.binary())])
HEATMAP = pa.struct([pa.field("finding", pa.string()), pa.field("png", pa.binary())])


def score_schema(findings: Sequence[str], embed: bool = False) -> pa.Schema:
    """Columns of a score table. A segmenter alone gives no findings.

    embed  with `feature_vectors`, which other tables lack
    """
    per_finding = [
        ("prob", pa.float32()),
        ("votes", pa.int8()),
        ("consensus", pa.bool_()),
        ("member_probs", pa.list_(pa.float32())),  # (K,), null for a member that does not know the finding
        ("disagreement", pa.float32()),
    ]
    return pa.schema(
        [
            pa.field("study_id", pa.string(), nullable=False),
            pa.field("patient_id", pa.string()),
            pa.field("study_digest", pa.string(), nullable=False),
            pa.field("fingerprint", pa.string(), nullable=False),
            pa.field("status", pa.string(), nullable=False),  # ok, partial, rejected, failed
            pa.field("reason", pa.string()),
            pa.field("detail", pa.string()),
            *(pa.field(f"{name}_{finding}", kind) for finding in findings for name, kind in per_finding),
            pa.field("n_views", pa.int16(), nullable=False),
            pa.field("n_views_ok", pa.int16(), nullable=False),
            pa.field("flags", pa.list_(pa.string()), nullable=False),
            pa.field("views", pa.list_(SCORED_VIEW), nullable=False),
            pa.field("masks", pa.list_(pa.binary())),  # 1-bit PNG (S, S), in the order of `views`
            pa.field("heatmaps", pa.list_(pa.list_(HEATMAP))),
            pa.field("structures", pa.list_(pa.list_(STRUCTURE))),  # as `masks`, of a segmenter that names structures
            *([pa.field("feature_vectors", FEATURE_VECTORS)] if embed else []),
        ]
    )
