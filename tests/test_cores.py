"""A container's quota and what Ray was told bound the cores that are used, however many the host has."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cxrpipe.config.cores import machine_cores
from cxrpipe.on_ray import session


@pytest.fixture(autouse=True)
def host_with_96_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(96)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 96)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "1600000 100000\n"}, 16),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 96),
        ({"cpu/cpu.cfs_quota_us": "1600000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 96),
        ({}, 96),
    ],
)
def test_a_container_has_the_cores_of_its_quota(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine_cores(tmp_path) == cores


@pytest.mark.parametrize(("declared", "cores"), [(16, 16), (0, 96), (128, 96)])
def test_what_a_node_declares_to_ray_bounds_its_cores(
    monkeypatch: pytest.MonkeyPatch, declared: int, cores: int
) -> None:
    nodes = [
        {"Alive": True, "NodeID": "here", "Resources": {"CPU": float(declared)} if declared else {}, "Labels": {}},
        {"Alive": True, "NodeID": "elsewhere", "Resources": {"CPU": 2.0}, "Labels": {}},
    ]
    monkeypatch.setattr(session, "machine_cores", lambda: 96)
    monkeypatch.setattr(session.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(session.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    assert session.cores() == cores
    assert session.threads(0, sharing=4) == cores // 4
    assert session.threads(3, sharing=4) == 3
