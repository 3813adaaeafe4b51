"""How fast networks are, beside what the same card does with plain products and copies."""

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder
from gpu_parts import ensembles, ours
from gpu_parts.scales import Scale, note_what_a_cpu_lacks, scale_for
from gpu_parts.sheet import Cell, Sheet
from gpu_parts.timing import Work, count, seconds_of

_FUSED_S = 4.0
_MAIN = "bf16"
"""The precision that is measured at every batch size."""


class Ceilings(NamedTuple):
    """What plain products and copies reach."""

    flops: dict[str, float]
    """Precision → operations per second."""
    bytes: float
    """Bytes read and written per second."""


def run(sheet: Sheet, device: str) -> None:
    scale = scale_for(device)
    if scale.segmenter_note:
        sheet.missing(f"rate of {scale.wanted_segmenter}", f"{scale.segmenter_note}; unet-classic stands in")
    ceilings = _ceilings(sheet, scale, device)
    with tempfile.TemporaryDirectory() as scratch:
        ensemble = ensembles.make(Path(scratch), scale, device, crops=False, explains=False, learns=False)
        explaining = Ensemble(ensemble.members, ensemble.segmenters, explain=True)
        models = [ensemble.members[0], *ensemble.segmenters]
        largest = scale.batches[-1]
        ways = [(precision, largest) for precision in scale.precisions if precision != _MAIN]
        ways = [(_MAIN, batch) for batch in scale.batches] + ways
        for precision, batch in ways:
            for model in models:
                work = functools.partial(_network, sheet, scale, model, ceilings, device, precision, batch, False)
                sheet.measure(f"{model.card.architecture}, {precision}, {batch}", work, _FUSED_S)
            work = functools.partial(_ensemble, sheet, scale, ensemble, device, precision, batch, False)
            sheet.measure(f"ensemble, {precision}, {batch}", work, _FUSED_S)
        work = functools.partial(_ensemble, sheet, scale, explaining, device, _MAIN, largest, False)
        sheet.measure(f"ensemble with heat maps, {_MAIN}, {largest}", work, _FUSED_S)
        for precision in scale.compiled[:2]:
            work = functools.partial(_ensemble, sheet, scale, ensemble, device, precision, largest, True)
            sheet.measure(f"ensemble, {precision}, compiled", work, scale.compile_s)
            for model in models:
                work = functools.partial(_network, sheet, scale, model, ceilings, device, precision, largest, True)
                sheet.measure(f"{model.card.architecture}, {precision}, compiled", work, scale.compile_s / 3)
    note_what_a_cpu_lacks(sheet, device)


# ---- the card's own rates ---------------------------------------------------------------------------------------


def _ceilings(sheet: Sheet, scale: Scale, device: str) -> Ceilings:
    side = 8192 if device == "cuda" else 512
    flops = {}
    for precision in scale.precisions:
        ours.tf32(precision == "tf32")
        a, b = (torch.randn(side, side, device=device, dtype=ours.DTYPES[precision]) for _ in range(2))
        product = torch.empty_like(a)
        seconds = seconds_of(functools.partial(torch.mm, a, b, out=product), device, scale.timed_s)
        flops[precision] = 2 * side**3 / seconds
        sheet.row(
            "Plain products and copies",
            what=f"{side} x {side} matrix product, {precision}",
            TFLOP_s=_tera(flops[precision]),
        )
    size = 2**30 if device == "cuda" else 2**26
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * size / seconds_of(lambda: target.copy_(source), device, scale.timed_s)
    sheet.row("Plain products and copies", what="copy on the device, read and written", GB_s=copied / 1e9)
    if device == "cuda":
        _across(sheet, scale, source[: size // 4])
    return Ceilings(flops, copied)


def _across(sheet: Sheet, scale: Scale, on_card: torch.Tensor) -> None:
    """Copies between host and card."""
    pageable = torch.zeros(len(on_card), dtype=torch.uint8)
    pinned = pageable.pin_memory()
    ways: dict[str, Callable[[], object]] = {
        "copy to the card, pageable": lambda: on_card.copy_(pageable),
        "copy to the card, pinned": lambda: on_card.copy_(pinned, non_blocking=True),
        "copy from the card, pinned": lambda: pinned.copy_(on_card, non_blocking=True),
    }
    for what, work in ways.items():
        seconds = seconds_of(work, "cuda", scale.timed_s / 2)
        sheet.row("Plain products and copies", what=what, GB_s=len(on_card) / seconds / 1e9)


# ---- networks ---------------------------------------------------------------------------------------------------


def _network(
    sheet: Sheet,
    scale: Scale,
    model: ModelFolder,
    ceilings: Ceilings,
    device: str,
    precision: str,
    batch: int,
    compiled: bool,
) -> None:
    """One network on normalised views that are on the device already."""
    plan = ours.execution_of(device, precision, compiled)
    network, counted = ours.network_alone(model, plan), ours.network_in_plain_calls(model, plan)
    views = torch.rand(batch, 1, model.card.side_px, model.card.side_px, device=device)
    with torch.inference_mode():
        work = None if compiled else _counted(sheet, lambda: counted(views), f"{model.card.architecture}, {precision}")
        seconds = seconds_of(lambda: network(views), device, scale.timed_s)
    sheet.row(
        "Networks alone",
        network=f"{model.card.architecture}, {model.card.side_px} px",
        precision=precision,
        kernels="compiled" if compiled else "fused",
        batch=batch,
        films_s=batch / seconds,
        **(_beside(ceilings, work, precision, batch, seconds) if work else {}),
    )
    ours.forget()


def _counted(sheet: Sheet, call: Callable[[], object], what: str) -> Work | None:
    """What a call computes and moves; None where it cannot be counted."""
    counted: list[Work] = []
    sheet.measure(f"operations of {what}", lambda: counted.append(count(call)))
    return counted[0] if counted else None


def _beside(ceilings: Ceilings, work: Work, precision: str, batch: int, seconds: float) -> dict[str, Cell]:
    """The work of a network, and its rates as parts of what plain products and copies reach."""
    least = max(work.flops / ceilings.flops[precision], work.bytes / ceilings.bytes)
    return {
        "GFLOP_a_film": work.flops / batch / 1e9,
        "TFLOP_s": _tera(work.flops / seconds),
        "of_the_product": _part(work.flops / seconds / ceilings.flops[precision]),
        "MB_a_film": work.bytes / batch / 1e6,
        "GB_s": work.bytes / seconds / 1e9,
        "of_the_copy": _part(work.bytes / seconds / ceilings.bytes),
        "films_s_at_these_rates": batch / least,
    }


def _ensemble(
    sheet: Sheet, scale: Scale, ensemble: Ensemble, device: str, precision: str, batch: int, compiled: bool
) -> None:
    """The predictor as scoring calls it: uint8 from the host, probabilities and masks to the host."""
    started = time.perf_counter()
    predictor = ours.predictor(ensemble, device, precision, compiled)
    pixels = ensembles.noise(ensemble, batch)
    predictor.predict(pixels)
    ready_s = time.perf_counter() - started
    seconds = seconds_of(lambda: predictor.predict(pixels), device, scale.timed_s)
    sheet.row(
        "Ensemble: the predictor, from squares on the host to results on the host",
        members=" + ".join(model.card.architecture for model in ensemble.models),
        computed_on=predictor.computed_on,
        precision=precision,
        heat_maps="yes" if ensemble.explain else "no",
        batch=batch,
        films_s=batch / seconds,
        ms_a_batch=seconds * 1e3,
        s_until_ready=ready_s,
    )
    ours.forget()


def _tera(value: float) -> float:
    return value / 1e12


def _part(value: float) -> str:
    return f"{value:.0%}"
