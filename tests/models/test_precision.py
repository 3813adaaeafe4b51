"""bf16 where there are units for it, and nowhere else."""

from pathlib import Path

import pytest
import torch

from cxrpipe.errors import ConfigError
from cxrpipe.models import precision as precisions
from cxrpipe.models.precision import autocast, has_bf16_units, resolve, set_float32

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


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


@pytest.mark.parametrize(
    ("bf16", "capability", "chosen"), [(True, (9, 0), "bf16"), (False, (7, 5), "fp16"), (False, (6, 1), "fp32")]
)
def test_a_card_without_units_for_bf16_computes_in_fp16_where_it_can(monkeypatch, bf16, capability, chosen):
    monkeypatch.setattr(precisions, "has_bf16_units", lambda device: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve("auto", CUDA) == chosen
    assert resolve("fp32", CUDA) == "fp32"


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_cpu_refuses_what_only_cards_have(precision):
    with pytest.raises(ConfigError, match=f"precision {precision} needs a CUDA device"):
        resolve(precision, CPU)
    assert resolve(precision, CUDA) == precision


@pytest.fixture
def _flags_restored():
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


@pytest.mark.usefixtures("_flags_restored")
@pytest.mark.parametrize(
    ("precision", "tf32_convolutions", "tf32_products"),
    [("fp32", False, False), ("tf32", True, True), ("bf16", True, False), ("fp16", True, False)],
)
def test_float32_on_a_card_is_what_its_name_says(precision, tf32_convolutions, tf32_products):
    set_float32(precision)
    assert torch.backends.cudnn.allow_tf32 == tf32_convolutions
    assert torch.backends.cuda.matmul.allow_tf32 == tf32_products
