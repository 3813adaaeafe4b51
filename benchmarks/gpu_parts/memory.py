"""An out-of-memory that is survived: the device gets a limit that a batch does not fit under."""

import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cxrpipe.models import devices
from cxrpipe.models.ensemble import Ensemble
from gpu_parts import ensembles, models, ours
from gpu_parts.scales import Scale, scale_for
from gpu_parts.sheet import Sheet
from gpu_parts.training import batch_of

_VIEWS = 256
_FEW, _MORE = 8, 32
"""Views whose memory is measured. From them follows what the batch needs."""
_ROOM = 0.4
"""Part of what the batch needs that the limit leaves."""
_ROOM_ON_A_CPU = 30 << 20
"""The same on a CPU in bytes: its allocator keeps memory, so needs cannot be measured."""
_SAME = 1e-4
"""Greatest difference of a probability: other batch sizes may take other kernels."""


def run(sheet: Sheet, device: str) -> None:
    scale = scale_for(device)
    with tempfile.TemporaryDirectory() as scratch:
        ensemble = ensembles.make(Path(scratch), scale, device, crops=False, explains=False, learns=False)
        sheet.measure("a batch that does not fit", lambda: _scoring(sheet, ensemble, device))
    ours.forget()
    if device == "cuda":
        sheet.measure("a training step that does not fit", lambda: _training(sheet, scale))
    else:
        sheet.missing("a training step that does not fit", "it would not be the memory of a card")


def _scoring(sheet: Sheet, ensemble: Ensemble, device: str) -> None:
    lines: list[str] = []
    predictor = ours.predictor(ensemble, device, say=lines.append)
    predictor.views_at_once = None  # a CPU, too, gets the whole batch at once
    pixels = ensembles.noise(ensemble, _VIEWS)

    def predict(views: int) -> np.ndarray:
        return ours.outcome(predictor, {key: batch[:views] for key, batch in pixels.items()}).probs

    room = _room(device, predict, most=_VIEWS)  # networks on a card are called with 64 views: no line through two sizes
    limit = _limit(device, room)
    try:
        first = predict(_VIEWS)
        lines_of_first = list(lines)
        second = predict(_VIEWS)
    finally:
        _unlimited(device)
    predictor = ours.predictor(ensemble, device)  # the one before remembers its limit
    unlimited = predict(_VIEWS)
    off = max(float(np.abs(probs - unlimited).max()) for probs in (first, second))
    more_lines = len(lines) - len(lines_of_first)
    sheet.row(
        "An out-of-memory that is survived",
        what=f"the ensemble on {_VIEWS} views, fp32",
        room_MB=room / 1e6,
        limit_MB=limit / 1e6,
        what_it_says="; ".join(lines_of_first) or "nothing",
        lines_at_the_next_batch=more_lines,
        probability_at_most=off,
        within="yes" if lines_of_first and not more_lines and off <= _SAME else "no",
    )


def _training(sheet: Sheet, scale: Scale) -> None:
    """A step that is too large raises torch's error, and the next one, which fits, works."""
    card = models.classifier_card(scale.classifier, scale.classifier_px)
    torch.manual_seed(0)
    network = ours.for_training(card, "cuda", channels_last=True)
    loss, optimizer = ours.loss_of(card), ours.optimizer_of(network)

    def step(images: int) -> None:
        ours.step(network, card, loss, optimizer, batch_of(card, images, "cuda"), "bf16")

    room = _room("cuda", step)
    limit = _limit("cuda", room)
    message, works = "", False
    try:
        try:
            step(_VIEWS)
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            message = str(error).split(". ")[0]
        optimizer.zero_grad(set_to_none=True)
        ours.forget()
        step(_FEW)
        works = all(bool(parameter.isfinite().all()) for parameter in network.parameters())
    finally:
        _unlimited("cuda")
    sheet.row(
        "An out-of-memory that is survived",
        what=f"a training step of {card.architecture} on {_VIEWS} images, then on {_FEW}, bf16",
        room_MB=room / 1e6,
        limit_MB=limit / 1e6,
        what_it_says=message or "nothing",
        within="yes" if message and works else "no",
    )


# ---- limits -----------------------------------------------------------------------------------------------------


def _room(device: str, work: Callable[[int], object], most: int = _MORE) -> int:
    """Bytes that the limit leaves beyond what stays in use: too few for the whole batch, enough for a small part of it.

    most  views of the larger of the two batches whose memory is measured
    """
    work(_FEW)
    if device == "cpu":
        return _ROOM_ON_A_CPU
    peaks = []
    for views in (_FEW, most):
        _used()
        work(views)
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_reserved())
    few, more = peaks
    return int(_ROOM * (few - _used() + (_VIEWS - _FEW) * (more - few) / (most - _FEW)))


def _used() -> int:
    """Bytes of the card that stay in use; peaks count from here."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_reserved()


def _limit(device: str, room: int) -> int:
    """Let the device take `room` bytes beyond what it has. Gives the limit in bytes."""
    if device == "cuda":
        limit = _used() + room
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
        return limit
    lines = Path("/proc/self/status").read_text().splitlines()
    limit = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize:")) + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return limit


def _unlimited(device: str) -> None:
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)
    else:
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
