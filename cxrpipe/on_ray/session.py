"""One Ray session: a cluster where there is one, else this machine; quiet, and never without the CPUs it needs."""

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import ray
import ray.data
import ray.data.exceptions

from cxrpipe import errors
from cxrpipe.errors import ConfigError, CxrError, RunError
from cxrpipe.on_ray import LOCAL_CPUS

NO_PROGRESS_S = 600
TRY_TWICE: dict[str, Any] = {"max_task_retries": 1}
"""For actors: by default a file that kills its process is given to the next one for ever."""


@contextlib.contextmanager
def session(at_least_cpus: int = LOCAL_CPUS) -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, use a session that runs already, or start one here and end it after."""
    ours = not ray.is_initialized()
    if ours:
        _start(at_least_cpus)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it would log as an error, it raises as well
    # There is no other way yet to set max_task_retries (Ray 2.60).
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    try:
        yield
    except ray.exceptions.RayError as error:
        if ours_inside := _our_error(error):
            raise ours_inside from error
        raise
    except ray.data.exceptions.ExecutionTimeoutError as error:
        raise RunError(f"nothing moved for {NO_PROGRESS_S} s ({error}); the same command goes on from here") from error
    finally:
        if ours:
            ray.shutdown()


def _start(at_least_cpus: int) -> None:
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
        return
    with _native_stderr_to_null():
        ray.init(
            address="local",
            num_cpus=max(LOCAL_CPUS, at_least_cpus, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


@contextlib.contextmanager
def _native_stderr_to_null() -> Iterator[None]:
    """Ray's C++ core says on stderr that it has been told to say less. What Python raises is not affected."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _our_error(error: ray.exceptions.RayError) -> CxrError | None:
    """What one of our functions raised in a worker. Ray Data keeps its text, not the object."""
    found = re.search(r"^cxrpipe\.errors\.(StoreError|ConfigError|RunError): (.*)$", str(error), re.MULTILINE)
    return getattr(errors, found[1])(found[2]) if found else None


def cluster_cpus() -> float:
    return ray.cluster_resources().get("CPU", 0.0)


def cluster_gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def require_cpus(needed: float, what: str) -> None:
    """Refuse at once what would otherwise wait for ever."""
    if needed > cluster_cpus():
        raise ConfigError(
            f"{what} needs {needed:g} logical CPUs, and Ray has {cluster_cpus():g}; ask for fewer actors or workers"
        )
