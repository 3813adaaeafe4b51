"""Opens a pickled module in a process of its own, and takes nothing from that process but tensors and names.

Opening a pickle runs its author's code. The process has an environment without credentials, an empty folder as its
home, and the wall of `cxrpipe.images.wall`: behind it the process has no network and cannot write, and reads only files
of Python and of system libraries. It answers with a safetensors file, which is data, and ends.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cxrpipe import console
from cxrpipe.errors import ConfigError
from cxrpipe.images import wall
from cxrpipe.models.architectures import MESSAGE_CHARACTERS

_LIMIT_S = 600
_MEMORY_BYTES = 64 << 30
"""Address space. torch maps some 10 GB of its libraries where they hold kernels for GPUs."""


class Unpickled(NamedTuple):
    """What a process found in a pickled module."""

    tensors: dict[str, Tensor]
    outputs: tuple[str, ...]
    """Names of the module's outputs, where it has `pathologies` or `targets` as a module of torchxrayvision has."""


def unpickle(data: bytes, url: str) -> Unpickled:
    """Open a pickled file that the user trusts. ConfigError where it holds no module."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _main; _main()"
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as home:
        try:
            ended = subprocess.run(
                [sys.executable, "-I", "-c", code],
                input=data,
                capture_output=True,
                cwd=home,
                env=wall.environment() | {"HOME": home, "TMPDIR": home},
                timeout=_LIMIT_S,
                start_new_session=True,  # detached from the terminal
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(f"{url}: not opened within {_LIMIT_S} s; expected a file of torch.save") from None
    lines = ["".join(filter(str.isprintable, line)) for line in ended.stderr.decode(errors="replace").splitlines()]
    if ended.returncode:
        why = textwrap.shorten(lines[-1] if lines else "", MESSAGE_CHARACTERS) or f"exit status {ended.returncode}"
        raise ConfigError(f"{url}: cannot be opened ({why}); expected a module that torch.save has written")
    parts = next(line for line in lines if line.startswith(_WALL)).removeprefix(_WALL)
    console.log(f"{url}: opened in a process of its own, behind {parts}")
    try:
        tensors = safetensors.torch.load(ended.stdout)
        names = json.loads(tensors.pop(_NAMES).numpy().tobytes())
        return Unpickled(tensors, tuple(map(str, names)))
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{url}: the process that opened it gave no weights ({error})") from None


_NAMES = "cxrpipe.outputs"
"""The tensor that carries the names of the outputs, as JSON: safetensors.torch.load drops metadata."""
_WALL = "parts that stand: "


def _main() -> None:
    """The program of the process: a pickle on stdin, safetensors on stdout; on stderr the wall, and then any error."""
    answer = os.dup(1)
    os.dup2(2, 1)  # code of strangers may print
    with contextlib.suppress(ImportError):  # behind the wall only folders of Python can be read
        import torchxrayvision  # noqa: F401
    print(_WALL + (", ".join(wall.raise_wall(_MEMORY_BYTES)) or "limits alone"), file=sys.stderr, flush=True)
    state, names = _state_of(torch.load(io.BytesIO(sys.stdin.buffer.read()), "cpu", weights_only=False))
    tensors = {key: value.detach().clone().contiguous() for key, value in state.items()}
    tensors[_NAMES] = torch.frombuffer(bytearray(json.dumps(names).encode()), dtype=torch.uint8)
    with open(answer, "wb") as file:
        file.write(safetensors.torch.save(tensors))


def _state_of(content: object) -> tuple[dict[str, Tensor], list[str]]:
    """The state of a module, or of the module in a checkpoint, and the names of its outputs."""
    if isinstance(content, dict):
        modules = [value for value in content.values() if isinstance(value, nn.Module)]
        content = modules[0] if len(modules) == 1 else content
    if not isinstance(content, nn.Module):
        raise TypeError(f"it holds a {type(content).__name__} and no module")
    for module in content.modules():
        # Modules that torch before 1.6 has saved lack it (pytorch/pytorch issue 42242).
        module.__dict__.setdefault("_non_persistent_buffers_set", set())
    names = getattr(content, "pathologies", None) or getattr(content, "targets", None) or []
    return content.state_dict(), list(map(str, names))
