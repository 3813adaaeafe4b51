"""Watches a run for errors in this program: logs every kind of error once, and stops the run if errors are common."""

from cxrpipe import console
from cxrpipe.errors import RunError
from cxrpipe.records.id_set import IdSet
from cxrpipe.scoring.faults import Fault
from cxrpipe.scoring.parts import Receipt

FIRST = 50
"""If so many studies at the beginning of a run all meet an error, the program is at fault and not a study."""
ENOUGH, TOO_MANY = 500, 0.02
"""After so many finished studies, a larger share of errors than this stops the run too."""


class FaultWatch:
    """Counts the errors in all receipts of a run.

    studies  of the run
    done     studies of the run that were scored before this attempt. A resumed run has no first studies: it goes on
             with the studies that met an error
    known    studies that met an error in an earlier run too. They do not count again
    private  the ids are pseudonyms: no log line holds the message of an exception
    """

    def __init__(self, studies: int, done: int = 0, known: IdSet | None = None, private: bool = False) -> None:
        self._studies = studies
        self._finished, self._faulty = done, 0
        self._leading: int | None = 0 if done == 0 else None  # studies with an error before the first study without one
        self._known = IdSet() if known is None else known
        self._private = private
        self._first_met: dict[str, str] = {}  # kind of error → the first study that met it

    def add(self, receipt: Receipt) -> None:
        """Count the errors of a part. RunError where too many studies meet an error."""
        for study in receipt.faults:
            if study.fault.kind not in self._first_met:
                self._first_met[study.fault.kind] = study.study_id
                tell(study.study_id, study.fault, self._private)
        is_new = ~self._known.contains([study.study_id for study in receipt.faults])
        self._finished += receipt.studies
        self._faulty += int(is_new.sum())
        if self._leading is not None:
            unbroken = next((n for n, study in enumerate(receipt.faults) if study.place != n), len(receipt.faults))
            self._leading += int(is_new[:unbroken].sum())
            if self._leading >= min(FIRST, self._studies):
                self._stop(f"all of the first {self._leading:,} studies that finished")
            if unbroken < receipt.studies:
                self._leading = None
        if self._finished >= ENOUGH and self._faulty > TOO_MANY * self._finished:
            self._stop(f"{self._faulty:,} of the first {self._finished:,} studies that finished")

    def _stop(self, studies: str) -> None:
        kind, study_id = next(iter(self._first_met.items()))
        raise RunError(
            f"{studies} met an error in this program, first {study_id}: {kind} (its traceback stands above). "
            "Nothing is published; correct the error and run the same command again: it resumes here"
        )


def tell(study_id: str, fault: Fault, private: bool) -> None:
    """Log the study, the kind of error and its traceback."""
    headline = f"study {study_id} met an error in this program (`internal_error`): {fault.kind}"
    console.log(f"{headline}; further errors of this kind are only counted\n{fault.text(private)}", "error")
