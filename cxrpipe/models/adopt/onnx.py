"""Adopts ONNX files, which ONNX Runtime runs: onnx:FILE.

The file says nothing of how films were prepared. Flags do; what they leave open is assumed, and printed.
"""

import hashlib

import torch

from cxrpipe import storage
from cxrpipe.config import AdoptConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.adopt.adopted import Adopted, assumptions, fields, provenance
from cxrpipe.models.adopt.findings import named_outputs
from cxrpipe.models.card import Card
from cxrpipe.models.folder import ONNX
from cxrpipe.models.onnx_network import OnnxNetwork
from cxrpipe.models.weights import IMAGENET_MEAN, IMAGENET_MEANS, IMAGENET_STD, IMAGENET_STDS

_SIDE_PX = 224
_NAMES = ("findings", "classes", "labels", "names")
"""Keys of metadata_props under which exporters write the names of the outputs, separated by commas."""
_LOUDNESS = (1.0, 10.0, 100.0, 1000.0)
"""Standard deviations of the noise that a file is tried with. Its logits leave 0..1 where the noise is loud."""
_PROBABILITIES = (
    "on noise all its outputs lie between 0 and 1, as probabilities do; cxrpipe takes logits, so export the model "
    "without its sigmoid or softmax"
)


def adopt(name: str, config: AdoptConfig) -> Adopted:
    """A classifier in an ONNX file: N x C x S x S → logits, N x F."""
    url = storage.normalise(name)
    try:
        data = storage.read(url)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ConfigError(f"{config.source}: no such file; expected an ONNX file") from None
    network = OnnxNetwork(data, config.source)
    form = network.form
    if form.side_px and config.side_px not in (None, form.side_px):
        raise ConfigError(f"--side-px {config.side_px}: {config.source} takes squares of {form.side_px} px alone")
    colour = form.channels == 3
    assumed = {
        "side_px": _SIDE_PX,
        "mean": IMAGENET_MEANS if colour else IMAGENET_MEAN,
        "std": IMAGENET_STDS if colour else IMAGENET_STD,
        "fit": "squash",
        "resize": "bilinear",
        "intensity": "voi",
        "output": "sigmoid",
    }
    of_file = {"side_px": form.side_px} if form.side_px else {}
    preparation = fields(config, **assumed | of_file)
    noise = torch.randn(len(_LOUDNESS), form.channels, preparation["side_px"], preparation["side_px"])
    noise *= torch.tensor(_LOUDNESS)[:, None, None, None]
    try:
        logits = network(noise)
    except RuntimeError as error:
        tried = f"{len(_LOUDNESS)} views of {preparation['side_px']} px"
        raise ConfigError(f"{error}; tried with {tried} (--side-px)") from None
    props = next((form.metadata[key] for key in _NAMES if form.metadata.get(key)), "")
    names = named_outputs(config.source, props.split(",") if props else (), config.findings, logits.shape[1])
    card = Card(
        task="classify",
        architecture=ONNX,
        findings=tuple(filter(None, names)),
        outputs=names if "" in names else (),
        channels=form.channels,
        **preparation,
    )
    is_probability = bool(((logits >= 0) & (logits <= 1)).all())
    facts = provenance(
        config.source,
        form.metadata.get("license") or form.metadata.get("licence"),
        warnings=(_PROBABILITIES,) if is_probability else (),
        file_sha256=hashlib.sha256(data).hexdigest(),
    )
    remaining = {field: value for field, value in assumed.items() if field not in of_file}
    return Adopted(card, data, facts, assumptions(config, remaining))
