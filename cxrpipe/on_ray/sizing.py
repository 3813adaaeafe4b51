"""The number of actors of every stage of scoring, and the machines on which they may run."""

import os
from typing import Any, NamedTuple

from ray.data import ActorPoolStrategy

from cxrpipe.config import Resources
from cxrpipe.errors import ConfigError
from cxrpipe.on_ray import session

SMALL_CPU = 0.25
"""Logical CPUs of a task that reads the list of studies or writes parts."""
PREPROCESS, PREDICT = "preprocess", "predict"


class Pool(NamedTuple):
    """The actors of one stage."""

    actors: int
    """Number of actors; of an elastic pool the greatest number."""
    cpus: float
    gpus: float
    elastic: bool
    """The pool starts with one actor, and grows while its queue does."""
    role: str | None
    """Label `role` of the machines on which the actors may run; None: on any machine."""

    @property
    def least_cpus(self) -> float:
        """CPUs that the pool holds from the start."""
        return (1 if self.elastic else self.actors) * self.cpus

    def options(self) -> dict[str, Any]:
        """Give the options of the pool for `map_batches`."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.elastic:
            options["compute"] = ActorPoolStrategy(min_size=1, max_size=self.actors)
        else:
            options["compute"] = ActorPoolStrategy(size=self.actors)
        if self.role:
            options["label_selector"] = {"role": self.role}
        return options | session.TRY_AGAIN


class Sizing(NamedTuple):
    """The actors of all stages. They fit at once from the start, so that no stage waits for another."""

    preparers: Pool
    predictors: Pool
    threads: int
    """CPU threads of a predictor; 0: all cores of its machine."""


def size(resources: Resources) -> Sizing:
    """Fit the stages to the machine or the cluster. One preparer keeps a CPU predictor busy; a GPU needs many.

    On several machines, pools are elastic and leave as many CPUs free as the largest machine has. If a machine dies,
    its actors start again on the others, and must not take the CPUs that reading, predicting and writing need there.
    """
    roles = _roles(resources.placement)
    on_all, for_preparing = session.machines(), session.machines(PREPROCESS if PREPROCESS in roles else None)
    for_predicting = session.machines(PREDICT if PREDICT in roles else None)
    gpus = max(resources.gpus, for_predicting.gpus)
    grows = resources.cpus > for_preparing.cpus or resources.gpus > for_predicting.gpus
    elastic = grows or on_all.number > 1
    predictor_cpus = 0.0 if gpus else 1.0
    predictors = resources.predictors or gpus or (max(1, for_predicting.number) if elastic else 1)
    cpus = max(resources.cpus, for_preparing.cpus)
    shared = 0.0 if roles == {PREPROCESS, PREDICT} else predictors * predictor_cpus
    reserve = for_preparing.largest_cpus if for_preparing.number > 1 else 0.0
    spare = cpus - reserve - shared - 2 * SMALL_CPU
    preparers = resources.preparers or max(1, int(spare if gpus else spare // 4))
    preparer_cpus = 0.5 if preparers == 1 else 1.0
    sizing = Sizing(
        Pool(preparers, preparer_cpus, 0.0, elastic, PREPROCESS if PREPROCESS in roles else None),
        # More predictors than GPUs share them.
        Pool(predictors, predictor_cpus, min(1.0, gpus / predictors), elastic, PREDICT if PREDICT in roles else None),
        resources.threads or _threads(predictors, bool(gpus), elastic),
    )
    if not grows:
        _require(sizing, on_all, for_preparing, for_predicting)
    return sizing


def _roles(placement: str) -> set[str]:
    """Give the roles by which machines are chosen."""
    if placement == "labels":
        return {PREPROCESS, PREDICT}
    return session.roles() & {PREPROCESS, PREDICT} if placement == "auto" else set()


def _threads(predictors: int, on_gpu: bool, elastic: bool) -> int:
    """Give the threads of a predictor: on one machine predictors share the cores, on several each has a machine."""
    return 0 if elastic and not on_gpu else max(1, (os.cpu_count() or 1) // (1 if on_gpu else predictors))


def _require(sizing: Sizing, *available: session.Machines) -> None:
    """Raise ConfigError where the first actors do not fit.

    available  all machines, then the machines for preparing, then those for predicting
    """
    both = sizing.preparers.least_cpus + sizing.predictors.least_cpus + 2 * SMALL_CPU
    what = f"scoring with {sizing.preparers.actors} preparers and {sizing.predictors.actors} predictors"
    needed = [both, sizing.preparers.least_cpus, sizing.predictors.least_cpus]
    for pool, cpus, machines in zip((None, *sizing[:2]), needed, available, strict=True):
        role = pool.role if pool else None
        session.require_cpus(cpus, what + (f" on machines labelled role={role}" if role else ""), machines.cpus)
        if role and not machines.number:
            raise ConfigError(f"no machine is labelled role={role}; label one, or choose --resources.placement any")
