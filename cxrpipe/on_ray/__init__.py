"""The only package that imports ray: it makes the plain functions parallel.

Ray reads these settings when it is imported, so they stand here, before any module of the package is.
"""

import os

LOCAL_CPUS = 4
"""A session on one machine declares at least so many logical CPUs: they are tokens, not cores."""

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0")  # see session.AHEAD
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # by default 2: a training starts 3 s later
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Ray Data's actor pools print a C++ "error" at every start about arguments that it keeps itself (#53727).
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray warns at four processes per core, which our fractional actors reach on two cores.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(max(LOCAL_CPUS, os.cpu_count() or 1)))
