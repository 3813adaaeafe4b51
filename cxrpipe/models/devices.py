"""What torch raises when a device has too little memory, or fails for good."""

import torch

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
"""In lower case: of CUDA, of the allocator for CPUs on Windows and on Linux, of the C library, of cuBLAS and cuDNN."""
_FOR_GOOD = ("cuda error", "status_execution_failed", "status_internal_error", "status_mapping_error")
_OF_ONE_CALL = ("invalid argument", "invalid configuration argument", "no kernel image")
"""CUDA errors after which the next call may succeed."""


def is_out_of_memory(error: Exception) -> bool:
    """With fewer views at once it may succeed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _says(error, _NO_MEMORY)


def is_lost(error: Exception) -> bool:
    """After an assertion on the device or an illegal access every call of this process fails, whatever it asks."""
    if is_out_of_memory(error) or not isinstance(error, RuntimeError) or _says(error, _OF_ONE_CALL):
        return False
    return isinstance(error, torch.AcceleratorError) or _says(error, _FOR_GOOD)


def _says(error: Exception, words: tuple[str, ...]) -> bool:
    return any(each in str(error).lower() for each in words)
