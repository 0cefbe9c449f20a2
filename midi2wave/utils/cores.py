"""The number of processor cores that this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SYSTEM_ROOT = Path("/")
CPU_MAX = "cpu.max"  # cgroup v2: "QUOTA PERIOD" in microseconds, or "max PERIOD".
CPU_QUOTA, CPU_PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"  # cgroup v1; a quota of -1: none.


def usable_cores(root: Path = SYSTEM_ROOT) -> int:
    """How many processes or threads can compute at the same time.

    This is the smaller one of the cores that the process may run on (taskset, cpusets) and of the quota of its
    container (`docker run --cpus`, Kubernetes limits), rounded down: threads beyond the quota are stopped in the middle
    of their work, and those that wait for them lose the time, too.

    Args:
        root: Where proc and the cgroup file systems are looked for.

    Returns:
        At least 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def cpu_quota(root: Path = SYSTEM_ROOT) -> float | None:
    """The quota of CPU time of this process's cgroups, in cores.

    Args:
        root: Where proc and the cgroup file systems are looked for.

    Returns:
        The smallest quota of the process's cgroup and of those around it; None without one, and outside Linux.
    """
    quotas = (_quota(folder) for folder in _cgroup_folders(root))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(folder: Path) -> float | None:
    """The quota that the files of one cgroup set, in cores."""
    try:
        if (folder / CPU_MAX).is_file():
            quota, period = (folder / CPU_MAX).read_text(encoding="ascii").split()
        else:
            quota, period = ((folder / name).read_text(encoding="ascii") for name in (CPU_QUOTA, CPU_PERIOD))
        # "max" and -1 mean that there is none.
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None
    except (OSError, ValueError):
        return None


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """The folders of this process's cgroups and of those around them, of both versions of cgroups."""
    process = root / "proc/self"
    try:
        memberships = (process / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        mounts = (process / "mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    paths: dict[str, PurePosixPath] = {}  # Controller -> the process's cgroup; "" for version 2.
    for membership in memberships:  # "4:cpu,cpuacct:/docker/1f0a" or "0::/user.slice"
        _, controllers, path = [*membership.split(":", 2), "", ""][:3]
        paths |= dict.fromkeys(controllers.split(","), PurePosixPath(path))
    for mount in mounts:  # "30 25 0:26 ROOT MOUNT_POINT rw,nosuid shared:4 - TYPE SOURCE OPTIONS"
        before, _, after = mount.partition(" - ")
        fields, (kind, *options) = before.split(), after.split() or [""]
        is_cpu_v1 = kind == "cgroup" and "cpu" in options[-1].split(",")
        controller = "" if kind == "cgroup2" else "cpu" if is_cpu_v1 else None
        if controller in paths and len(fields) >= 5:
            yield from _folders_up(root / fields[4].lstrip("/"), PurePosixPath(fields[3]), paths[controller])


def _folders_up(mount_point: Path, mounted: PurePosixPath, cgroup: PurePosixPath) -> Iterator[Path]:
    """The folder of a cgroup below the mount point at which the cgroup `mounted` is, and all folders above it."""
    # In a container without a cgroup namespace the process may be listed under a path that is not mounted there.
    folder = mount_point / cgroup.relative_to(mounted) if cgroup.is_relative_to(mounted) else mount_point
    while True:
        yield folder
        if folder == mount_point:
            return
        folder = folder.parent
