"""One Ray session: on the cluster of RAY_ADDRESS, else on this machine. It is quiet, and has the CPUs that it needs."""

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ray
import ray.data
import ray.data.exceptions

from cxrpipe import console, errors
from cxrpipe.config.cores import machine_cores
from cxrpipe.errors import ConfigError, CxrError, RunError
from cxrpipe.on_ray import LOCAL_CPUS

NO_PROGRESS_S = 600
"""A run in which nothing moves for so long is ended, unless `waiting` says otherwise."""
CONNECT_TIMEOUT_S = 10
LOOK_EVERY_S = 3.0
SAY_AGAIN_S = 60.0
BESIDE_CORES = 2
"""Logical CPUs of a session on one machine beside its cores, for tasks that mostly wait, so that as many decoders run
as there are cores. docs/decisions.md#logical-cpus-are-tokens"""
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
            num_cpus=max(LOCAL_CPUS, at_least_cpus, machine_cores() + BESIDE_CORES),
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


class Machine(NamedTuple):
    """A machine of the cluster that is alive, and what it declares to Ray."""

    cpus: float
    gpus: float
    role: str | None
    """Value of its label `role`."""


class Machines(tuple[Machine, ...]):
    """Machines of the cluster that are alive, a head without CPUs among them."""

    @property
    def cpus(self) -> float:
        return sum(machine.cpus for machine in self)

    @property
    def gpus(self) -> int:
        return int(sum(machine.gpus for machine in self))

    @property
    def working(self) -> int:
        """Number of machines that have CPUs."""
        return sum(machine.cpus > 0 for machine in self)

    def labelled(self, roles: tuple[str, ...]) -> "Machines":
        """Those with one of the roles; without a role all."""
        return Machines(machine for machine in self if not roles or machine.role in roles)


def machines() -> Machines:
    """List the machines that are alive."""
    return Machines(
        Machine(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0), node["Labels"].get("role"))
        for node in _nodes()
    )


def _nodes() -> list[dict[str, Any]]:
    """List the machines that are alive."""
    list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    return [node for node in list_nodes() if node["Alive"]]


def cores() -> int:
    """Count the cores of this machine that Ray and its container leave to us: at least 1.

    A pod of 16 CPUs on a host of 96 has 16, by the quota of its container or by what its node declares to Ray.
    """
    here = ray.get_runtime_context().get_node_id()
    declared = sum(int(node["Resources"].get("CPU", 0.0)) for node in _nodes() if node["NodeID"] == here)
    return min(machine_cores(), declared or machine_cores())


def threads(configured: int, sharing: int = 1) -> int:
    """Give the threads of one of `sharing` processes that compute on this machine. configured 0: its share of cores."""
    return configured or max(1, cores() // sharing)


def is_local() -> bool:
    """Whether the session runs on this machine alone. Its logical CPUs may then be more than its cores."""
    return not os.environ.get("RAY_ADDRESS") and len(_nodes()) == 1


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
    available = cluster_cpus() if available is None else available
    if needed > available:
        raise ConfigError(
            f"{what} needs {needed:g} logical CPUs, and Ray has {available:g}; ask for fewer actors or workers"
        )


@contextlib.contextmanager
def waiting(missing: Callable[[], Sequence[str]], wait_s: float) -> Iterator[None]:
    """Let data sets that are made in the block stand still for `wait_s`, and say meanwhile what they wait for.

    missing  names the machines without which a stage cannot run; empty: all can. It is called every few seconds

    Ray Data counts blocks, and takes a run that waits for machines for one that hangs. RunError after `wait_s`.
    """
    context = ray.data.DataContext.get_current()
    before, context.execution_no_progress_timeout_s = context.execution_no_progress_timeout_s, wait_s
    ended = threading.Event()
    thread = threading.Thread(target=_say_missing, args=(missing, wait_s, ended), daemon=True)
    thread.start()
    try:
        yield
    except ray.data.exceptions.ExecutionTimeoutError as error:
        machines = "; ".join(missing())
        reason = f"waited for machines: {machines}" if machines else f"{error}"
        raise RunError(f"no progress for {wait_s:g} s ({reason}); run the same command again to resume") from error
    finally:
        context.execution_no_progress_timeout_s = before
        ended.set()
        thread.join()


def _say_missing(missing: Callable[[], Sequence[str]], wait_s: float, ended: threading.Event) -> None:
    """Say at most once in `SAY_AGAIN_S` which machines are missing."""
    said_at = -SAY_AGAIN_S
    with contextlib.suppress(ray.exceptions.RayError):
        while not ended.wait(LOOK_EVERY_S):
            machines = missing()
            if machines and time.monotonic() - said_at >= SAY_AGAIN_S:
                console.log(f"waiting for machines, for {wait_s:g} s at most: {'; '.join(machines)}")
                said_at = time.monotonic()
