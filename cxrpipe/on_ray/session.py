"""One Ray session: a cluster where there is one, else this machine; quiet, and never without the CPUs it needs."""

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import ray
import ray.data
import ray.data.exceptions

from cxrpipe import errors
from cxrpipe.errors import ConfigError, CxrError, RunError
from cxrpipe.on_ray import LOCAL_CPUS

NO_PROGRESS_S = 600
CONNECT_TIMEOUT_S = 10
AHEAD = 10.0
"""How many times what a stage has in hand may wait before it. Left alone, reading is through with the list at once, and
small blocks wait in the driver: 1.2 kB for each study (docs/decisions.md)."""
TRY_AGAIN: dict[str, Any] = {"max_task_retries": 20}
"""For actors. By default what kills its process is given to the next one for ever; one try more is too few, for those
made while Ray does not know yet that a machine is gone count, too."""


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
    context.downstream_capacity_backpressure_ratio = AHEAD
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it would log as an error, it raises as well
    # There is no other way yet to set max_task_retries (Ray 2.60).
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    try:
        yield
    except ray.exceptions.RayError as error:
        if ours_inside := _our_error(error):
            raise ours_inside from error
        if isinstance(error, ray.exceptions.RayTaskError):  # a bug in what we gave Ray to do
            raise
        said = " ".join(str(error).split())[:300]
        raise RunError(f"Ray lost what it needs to go on ({said}); the same command goes on from here") from error
    except ray.data.exceptions.ExecutionTimeoutError as error:
        raise RunError(f"nothing moved for {NO_PROGRESS_S} s ({error}); the same command goes on from here") from error
    finally:
        if ours:
            ray.shutdown()


def _start(at_least_cpus: int) -> None:
    address = os.environ.get("RAY_ADDRESS")
    try:
        with _sigterm_kept():
            _join(address) if address else _start_here(at_least_cpus)
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:  # ConnectionError and TimeoutError are OSErrors
        raise _no_ray(address, error) from error
    finally:
        plain = sys.exception()  # Ray 2.60 raises a plain `Exception` where a node took more than 30 s to start
        if type(plain) is Exception:
            raise _no_ray(address, plain) from plain


def _no_ray(address: str | None, error: Exception) -> RunError:
    said = " ".join(str(error).split())[:300]
    if address:
        return RunError(f"RAY_ADDRESS={address}: no Ray cluster answers ({said}); see that it is up: ray status")
    return RunError(f"Ray did not start on this machine ({said}); when it is less busy, run the same command again")


def _join(address: str) -> None:
    # A knock first: ray.init tries an address where nobody is for over two minutes, silently.
    if place := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address):
        socket.create_connection((place[1], int(place[2])), CONNECT_TIMEOUT_S).close()
    ray.init(logging_level=logging.WARNING)


def _start_here(at_least_cpus: int) -> None:
    with _native_stderr_to_null():
        ray.init(
            address="local",
            num_cpus=max(LOCAL_CPUS, at_least_cpus, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray makes SIGTERM end the program with status 15, which is none of ours, and without a word."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as ended:  # it came meanwhile
        if ended.code == signal.SIGTERM:
            raise KeyboardInterrupt from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


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


class Machines(NamedTuple):
    """What the living machines of the cluster offer to work."""

    number: int
    """Machines with a CPU."""
    cpus: float
    largest_cpus: float
    """Of the largest machine."""
    gpus: int


def machines(role: str | None = None) -> Machines:
    """The machines that are there now, or those labelled with this role."""
    alive = [node for node in ray.nodes() if node["Alive"] and (role is None or _role(node) == role)]
    cpus = [node["Resources"].get("CPU", 0.0) for node in alive]
    gpus = sum(node["Resources"].get("GPU", 0.0) for node in alive)
    return Machines(sum(own > 0 for own in cpus), sum(cpus), max(cpus, default=0.0), int(gpus))


def roles() -> set[str]:
    """The values of the label `role` of the machines that are there now."""
    return {role for node in ray.nodes() if node["Alive"] and (role := _role(node))}


def _role(node: dict[str, Any]) -> str | None:
    return node["Labels"].get("role")


def cluster_cpus() -> float:
    return machines().cpus


def cluster_gpus() -> int:
    return machines().gpus


def require_cpus(needed: float, what: str, there: float | None = None) -> None:
    """Refuse at once what would otherwise wait for ever. `there`: logical CPUs; without it those of all machines."""
    there = machines().cpus if there is None else there
    if needed > there:
        raise ConfigError(
            f"{what} needs {needed:g} logical CPUs, and Ray has {there:g}; ask for fewer actors or workers"
        )
