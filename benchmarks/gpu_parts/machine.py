"""What the machine is: the first process, which also says which device the others use."""

import os
import platform
import subprocess
from pathlib import Path

import torch

from gpu_parts.sheet import Sheet


def run(sheet: Sheet, device: str) -> None:
    """Write the facts down. `device` is `cuda` where torch can compute on it, unless the CPU is asked for."""
    has_cuda = device != "cpu" and torch.cuda.is_available()
    if has_cuda:
        (torch.ones(2, device="cuda") + 1).sum().item()  # a driver that is too old fails here, with a message
        properties = torch.cuda.get_device_properties(0)
        sheet.fact("card", properties.name)
        sheet.fact("memory", f"{properties.total_memory / 2**30:.0f} GiB")
        sheet.fact("capability", f"sm_{properties.major}{properties.minor}")
        sheet.fact("driver", f"driver {_driver()}")
        sheet.fact("cuda", f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    sheet.fact("cpu", f"{len(os.sched_getaffinity(0))} CPUs ({_cpu()})")
    sheet.fact("torch", f"torch {torch.__version__}, Python {platform.python_version()}")
    sheet.fact("device", "cuda" if has_cuda else "cpu")


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.split("\n")[0].strip()


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
