"""Recognises the errors of torch for a device that has too little memory or is lost."""

import torch

_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "could not create a primitive",
)
"""Messages in lower case: of CUDA, the CPU allocator on Windows and Linux, the C library, cuBLAS, cuDNN and oneDNN."""
_UNSUPPORTED = ("primitive descriptor",)
"""oneDNN could not create a primitive because it has none for this call, so fewer views do not help."""
_FOR_GOOD = ("cuda error", "status_execution_failed", "status_internal_error", "status_mapping_error")
_OF_ONE_CALL = ("invalid argument", "invalid configuration argument", "no kernel image")
"""CUDA errors after which the next call may succeed."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether a call failed for lack of memory, and may succeed with fewer views at once."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _says(error, _NO_MEMORY) and not _says(error, _UNSUPPORTED)


def is_lost(error: Exception) -> bool:
    """Whether every further call of this process fails, as after an assertion on the device or an illegal access."""
    if is_out_of_memory(error) or not isinstance(error, RuntimeError) or _says(error, _OF_ONE_CALL):
        return False
    return isinstance(error, torch.AcceleratorError) or _says(error, _FOR_GOOD)


def _says(error: Exception, words: tuple[str, ...]) -> bool:
    return any(word in str(error).lower() for word in words)
