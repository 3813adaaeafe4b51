"""Where a training runs: on CPUs or GPUs, on machines that are there or that an autoscaler brings."""

from typing import NamedTuple

import ray.train

from cxrpipe.config import TrainConfig
from cxrpipe.errors import ConfigError
from cxrpipe.on_ray import session
from cxrpipe.on_ray.sizing import WAIT_FOR_NEW_S

_FOR_DATA = 1
"""Logical CPUs that Ray Data needs beside the workers, to cut blocks for them."""
_KEPT_FREE = 2
"""Logical CPUs that preparation leaves to reading and splitting."""


class Placement(NamedTuple):
    """The machines of a training."""

    workers: int
    on_gpu: bool
    preparers: int
    """Greatest number of actors that prepare images."""
    wait_s: float
    """Seconds that preparation, or the start of the workers, may wait for machines."""
    why_cpu: str
    """Why a training whose settings leave the choice runs on CPUs; else empty."""

    def scaling(self) -> ray.train.ScalingConfig:
        """A GPU worker takes one GPU and no logical CPU, for machines may offer GPUs alone; a CPU worker takes one."""
        resources = {"GPU": 1.0} if self.on_gpu else {"CPU": 1.0}
        return ray.train.ScalingConfig(num_workers=self.workers, use_gpu=self.on_gpu, resources_per_worker=resources)

    def __str__(self) -> str:
        """Say it in one line."""
        kind = ("GPU" if self.on_gpu else "CPU") + "s" * (self.workers > 1)
        what = f"{self.workers} workers on {kind}" if self.workers > 1 else f"one worker on a {kind}"
        waiting = ", as soon as the machines have come" if self.missing_to_train() else ""
        return f"training with {what}{waiting}" + (f" ({self.why_cpu})" if self.why_cpu else "")

    def missing_to_prepare(self) -> list[str]:
        """Name the machines without which no image can be prepared. Empty: they are there."""
        return [] if session.machines().cpus else ["one with CPUs, to prepare images"]

    def missing_to_train(self) -> list[str]:
        """Name the machines without which the workers cannot start. Empty: they are there."""
        now = session.machines()
        missing = self.workers - now.gpus if self.on_gpu else self.workers + _FOR_DATA - now.cpus
        return [f"{missing:g} {'GPUs' if self.on_gpu else 'CPUs'} more, to train"] if missing > 0 else []


def place(config: TrainConfig) -> Placement:
    """Choose CPUs or GPUs; ConfigError at once where the workers can never start."""
    now, limits, workers = session.machines(), config.resources, config.workers
    cpus, gpus = max(now.cpus, limits.cpus), max(now.gpus, limits.gpus)
    on_gpu = gpus > 0 if config.use_gpu == "auto" else config.use_gpu == "on"
    if on_gpu and workers > gpus:
        raise ConfigError(
            f"training with {workers} workers needs {workers} GPUs, one each, and {_offer('GPUs', now.gpus, gpus)}; "
            "lower --workers, train with --use-gpu off, or say with --resources.gpus how many may come"
        )
    grows = limits.cpus > now.cpus or limits.gpus > now.gpus
    if not on_gpu or not limits.gpus > now.gpus:  # machines with GPUs that come bring CPUs, too
        needed = _FOR_DATA + (0 if on_gpu else workers)
        if needed > cpus:
            raise ConfigError(
                f"training with {workers} workers needs {needed} logical CPUs, and {_offer('CPUs', now.cpus, cpus)}; "
                "lower --workers, or say with --resources.cpus how many may come"
            )
    return Placement(
        workers,
        on_gpu,
        preparers=max(1, int(cpus) - _KEPT_FREE),
        wait_s=limits.wait_s or (WAIT_FOR_NEW_S if grows else session.NO_PROGRESS_S),
        why_cpu="no GPU is there; if some may come, say how many with --resources.gpus"
        if config.use_gpu == "auto" and not on_gpu
        else "",
    )


def _offer(what: str, now: float, most: float) -> str:
    """Say what there is, and what there may be."""
    return f"Ray has {now:g} {what}" + (f" of at most {most:g}" if most > now else "")
