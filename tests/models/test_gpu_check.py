"""The check of the GPUs before a night, on a machine that may have none."""

import runpy

import pytest
import torch

from cxrpipe.models import gpu_check


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_a_machine_without_a_usable_gpu_fails_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("cxrpipe.models.gpu_check", run_name="__main__")
    assert "finds no GPU that it can use" in str(ended.value.code)  # Python prints it and ends with status 1
    assert "\n" not in str(ended.value.code)


def test_a_torch_without_cuda_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(RuntimeError, match=f"torch {torch.__version__.partition('+')[0]}.* is built without CUDA"):
        gpu_check.check()


def test_a_gpu_for_which_torch_has_no_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernels(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA V100")
    monkeypatch.setattr(torch, "ones", no_kernels)
    with pytest.raises(RuntimeError, match=r"GPU 0 \(NVIDIA V100\) does not compute: CUDA error: no kernel image"):
        gpu_check.check()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_every_gpu_has_a_line() -> None:
    assert gpu_check.check().count("GiB") == torch.cuda.device_count()
