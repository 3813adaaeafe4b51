"""The only package that imports ray: it runs the plain functions of the other packages in parallel.

Ray reads environment variables when it is imported, so they are set here, before any module of this package.
"""

import os

from cxrpipe.config.cores import machine_cores

LOCAL_CPUS = 4
"""Logical CPUs that a session on one machine declares at least. Logical CPUs are tokens, not cores."""

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0")  # see session.AHEAD
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # with the default of 2, a training starts 3 s later
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # At every start, Ray Data's actor pools print a C++ "error" about arguments that Ray itself keeps (ray#53727).
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray warns at four processes per core. Actors with fractions of a CPU reach this number on two cores.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(max(LOCAL_CPUS, machine_cores())))
