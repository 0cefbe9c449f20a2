"""The usable cores in containers, whose cgroup files are generated here."""

import os
from pathlib import Path

import pytest

from midi2wave.utils.cores import cpu_quota, usable_cores

V2_MOUNT = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "33 30 0:29 {root} /sys/fs/cgroup/cpu,cpuacct ro master:15 - cgroup cgroup rw,cpu,cpuacct"
CPUSET_MOUNT = "34 30 0:30 / /sys/fs/cgroup/cpuset ro master:16 - cgroup cgroup rw,cpuset"


def write_system(root: Path, cgroup: str, mounts: list[str], files: dict[str, str]) -> Path:
    """The files by which Linux shows the cgroups of a process, below `root`."""
    texts = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": "\n".join(mounts), **files}
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def v1_files(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    """The files of one cgroup of version 1."""
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": str(period)}


SYSTEMS = {
    "v2 container": (2.5, "0::/", [V2_MOUNT], {"sys/fs/cgroup/cpu.max": "250000 100000"}),
    "v2 without a quota": (None, "0::/", [V2_MOUNT], {"sys/fs/cgroup/cpu.max": "max 100000"}),
    "v2 quota of a cgroup above": (
        1.5,
        "0::/kubepods/pod1/box",
        [V2_MOUNT],
        {
            "sys/fs/cgroup/kubepods/cpu.max": "800000 100000",
            "sys/fs/cgroup/kubepods/pod1/cpu.max": "150000 100000",
            "sys/fs/cgroup/kubepods/pod1/box/cpu.max": "max 100000",
        },
    ),
    "v2 quota of another cgroup": (None, "0::/a", [V2_MOUNT], {"sys/fs/cgroup/b/cpu.max": "100000 100000"}),
    "v1 on the host": (
        3.0,
        "5:cpuset:/\n4:cpu,cpuacct:/batch/job7",
        [CPUSET_MOUNT, V1_MOUNT.format(root="/")],
        v1_files("sys/fs/cgroup/cpu,cpuacct/batch/job7", 150_000, 50_000),
    ),
    "v1 container, cgroup mounted": (
        2.0,
        "4:cpu,cpuacct:/docker/1f0a",
        [V1_MOUNT.format(root="/docker/1f0a")],
        v1_files("sys/fs/cgroup/cpu,cpuacct", 200_000),
    ),
    "v1 container, other path": (
        2.0,
        "4:cpu,cpuacct:/docker/1f0a",
        [V1_MOUNT.format(root="/elsewhere")],
        v1_files("sys/fs/cgroup/cpu,cpuacct", 200_000),
    ),
    "v1 without a quota": (
        None,
        "4:cpu,cpuacct:/",
        [V1_MOUNT.format(root="/")],
        v1_files("sys/fs/cgroup/cpu,cpuacct", -1),
    ),
    "both versions": (
        1.0,
        "4:cpu,cpuacct:/job\n0::/job",
        [V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"), V1_MOUNT.format(root="/")],
        v1_files("sys/fs/cgroup/cpu,cpuacct/job", 100_000),
    ),
    "damaged files": (None, "0::\nx\n\n::", [V2_MOUNT, "1", " - ", "- cgroup"], {"sys/fs/cgroup/cpu.max": "1 a b"}),
    "period of zero": (None, "0::/", [V2_MOUNT], {"sys/fs/cgroup/cpu.max": "1000 0"}),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_quota_is_read_from_cgroup_files(tmp_path, name):
    quota, *system = SYSTEMS[name]
    assert cpu_quota(write_system(tmp_path, *system)) == quota


def test_no_proc_means_no_quota(tmp_path):
    """As on macOS and Windows."""
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("100000", 1), ("199999", 1), ("250000", 2), ("max", 6)])
def test_cores_are_the_smaller_of_affinity_and_quota(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    system = write_system(tmp_path, "0::/", [V2_MOUNT], {"sys/fs/cgroup/cpu.max": f"{quota} 100000"})
    assert usable_cores(system) == cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores(system) == 1


def test_cores_without_affinity(tmp_path, monkeypatch):
    """macOS and Windows do not say on which cores a process may run."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores(tmp_path) == 5
