"""What a run does about errors in this program: it tells each kind once, and stops where they are everywhere."""

from cxrpipe import console
from cxrpipe.errors import RunError
from cxrpipe.records.id_set import IdSet
from cxrpipe.scoring.faults import Fault
from cxrpipe.scoring.parts import Receipt

FIRST = 50
"""Where so many studies finish first in a run, and all of them meet an error, it is no study that is at fault."""
ENOUGH, TOO_MANY = 500, 0.02
"""From so many finished studies on, a larger share than this is no matter of single studies either."""


class FaultWatch:
    """Hears of every receipt of a run.

    studies  of the run
    done     of these, scored before this attempt: a run that has some, and goes on with those that met an error, has
             no first studies any more
    known    studies that met an error in an earlier run too: when they do it again, that is news of them alone
    private  the studies' ids are pseudonyms: what is told holds no message of an exception
    """

    def __init__(self, studies: int, done: int = 0, known: IdSet | None = None, private: bool = False) -> None:
        self._studies = studies
        self._finished, self._faulty = done, 0
        self._leading: int | None = 0 if done == 0 else None  # that met an error before the first that did not
        self._known = IdSet() if known is None else known
        self._private = private
        self._told: dict[str, str] = {}  # kind → the study that met it first

    def add(self, receipt: Receipt) -> None:
        """RunError where the error is everywhere."""
        for met in receipt.faults:
            if met.fault.kind not in self._told:
                self._told[met.fault.kind] = met.study_id
                tell(met.study_id, met.fault, self._private)
        is_new = ~self._known.contains([met.study_id for met in receipt.faults])
        self._finished += receipt.studies
        self._faulty += int(is_new.sum())
        if self._leading is not None:
            unbroken = next((n for n, met in enumerate(receipt.faults) if met.place != n), len(receipt.faults))
            self._leading += int(is_new[:unbroken].sum())
            if self._leading >= min(FIRST, self._studies):
                self._stop(f"all of the first {self._leading:,} studies that finished")
            if unbroken < receipt.studies:
                self._leading = None
        if self._finished >= ENOUGH and self._faulty > TOO_MANY * self._finished:
            self._stop(f"{self._faulty:,} of the first {self._finished:,} studies that finished")

    def _stop(self, which: str) -> None:
        kind, study_id = next(iter(self._told.items()))
        raise RunError(
            f"{which} met an error in this program, first {study_id}: {kind} (its traceback stands above). "
            "Nothing is published; when the error is mended, the same command goes on from here"
        )


def tell(study_id: str, fault: Fault, private: bool) -> None:
    """One log entry: the study, the kind of error and its traceback."""
    met = f"study {study_id} met an error in this program (`internal_error`): {fault.kind}"
    console.log(f"{met}; others of this kind are only counted\n{fault.text(private)}", "error")
