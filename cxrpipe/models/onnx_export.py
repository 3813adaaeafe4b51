"""Exports a model folder as an ONNX file: (N, C, S, S) normalised views, N of any size → logits, (N, F)."""

import warnings
from pathlib import Path

import torch

from cxrpipe.models import weights
from cxrpipe.models.folder import ModelFolder


def write_onnx(model: ModelFolder, file: Path) -> None:
    """Write the network of a model as an ONNX file. This needs the package onnx, of the extra `onnx`.

    torch's exporter by TorchScript is the older of two. The newer one needs onnxscript as well.
    """
    card = model.card
    view = torch.zeros(1, card.channels, card.side_px, card.side_px)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            weights.load(model),
            (view,),
            str(file),
            dynamo=False,
            input_names=["views"],
            output_names=["logits"],
            dynamic_axes={"views": {0: "number"}, "logits": {0: "number"}},
        )
