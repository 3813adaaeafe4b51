"""The actors of every stage of scoring, the machines on which they may run, and the studies in a block."""

import math
from typing import Any, NamedTuple

from ray.data import ActorPoolStrategy

from cxrpipe.config import Resources
from cxrpipe.config.cores import machine_cores
from cxrpipe.errors import ConfigError
from cxrpipe.on_ray import session
from cxrpipe.on_ray.session import Machine, Machines

SMALL_CPU = 0.25
"""Logical CPUs of a task that reads the list of studies, or finishes predicted studies and writes a part; and the least
that an actor on CPUs holds."""
TASKS_CPU = 1 + 2 * SMALL_CPU
"""Room for a task of each kind at any time: to read, to cut the list into blocks (Ray takes 1 for it), and to write."""
PREPROCESS, PREDICT = "preprocess", "predict"
_DECODERS = 2
"""Decoders of a preparer, one for each logical CPU. With one, a large machine would hold twice as many processes."""
_CORES_OF_GPU = 2
"""Cores that stay free for each predictor on a GPU: one for the network's calls, one for the blocks on their way."""
_FINISH_CORES = 1
"""Cores that stay free beside them for the tasks that finish what a predictor on a GPU gives."""
_TWO_PREDICTORS_FROM = 1_000
"""Studies from which a second predictor on the same cores repays its start and its memory.
docs/decisions.md#two-predictors-on-one-machine-of-cpus"""
_LEAST_BLOCK = 8
WAIT_FOR_NEW_S = 3600.0
"""A new machine takes 6 to 12 minutes to start, load its image and install; a spot machine may be long in coming."""


class Pool(NamedTuple):
    """The actors of one stage."""

    actors: int
    """Number of actors; of an elastic pool the greatest number."""
    cpus: float
    gpus: float
    at_start: int
    """Actors at the start. An elastic pool has fewer than `actors`, grows while its queue does, and may shrink to 1."""
    roles: tuple[str, ...] = ()
    """Labels `role` of the machines on which the actors may run; empty: any machine."""
    calls: int = 1
    """Calls that an actor has in hand. Of two, one waits for the device while the other reads, queues or writes."""

    @property
    def elastic(self) -> bool:
        return self.at_start < self.actors

    @property
    def in_flight(self) -> int:
        """Blocks that are sent to an actor before it has answered. With fewer, Ray would never enlarge a pool."""
        return 2 * self.calls

    @property
    def least_cpus(self) -> float:
        """CPUs that the pool holds from the start."""
        return self.at_start * self.cpus

    def options(self) -> dict[str, Any]:
        """Give the options of the pool for `map_batches`."""
        compute = ActorPoolStrategy(
            min_size=1 if self.elastic else self.actors,
            initial_size=self.at_start,
            max_size=self.actors,
            max_concurrent_calls_per_actor=self.calls,
            enable_true_multi_threading=self.calls > 1,  # the predictor itself gives the device one call at a time
            max_tasks_in_flight_per_actor=self.in_flight,
        )
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus, "compute": compute}
        if self.roles:
            roles = ",".join(self.roles)
            options["label_selector"] = {"role": roles if len(self.roles) == 1 else f"in({roles})"}
        return options | session.TRY_AGAIN

    def takes(self, machine: Machine) -> bool:
        """Whether a machine may hold an actor, once nothing else runs there."""
        labelled = not self.roles or machine.role in self.roles
        return labelled and machine.cpus >= self.cpus and machine.gpus >= self.gpus


class Sizing(NamedTuple):
    """The actors of all stages. They fit at once from the start, so that no stage waits for another."""

    preparers: Pool
    predictors: Pool
    decoders: int
    """Processes of a preparer that decode at the same time."""
    threads: int
    """CPU threads of a predictor, for `session.threads`; 0: its share of the cores of its machine."""
    sharing: int
    """Predictors on one machine; they share its cores."""
    block_studies: int
    """Studies in a block that travels from stage to stage."""
    wait_s: float
    """Seconds without progress after which the run ends."""

    def missing(self) -> list[str]:
        """Name the machines without which a stage cannot run. Empty: all stages can."""
        machines = session.machines()
        stages = {"prepare": self.preparers, "predict": self.predictors}
        return [
            f"one with {_offer(pool)}, to {stage}"
            for stage, pool in stages.items()
            if not any(pool.takes(machine) for machine in machines)
        ]


def size(resources: Resources, studies: int, batch_studies: int = 0) -> Sizing:
    """Fit the stages to the machine or the cluster, and the blocks to the run.

    studies        studies that are open
    batch_studies  studies of a block where the user states them; 0: chosen here

    Pools have their full size from the start, on the machines that are there; what may come later makes them elastic.
    On a GPU machine, cores stay free for each predictor, and decoders take the others. On CPUs, decoders and networks
    share the cores: the slower stage holds the other back, so that together they have little more than they need.

    Where one of several machines dies, its actors start again on the others, and must not take the CPUs that reading,
    finishing and writing need there. So actors on CPU machines hold as many logical CPUs fewer as the largest has.
    """
    everywhere = session.machines()
    labels = _labels(resources.placement, everywhere)
    predicting = (PREDICT,) if PREDICT in labels else ()
    to_predict = everywhere.labelled(predicting)
    predictors = _predictors(resources, to_predict, predicting, studies)
    preparing = _preparing(labels, everywhere, predictors, resources.cpus)
    to_prepare = everywhere.labelled(preparing)
    preparers, decoders = _preparers(resources, predictors, to_prepare, preparing)
    grows = resources.cpus > to_prepare.cpus or resources.gpus > to_predict.gpus
    sizing = Sizing(
        preparers,
        predictors,
        decoders,
        threads=resources.threads or (_CORES_OF_GPU if predictors.gpus else 0),
        sharing=1 if grows else math.ceil(predictors.actors / max(1, to_predict.working)),
        block_studies=batch_studies or _block(studies, preparers, predictors),
        wait_s=resources.wait_s or (WAIT_FOR_NEW_S if grows else session.NO_PROGRESS_S),
    )
    if not grows:
        _require(sizing, everywhere)
    return sizing


def _labels(placement: str, machines: Machines) -> set[str]:
    """Give the roles by which machines are chosen."""
    if placement == "labels":
        return {PREPROCESS, PREDICT}
    return {machine.role for machine in machines if machine.role in (PREPROCESS, PREDICT) and placement == "auto"}


def _predictors(resources: Resources, machines: Machines, roles: tuple[str, ...], studies: int) -> Pool:
    """One predictor for each GPU, else one for each machine. More predictors than GPUs share them equally.

    On this machine alone, a long run gets two on CPUs: one computes where the other hands over its studies.

    A predictor on a GPU holds no logical CPU: preparers could take all of them first, and it would never start.
    """
    gpus = max(resources.gpus, machines.gpus)
    alone = 2 if session.is_local() and machine_cores() > 1 and studies >= _TWO_PREDICTORS_FROM else 1
    actors = resources.predictors or gpus or max(alone, machines.working)
    if gpus:
        on_one = math.ceil(actors / gpus)
        return Pool(actors, 0.0, 1 / on_one, min(actors, max(1, machines.gpus * on_one)), roles, calls=2)
    grows = resources.cpus > machines.cpus
    at_start = min(actors, max(1, machines.working)) if grows else actors
    return Pool(actors, SMALL_CPU, 0.0, at_start, roles)


def _preparing(labels: set[str], machines: Machines, predictors: Pool, cpus_to_come: int) -> tuple[str, ...]:
    """Give the roles of machines that prepare. GPU machines do, too, where all together then hold more decoders.

    Ray gives each machine the same number of actors until one is full. So the GPU machine with the fewest cores to
    spare says how many decoders each may get. CPU machines that are to come are taken to be like those that are there.
    """
    if PREPROCESS not in labels:
        return ()
    cpu_machines = [machine.cpus for machine in machines if machine.role == PREPROCESS and machine.cpus]
    spare = [machine.cpus - _kept_free(machine, predictors) for machine in machines if machine.role == PREDICT]
    if predictors.gpus and cpu_machines and spare:
        more = max(1.0, cpus_to_come / sum(cpu_machines))
        each = min(spare)
        if each * len(spare) + more * sum(min(cpus, each) for cpus in cpu_machines) > more * sum(cpu_machines):
            return (PREPROCESS, PREDICT)
    return (PREPROCESS,)


def _kept_free(machine: Machine, predictors: Pool) -> float:
    """Cores of a machine that stay free for its predictors on GPUs: three for each, and at most a quarter of all."""
    here = min(predictors.actors, machine.gpus / predictors.gpus) if predictors.gpus else 0.0
    return min(here * (_CORES_OF_GPU + _FINISH_CORES), machine.cpus / 4)


def _preparers(resources: Resources, predictors: Pool, machines: Machines, roles: tuple[str, ...]) -> tuple[Pool, int]:
    """The preparers, and the decoders of each. They get the cores that predictors and tasks leave."""
    cpus = max(resources.cpus, machines.cpus)
    if roles and predictors.roles and not set(roles) & set(predictors.roles):
        kept_free, held = 0.0, TASKS_CPU
    else:
        kept_free = sum(_kept_free(machine, predictors) for machine in machines)
        held = max(TASKS_CPU, kept_free) + predictors.actors * predictors.cpus
    spare = cpus - held  # logical CPUs, each for a decoder
    if session.is_local():
        spare = min(spare, machine_cores() - kept_free)
    may_hold = min(spare, cpus - held - _reserve(machines, predictors))
    largest = max((machine.cpus for machine in machines if machine.cpus), default=cpus)
    decoders = int(max(1, min(_DECODERS, spare // (resources.preparers or 1), largest)))
    actors = resources.preparers or int(max(1, min(spare // decoders, may_hold // SMALL_CPU)))
    share = min(1.0, may_hold / spare) if spare > 0 else 1.0  # logical CPUs that an actor holds for each decoder
    each = decoders * share if actors > 1 else min(decoders, may_hold)
    each = max(SMALL_CPU, math.floor(100 * each) / 100)
    at_start = actors if cpus == machines.cpus else min(actors, max(1, int((machines.cpus - held) // each)))
    return Pool(actors, each, 0.0, at_start, roles), decoders


def _reserve(machines: Machines, predictors: Pool) -> float:
    """Logical CPUs that stay free for the actors of a machine that dies.

    Where it takes GPUs with it that predictors need, they wait for another machine in any case.
    """
    replaceable = [machine.cpus for machine in machines if not (predictors.gpus and machine.gpus)]
    return max(replaceable, default=0.0) if machines.working > 1 else 0.0


def _block(studies: int, preparers: Pool, predictors: Pool) -> int:
    """Studies of a block: 128 for a GPU, 64 for CPUs. In a short run fewer, so that every actor gets some."""
    share = studies // (2 * max(preparers.actors, predictors.actors * predictors.calls))
    return min(128 if predictors.gpus else 64, max(_LEAST_BLOCK, share))


def _offer(pool: Pool) -> str:
    """`1 GPU and the label role=predict`, as a machine must have it."""
    gpus, cpus = math.ceil(pool.gpus), max(1, math.ceil(pool.cpus))
    offer = f"{gpus} GPU" if gpus else f"{cpus} CPU{'s' * (cpus > 1)}"
    return offer + (f" and the label role={' or '.join(pool.roles)}" if pool.roles else "")


def _require(sizing: Sizing, machines: Machines) -> None:
    """Raise ConfigError where the actors do not fit."""
    preparers, predictors = sizing.preparers, sizing.predictors
    what = f"scoring with {preparers.actors} preparers and {predictors.actors} predictors"
    session.require_cpus(preparers.least_cpus + predictors.least_cpus + TASKS_CPU, what, machines.cpus)
    for pool in (preparers, predictors):
        label, labelled = f"role={' or '.join(pool.roles)}", machines.labelled(pool.roles)
        if pool.roles and not labelled:
            raise ConfigError(f"no machine is labelled {label}; label one, or choose --resources.placement any")
        if pool.roles:
            session.require_cpus(pool.least_cpus, f"{what} on machines labelled {label}", labelled.cpus)
