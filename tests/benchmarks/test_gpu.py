"""`benchmarks/gpu.py` on a CPU: what it measures, what it lists as not measured, and what it cuts."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT

sys.path.append(str(ROOT / "benchmarks"))

from gpu_parts import processes, report
from gpu_parts.catalogue import PARTS

MISSING = (
    "ray segmentation_models_pytorch pydicom pyarrow boto3 botocore indexed_gzip rich jsonargparse pandas scipy timm"
)
"""Packages that a lent card may lack."""


def gpu(*argv: str, without: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script; without some packages where they are named."""
    # Small networks wait for their threads: beside others all parts took 237 s of two cores, and 110 s of one.
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    if without:
        assert folder is not None
        blocker = "import importlib.machinery as machinery\nfind = machinery.PathFinder.find_spec\n"
        blocker += f"missing = set({without.split()!r})\n"
        blocker += (
            "def found(name, *rest):\n    return None if name.partition('.')[0] in missing else find(name, *rest)\n"
        )
        blocker += "machinery.PathFinder.find_spec = staticmethod(found)\n"
        (folder / "sitecustomize.py").write_text(blocker)
        env["PYTHONPATH"] = str(folder)
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), *argv]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=3200)


def result(name: str, status: str = "done", **row: object) -> processes.Result:
    return processes.Result(name, 1.0, status, "", {}, {"A table": [row]} if row else {}, [("tf32", "none here")])


def summary(*parts: processes.Result) -> report.Summary:
    return report.Summary("python benchmarks/gpu.py", "1 December 2026", 9.6, {"card": "A card"}, list(parts))


def test_help_lists_what_is_measured_on_a_card() -> None:
    shown = gpu("--help")
    assert shown.returncode == 0
    for name, part in PARTS.items():
        assert name in shown.stdout
        assert part.measures in shown.stdout


def test_an_unknown_part_is_refused() -> None:
    refused = gpu("--parts", "parity,speed")
    assert refused.returncode == 2
    assert "no part is called speed" in refused.stderr


def test_a_table_has_the_columns_of_all_rows_and_lists_what_is_missing() -> None:
    shown = report.markdown(summary(result("rates", films_s=1234.5, batch=16), result("parity", probability=0.00123)))
    assert "| films_s | batch |\n|---|---|\n| 1,234 | 16 |" in shown
    assert "| 0.00123 |" in shown
    assert "| rates | tf32 | none here |" in shown
    assert shown.startswith("`python benchmarks/gpu.py` on A card, 1 December 2026, 10 s:")


@pytest.mark.parametrize(
    ("part", "is_well"),
    [
        (result("parity", within="yes"), True),
        (result("parity", within="no"), False),
        (result("parity", "crashed", within="yes"), False),
        (result("parity", "cut", within="yes"), True),
        (result("parity", within="yes")._replace(missing=[("tf32", "failed: RuntimeError")]), False),
    ],
)
def test_crashes_failures_and_rows_beyond_what_is_allowed_are_no_success(part: processes.Result, is_well: bool) -> None:
    assert summary(part).is_well is is_well


CHILD = """
import json, sys, time
sheet = sys.argv[sys.argv.index("--sheet") + 1]
print(json.dumps({"table": "T", "row": {"what": "first"}}), file=open(sheet, "a"))
"""


@pytest.mark.parametrize(
    ("rest", "status", "reason"),
    [
        ("", "done", ""),
        ("time.sleep(60)", "cut", "the part was cut after"),
        ("raise MemoryError('of the card')", "crashed", "MemoryError: of the card"),
    ],
)
def test_a_part_that_hangs_or_crashes_keeps_its_rows(rest, status, reason, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.0)
    program = tmp_path / "child.py"
    program.write_text(CHILD + rest)
    started = time.monotonic()
    got = processes.measure("rates", "cpu", time.time() + 1.5, str(program))
    assert time.monotonic() - started < 30
    assert got.status == status
    assert got.tables == {"T": [{"what": "first"}]}
    assert reason in got.reason
    assert bool(got.missing) is bool(reason)


def test_a_part_without_its_package_or_without_time_is_listed(monkeypatch) -> None:
    part = PARTS["actor"]._replace(needs=("torch", "no_such_package"))
    monkeypatch.setitem(PARTS, "actor", part)
    got = processes.measure("actor", "cpu", time.time() + 60, "unused")
    assert (got.status, got.missing) == ("not measured", [("everything", "no_such_package not installed")])
    got = processes.measure("rates", "cpu", time.time() - 1, "unused")
    assert (got.status, got.missing) == ("cut", [("everything", "no time was left")])


def rows(parts: dict, name: str) -> list[dict]:
    assert parts[name]["status"] == "done", parts[name]
    return [row for table in parts[name]["tables"].values() for row in table]


@pytest.mark.slow
def test_without_optional_packages_everything_but_the_actor_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    ran = gpu("--device", "cpu", "--out", str(out), "--seconds", "3000", without=MISSING, folder=tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    parts = json.loads(out.read_text())["parts"]
    assert parts["actor"]["status"] == "not measured"
    assert "ray" in parts["actor"]["reason"]
    parity = [row for row in rows(parts, "parity") if "probability at most" in row]
    assert {row["precision"] for row in parity} == {"fp32", "bf16"}
    assert all(row["within"] == "yes" for row in parity)
    assert next(row["probability at most"] for row in parity if row["precision"] == "bf16") > 0
    assert any("unet-classic" in row.get("network", "") and row["films s"] > 0 for row in rows(parts, "rates"))
    assert "no memory for 256 views at once" in rows(parts, "memory")[0]["what it says"]
    assert rows(parts, "ddp")[0]["within"] == "yes"
    assert {row["order"] for row in rows(parts, "training")} == {"channels last", "contiguous"}


@pytest.mark.slow
@pytest.mark.ray
def test_the_actor_is_measured_through_ray(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    ran = gpu("--device", "cpu", "--parts", "actor", "--out", str(out), "--seconds", "900")
    assert ran.returncode == 0, ran.stderr[-3000:]
    first = rows(json.loads(out.read_text())["parts"], "actor")[0]
    assert first["studies"] == 48
    assert first["predictor alone studies s"] > 0
