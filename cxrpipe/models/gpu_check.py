"""Checks before a night that torch can compute on a GPU of this machine: python -m cxrpipe.models.gpu_check

It prints a line for each GPU and ends with status 0; else it prints what is wrong on stderr and ends with status 1.
Machines whose driver is too old, or absent, then fail when they come up. Without the check Ray starts predictors on
them, and each predictor fails in turn.
"""

import sys

import torch


def check() -> str:
    """Compute on every GPU that torch sees: a line for each, or RuntimeError with what is wrong."""
    if not torch.version.cuda:
        raise RuntimeError(f"torch {torch.__version__} is built without CUDA; GPU machines need the torch of PyPI")
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"torch {torch.__version__} for CUDA {torch.version.cuda} finds no GPU that it can use on this machine: "
            "the driver is absent or too old (see `nvidia-smi`), or the container was started without the GPU"
        )
    return "\n".join(_compute_on(number) for number in range(torch.cuda.device_count()))


def _compute_on(number: int) -> str:
    """One small matrix product. It fails where torch has no kernels for a card, although the driver is fine."""
    name = torch.cuda.get_device_name(number)
    try:
        ones = torch.ones(16, 16, device=f"cuda:{number}")
        total = float((ones @ ones).sum())
    except RuntimeError as error:
        raise RuntimeError(f"GPU {number} ({name}) does not compute: {error}") from error
    if total != 16.0**3:
        raise RuntimeError(f"GPU {number} ({name}) computes wrongly: {total} instead of {16.0**3}")
    memory_gib = torch.cuda.get_device_properties(number).total_memory / 2**30
    return f"GPU {number}: {name}, {memory_gib:.1f} GiB, torch {torch.__version__}, CUDA {torch.version.cuda}"


def _main() -> None:
    try:
        print(check())
    except RuntimeError as error:
        sys.exit(f"cxrpipe: {error}")


if __name__ == "__main__":
    _main()
