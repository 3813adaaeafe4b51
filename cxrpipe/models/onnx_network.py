"""ONNX files, run by ONNX Runtime as if they were networks of torch. An ONNX file is data: loading it runs no code."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cxrpipe import console
from cxrpipe.errors import ConfigError

_CUDA = "CUDAExecutionProvider"
_INSTALL = "pip install 'cxrpipe[onnx]' (on CUDA: onnxruntime-gpu in the place of onnxruntime)"


class Form(NamedTuple):
    """What an ONNX file takes and gives."""

    channels: int
    side_px: int | None
    """None: any."""
    outputs: int | None
    """Columns of its output, (N, outputs); None: the file does not say."""
    batch: int | None
    """Views of a call; None: any number."""
    metadata: dict[str, str]
    """The file's metadata_props."""


def runtime() -> Any:
    """Import ONNX Runtime; ConfigError where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"an ONNX file needs ONNX Runtime: {_INSTALL}") from None
    return onnxruntime


def _form(session: Any, where: str) -> Form:
    """The form of an open file. ConfigError where it is no classifier of one image.

    where  begins the message of an error
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ConfigError(f"{where}: {len(inputs)} inputs and {len(outputs)} outputs; expected one of each")
    shape, kind = inputs[0].shape, inputs[0].type
    sizes = [size if isinstance(size, int) and size > 0 else None for size in shape]
    if kind != "tensor(float)":
        raise ConfigError(f"{where}: its input is a {kind}; expected a tensor(float) of shape N x C x S x S")
    if len(sizes) != 4 or sizes[1] not in (1, 3) or sizes[2] != sizes[3]:
        shown = " x ".join(map(str, shape))
        raise ConfigError(f"{where}: its input has the shape {shown}; expected N x C x S x S with C 1 or 3")
    of_output = outputs[0].shape
    if outputs[0].type != "tensor(float)" or len(of_output) != 2:
        shown = " x ".join(map(str, of_output))
        raise ConfigError(f"{where}: its output has the shape {shown} ({outputs[0].type}); expected logits, N x F")
    columns = of_output[1] if isinstance(of_output[1], int) else None
    return Form(sizes[1], sizes[2], columns, sizes[0], dict(session.get_modelmeta().custom_metadata_map))


class OnnxNetwork(nn.Module):
    """An ONNX file as a network: (N, C, S, S) float32 → (N, F), computed on the device of the views.

    One session is open at a time: on the CPU, until views come that lie on another device. A session holds all weights
    once more, and opening it optimises the graph.

    data   content of the file
    where  begins the message of an error
    """

    def __init__(self, data: bytes, where: str) -> None:
        super().__init__()
        self._data, self._where = data, where
        self._opened_for = torch.device("cpu")
        self._session = _session(data, where, self._opened_for)
        self.form = _form(self._session, where)

    def forward(self, views: Tensor) -> Tensor:
        if views.device.type != self._opened_for.type:
            self._session, self._opened_for = _session(self._data, self._where, views.device), views.device
        pixels = views.float().contiguous().cpu().numpy()
        logits = [self._call(part) for part in _split(pixels, self.form.batch or len(pixels))]
        return torch.from_numpy(np.concatenate(logits)).to(views.device)

    def _call(self, pixels: np.ndarray) -> np.ndarray:
        """One call. A file with a fixed number of views gets so many, the last ones black."""
        missing = (self.form.batch or len(pixels)) - len(pixels)
        filled = np.pad(pixels, [(0, missing), (0, 0), (0, 0), (0, 0)]) if missing else pixels
        try:
            (logits,) = self._session.run(None, {self._session.get_inputs()[0].name: filled})
        except _errors(runtime()) as error:
            raise RuntimeError(f"{self._where}: ONNX Runtime fails ({_line(error)})") from error
        return np.asarray(logits)[: len(pixels)]


def _split(pixels: np.ndarray, size: int) -> list[np.ndarray]:
    return [pixels[start : start + size] for start in range(0, len(pixels), size)]


def _session(data: bytes, where: str, device: torch.device) -> Any:
    """Open a file on a device, with as many threads as torch has."""
    library = runtime()
    options = library.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3  # errors alone: they are raised as well
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other networks share the cores
    # Tensors outside the file would not be part of its hash.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/nonexistent")
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda" and _CUDA in library.get_available_providers():
        providers.insert(0, _CUDA)
    elif device.type == "cuda":
        console.log(f"{where}: ONNX Runtime has no {_CUDA} here and runs on the CPU; {_INSTALL}")
    try:
        return library.InferenceSession(data, options, providers=providers)
    except _errors(library) as error:
        raise ConfigError(f"{where}: ONNX Runtime cannot load it ({_line(error)})") from None


def _errors(library: Any) -> tuple[type[Exception], ...]:
    """The exceptions of ONNX Runtime, which have no class in common."""
    kinds = vars(library.capi.onnxruntime_pybind11_state).values()
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))


def _line(error: Exception) -> str:
    return f"{str(error).strip().splitlines()[0]:.200}"
