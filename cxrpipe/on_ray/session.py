"""One Ray session: a cluster where there is one, else this machine; quiet, and never without the CPUs it needs."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

LOCAL_CPUS = 4
"""At least so many logical CPUs are declared on one machine: they are tokens, not cores (see docs/decisions.md)."""
NO_PROGRESS_S = 600
TRY_TWICE: dict[str, Any] = {"max_task_retries": 1}
"""For actors: by default a file that kills its process is given to the next one for ever."""

# Before ray is imported: it reads them then.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # by default 2: a training starts 3 s later
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Ray Data's actor pools print a C++ "error" at every start about arguments that it keeps itself (#53727).
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray warns at four processes per core, which our fractional actors reach on two cores.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(max(LOCAL_CPUS, os.cpu_count() or 1)))

import ray  # noqa: E402
import ray.data  # noqa: E402

from cxrpipe.errors import ConfigError, CxrError  # noqa: E402


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
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # There is no other way yet to set max_task_retries (Ray 2.60).
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    try:
        yield
    except ray.exceptions.RayError as error:
        raise _cause(error) from error
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


def _cause(error: BaseException) -> BaseException:
    """Our own error out of Ray's wrapping; anything else is a bug and stays as it is."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, CxrError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error


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
