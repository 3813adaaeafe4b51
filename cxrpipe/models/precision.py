"""Decides on a precision. Machines without units for bf16 emulate it, slower than float32."""

import contextlib
from pathlib import Path
from typing import Any

import torch

from cxrpipe.errors import ConfigError

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ON_CUDA_ONLY = ("tf32", "fp16")
_UNITS = ("avx512_bf16", "amx_bf16")
_CPUINFO = Path("/proc/cpuinfo")
_FP16_UNITS_FROM = (7, 0)
"""CUDA's compute capability: V100, T4 and RTX 20 have units for fp16, and none for bf16."""


def resolve(precision: str, device: torch.device) -> str:
    """`auto` → what the device has units for: `bf16`, else `fp16` (CUDA only), else `fp32`; any other name as it is.

    ConfigError where the device cannot compute in the precision.
    """
    if precision == "auto":
        if has_bf16_units(device):
            return "bf16"
        return "fp16" if device.type == "cuda" and _has_fp16_units(device) else "fp32"
    if precision in _ON_CUDA_ONLY and device.type != "cuda":
        raise ConfigError(f"precision {precision} needs a CUDA device, and this is a {device.type}; name fp32 or bf16")
    return precision


def has_bf16_units(device: torch.device, cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the device has units for bf16. Without them ResNet-18 took 1.8 times as long (AVX-512, 2 threads)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not cpuinfo.exists():  # not Linux. Apple's CPUs have units from the M2 on, but no such file
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return any(unit in flags.split() for unit in _UNITS)


def _has_fp16_units(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= _FP16_UNITS_FROM


def set_float32(precision: str) -> None:
    """Set how this process multiplies float32 on CUDA devices, where torch's convolutions take TF32 by default.

    fp32        IEEE float32 throughout
    tf32        TF32 throughout, of which 10 bits are significant
    bf16, fp16  TF32 in the few convolutions that stay in float32 (IEEE would be slow), IEEE in the layer of the logits

    These are the older of torch's two settings. With the newer one, `fp32_precision`, torch.compile of torch 2.9 to
    2.11 raises "mix of the legacy and new APIs" (pytorch/pytorch#166387).
    """
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """A context that multiplies in a precision, as `resolve` takes it; in `fp32` and `tf32` it changes nothing."""
    dtype = PRECISIONS[resolve(precision, device)]
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
