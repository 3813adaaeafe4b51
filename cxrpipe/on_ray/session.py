"""One Ray session: on the cluster of RAY_ADDRESS, else on this machine. It is quiet, and has the CPUs that it needs."""

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
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
"""How many times the work in hand of a stage may wait in front of it. Without a limit, reading finishes the list at
once, and small blocks wait in the driver: 1.2 kB per study.
docs/decisions.md#stages-are-kept-a-little-ahead-of-each-other"""
TRY_AGAIN: dict[str, Any] = {"max_task_retries": 20}
"""Options of actors. By default Ray retries a task that kills its actor without end. 20 tries survive the loss of a
node; 1 does not, because tries count that Ray makes before it knows that the node is gone."""


@contextlib.contextmanager
def session(at_least_cpus: int = LOCAL_CPUS) -> Iterator[None]:
    """Use the session of this process, else join the cluster of RAY_ADDRESS, else start Ray for this block."""
    ours = not ray.is_initialized()
    if ours:
        _start(at_least_cpus)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.downstream_capacity_backpressure_ratio = AHEAD
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # Ray Data also raises the errors that it logs
    # Ray 2.60 has no other way to set max_task_retries.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    try:
        yield
    except ray.exceptions.RayError as error:
        if ours_inside := our_error(error):
            raise ours_inside from error
        if isinstance(error, ray.exceptions.RayTaskError):  # a bug in a function that Ray runs
            raise
        message = " ".join(str(error).split())[:300]
        raise RunError(f"Ray cannot continue ({message}); run the same command again to resume") from error
    except ray.data.exceptions.ExecutionTimeoutError as error:
        raise RunError(f"no progress for {NO_PROGRESS_S} s ({error}); run the same command again to resume") from error
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
        plain = sys.exception()  # Ray 2.60 raises a plain `Exception` if a node takes more than 30 s to start
        if type(plain) is Exception:
            raise _no_ray(address, plain) from plain


def _no_ray(address: str | None, error: Exception) -> RunError:
    message = " ".join(str(error).split())[:300]
    if address:
        return RunError(f"RAY_ADDRESS={address}: no Ray cluster answers ({message}); check it with: ray status")
    return RunError(f"Ray did not start on this machine ({message}); run the same command again when it is less busy")


def _join(address: str) -> None:
    # Connect first: where no cluster answers, ray.init waits silently for over two minutes.
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
    """Keep the handler of SIGTERM: that of Ray ends the program silently, with status 15, which has no meaning here."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as ended:  # SIGTERM arrived in the block
        if ended.code == signal.SIGTERM:
            raise KeyboardInterrupt from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _native_stderr_to_null() -> Iterator[None]:
    """Send stderr of native code to /dev/null: Ray's C++ core prints its log level. Python still raises errors."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def our_error(error: Exception) -> CxrError | None:
    """Rebuild the error that a function of this package raised in a worker. Ray keeps its text, not the object."""
    match = re.search(r"^cxrpipe\.errors\.(StoreError|ConfigError|RunError): (.*)$", str(error), re.MULTILINE)
    if match is None:
        return None
    kind: type[CxrError] = getattr(errors, match[1])
    return kind(match[2])


class Machines(NamedTuple):
    """The machines of the cluster that are alive, and what they offer."""

    number: int
    """Machines with a CPU."""
    cpus: float
    largest_cpus: float
    """CPUs of the largest machine."""
    gpus: int


def machines(role: str | None = None) -> Machines:
    """Count the machines that are alive; with a role, only those with this label."""
    alive = [node for node in _nodes() if (role is None or _role(node) == role)]
    cpus = [node["Resources"].get("CPU", 0.0) for node in alive]
    gpus = sum(node["Resources"].get("GPU", 0.0) for node in alive)
    return Machines(sum(count > 0 for count in cpus), sum(cpus), max(cpus, default=0.0), int(gpus))


def roles() -> set[str]:
    """List the values of the label `role` of all machines that are alive."""
    return {role for node in _nodes() if (role := _role(node))}


def _nodes() -> list[dict[str, Any]]:
    """List the machines that are alive."""
    list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    return [node for node in list_nodes() if node["Alive"]]


def _role(node: dict[str, Any]) -> str | None:
    role: str | None = node["Labels"].get("role")
    return role


def cluster_cpus() -> float:
    """Count the logical CPUs of all machines."""
    return machines().cpus


def cluster_gpus() -> int:
    """Count the GPUs of all machines."""
    return machines().gpus


def require_cpus(needed: float, what: str, available: float | None = None) -> None:
    """Raise ConfigError at once where Ray would wait without end for CPUs.

    what       the work that needs them, for the error
    available  logical CPUs; None: those of all machines
    """
    available = machines().cpus if available is None else available
    if needed > available:
        raise ConfigError(
            f"{what} needs {needed:g} logical CPUs, and Ray has {available:g}; ask for fewer actors or workers"
        )
