"""The records of the project: studies, views, score rows and reports of runs, with their Arrow schemas and readers."""

from cxrpipe.records.flags import FLAGS, Flag
from cxrpipe.records.readers import (
    CompleteRuns,
    complete_runs,
    find_score,
    read_scores,
    runs_of,
    united,
    with_columns_of,
)
from cxrpipe.records.reasons import INTERNAL_ERROR, REASONS, Reason
from cxrpipe.records.run_report import ModelReport, RunReport
from cxrpipe.records.score import ASIDE, score_schema
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
    "ASIDE",
    "FLAGS",
    "FRONTAL",
    "INTERNAL_ERROR",
    "REASONS",
    "SCHEMA_VERSION",
    "SKIPPED_SCHEMA",
    "SPLITS",
    "UNMATCHED_SCHEMA",
    "CompleteRuns",
    "Flag",
    "MaskView",
    "ModelReport",
    "Reason",
    "RunReport",
    "Study",
    "View",
    "complete_runs",
    "digest",
    "find_score",
    "read_scores",
    "runs_of",
    "score_schema",
    "study_schema",
    "united",
    "with_columns_of",
]
