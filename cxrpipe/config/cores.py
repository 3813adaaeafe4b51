"""The cores that a process may use. `os.cpu_count()` counts those of the host, also inside a container with a quota."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def machine_cores(cgroup: Path = _CGROUP) -> int:
    """Count the cores that affinity and the container's quota leave to this process: at least 1.

    cgroup  where Linux shows the limits of this container
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """The container's quota in cores; infinite where none is set. Version 2 of cgroups has one file, version 1 two."""
    try:
        if (version_2 := cgroup / "cpu.max").exists():
            quota, period = version_2.read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (OSError, ValueError):  # no cgroups, or `max`
        return math.inf
