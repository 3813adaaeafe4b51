"""Decides on bf16. Machines without units for it emulate it, slower than float32."""

import contextlib
from pathlib import Path
from typing import Any

import torch

_UNITS = ("avx512_bf16", "amx_bf16")
_CPUINFO = Path("/proc/cpuinfo")


def has_bf16_units(device: torch.device, cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the device has units for bf16. Without them ResNet-18 took 1.8 times as long (AVX-512, 2 threads)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not cpuinfo.exists():  # not Linux. Apple's CPUs have units from the M2 on, but no such file
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return any(unit in flags.split() for unit in _UNITS)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """A context that computes in a precision: `fp32`, `bf16`, or `auto` (bf16 if the device has units for it)."""
    wanted = precision == "bf16" or (precision == "auto" and has_bf16_units(device))
    return torch.autocast(device.type, torch.bfloat16) if wanted else contextlib.nullcontext()
