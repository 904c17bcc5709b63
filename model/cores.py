"""How many CPU cores this process may use."""

import os
from math import ceil
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cores(cgroup: Path = CGROUP) -> int:
    """Return the cores that this process may use: those that it is kept to, and no more than its container's share of time.

    A container with ``--cpus 1`` sees all cores of its host, and is stopped for tens of milliseconds once it has used more
    than its share of them.

    Args:
        cgroup: where the kernel shows the container's limits, of either version.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux, where a process may be kept to some of them
        found = len(os.sched_getaffinity(0))
    else:
        found = os.cpu_count() or 1
    quota = _quota(cgroup)
    return found if quota is None else max(min(found, ceil(quota)), 1)


def _quota(cgroup: Path) -> float | None:
    """Return the share of time in cores; None if there is no limit."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
    except (OSError, ValueError):
        return None
