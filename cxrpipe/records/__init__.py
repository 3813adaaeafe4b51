"""Nouns, Arrow schemas and reasons: what a study, a view and a scored row are."""

from cxrpipe.records.readers import (
    complete_runs,
    find_score,
    newest_rows,
    published,
    read_run,
    read_scores,
    runs_of,
    united,
    with_columns_of,
)
from cxrpipe.records.reasons import INTERNAL_ERROR, REASONS, Reason
from cxrpipe.records.score import score_schema
from cxrpipe.records.study import (
    FRONTAL,
    SCHEMA_VERSION,
    SKIPPED_SCHEMA,
    SPLITS,
    UNMATCHED_SCHEMA,
    MaskView,
    Study,
    View,
    digest,
    study_schema,
)

__all__ = [
    "FRONTAL",
    "INTERNAL_ERROR",
    "REASONS",
    "SCHEMA_VERSION",
    "SKIPPED_SCHEMA",
    "SPLITS",
    "UNMATCHED_SCHEMA",
    "MaskView",
    "Reason",
    "Study",
    "View",
    "complete_runs",
    "digest",
    "find_score",
    "newest_rows",
    "published",
    "read_run",
    "read_scores",
    "runs_of",
    "score_schema",
    "study_schema",
    "united",
    "with_columns_of",
]
