"""bf16 where there are units for it, and nowhere else."""

from pathlib import Path

import pytest
import torch

from cxrpipe.models.precision import autocast, has_bf16_units

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "units"), [("avx512f avx512_vnni", False), ("avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True)]
)
def test_a_cpu_has_units_where_its_flags_say_so(flags, units, tmp_path: Path):
    file = tmp_path / "cpuinfo"
    file.write_text(f"model name\t: some\nflags\t\t: fpu {flags}\n")
    assert has_bf16_units(CPU, file) is units


def test_a_machine_that_does_not_say_has_none(tmp_path: Path):
    assert not has_bf16_units(CPU, tmp_path / "nowhere")


@pytest.mark.parametrize(("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_precision_asked_for_is_used_on_any_machine(precision, kind):
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is kind
