"""An out-of-memory that is survived: the device gets a limit that a batch does not fit under."""

import resource
import tempfile
from pathlib import Path

import numpy as np
import torch

from cxrpipe.models.ensemble import Ensemble
from gpu_parts import ensembles, models, ours
from gpu_parts.scales import Scale, scale_for
from gpu_parts.sheet import Sheet

_VIEWS = {"cuda": 256, "cpu": 256}
_FEWER = 8
_ROOM = 0.4
"""Part of what the batch needs that the limit leaves."""
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
    pixels = ensembles.noise(ensemble, _VIEWS[device])
    few = {preparation: views[:_FEWER] for preparation, views in pixels.items()}
    predictor.predict(few)
    before = _used(device)
    free = predictor.predict(pixels)
    needed = _peak(device) - before
    del predictor
    ours.forget()
    predictor = ours.predictor(ensemble, device, say=lines.append)
    predictor.predict(few)
    limit = _limit(device, int(_ROOM * needed))
    try:
        limited = predictor.predict(pixels)
        first, lines_again = list(lines), lines.clear()
        again = predictor.predict(pixels)
    finally:
        _unlimited(device)
    del lines_again
    off = max(float(np.abs(one.probs - free.probs).max()) for one in (limited, again))
    sheet.row(
        "An out-of-memory that is survived",
        what=f"the ensemble on {_VIEWS[device]} views, fp32",
        needed_MB=needed / 1e6,
        limit_MB=limit / 1e6,
        what_it_says="; ".join(first) or "nothing",
        lines_at_the_next_batch=len(lines),
        probability_at_most=off,
        within="yes" if first and not lines and off <= _SAME else "no",
    )


def _training(sheet: Sheet, scale: Scale) -> None:
    """A step that is too large raises torch's error, and the next one, which fits, works."""
    card = models.classifier_card(scale.classifier, scale.classifier_px)
    torch.manual_seed(0)
    network = ours.for_training(card, "cuda", channels_last=True)
    loss, optimizer = ours.loss_of(card), ours.optimizer_of(network)

    def step(images: int) -> None:
        pixels = torch.randint(0, 256, (images, 1, card.side_px, card.side_px), dtype=torch.uint8, device="cuda")
        targets = torch.rand(images, len(card.findings), device="cuda").round()
        ours.step(network, card, loss, optimizer, (pixels, targets), "bf16")

    step(_FEWER)
    before = _used("cuda")
    step(_VIEWS["cuda"])
    needed = _peak("cuda") - before
    optimizer.zero_grad(set_to_none=True)
    ours.forget()
    limit = _limit("cuda", int(_ROOM * needed))
    message, works = "", False
    try:
        try:
            step(_VIEWS["cuda"])
        except torch.OutOfMemoryError as error:
            message = str(error).split(". ")[0]
        optimizer.zero_grad(set_to_none=True)
        ours.forget()
        step(_FEWER)
        works = all(bool(parameter.isfinite().all()) for parameter in network.parameters())
    finally:
        _unlimited("cuda")
    sheet.row(
        "An out-of-memory that is survived",
        what=f"a training step of {card.architecture} on {_VIEWS['cuda']} images, then on {_FEWER}, bf16",
        needed_MB=needed / 1e6,
        limit_MB=limit / 1e6,
        what_it_says=message or "nothing",
        within="yes" if message and works else "no",
    )


# ---- limits -----------------------------------------------------------------------------------------------------


def _used(device: str) -> int:
    """Bytes in use now; the next `_peak` counts from here."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_reserved()
    return _status("VmSize")


def _peak(device: str) -> int:
    """The most bytes that were in use."""
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_reserved()
    return _status("VmPeak")


def _limit(device: str, room: int) -> int:
    """Let the device take `room` bytes beyond what it has. Gives the limit in bytes."""
    if device == "cuda":
        limit = _used("cuda") + room
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
        return limit
    limit = _status("VmSize") + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return limit


def _unlimited(device: str) -> None:
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)
    else:
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _status(name: str) -> int:
    """A field of this process's memory in bytes, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
