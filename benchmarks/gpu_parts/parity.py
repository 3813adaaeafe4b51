"""What the device says of the same films, beside the CPU in float32."""

import functools
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cxrpipe.images.letterbox import Preparation
from cxrpipe.models import consensus, crop, explain, out_of_distribution
from cxrpipe.models.ensemble import Ensemble
from gpu_parts import ensembles, models, ours
from gpu_parts.ours import Outcome
from gpu_parts.scales import Scale, note_what_a_cpu_lacks, scale_for
from gpu_parts.sheet import Sheet

_TABLE = "Parity with the CPU in float32"
_EAGER_S, _AGAIN = 5.0, 0.6
"""Seconds that a way takes without compiling; part of the first compilation's time that the next ones take."""


class Allowed(NamedTuple):
    """Greatest differences of a precision from the CPU's float32."""

    prob: float
    mask: float
    """Part of the pixels."""
    map: float
    """Part of the largest value of a heat map."""


# fp32 differs by the order of sums alone. The others are about four times what rounding costs these networks on a CPU
# (bf16: 0.004, 0.03% and 4%), since a wrong kernel differs by far more.
ALLOWED = {
    "fp32": Allowed(1e-4, 1e-4, 1e-3),
    "tf32": Allowed(5e-3, 1e-3, 0.05),
    "fp16": Allowed(5e-3, 1e-3, 0.05),
    "bf16": Allowed(0.02, 2e-3, 0.15),
}


def run(sheet: Sheet, device: str) -> None:
    scale = scale_for(device)
    if scale.segmenter_note:
        sheet.missing(f"parity of {scale.wanted_segmenter}", f"{scale.segmenter_note}; unet-classic stands in")
    with tempfile.TemporaryDirectory() as scratch:
        ensemble = ensembles.make(Path(scratch), scale, device, crops=True, explains=True)
        drawn = ensembles.films(scale, seed=2)
        pixels = ensembles.pixels_of(ensemble, drawn)
        reference = ours.outcome(ours.predictor(ensemble, "cpu"), pixels)
        distances = _distances(ensemble, drawn)
        sheet.row(
            "The films and models compared",
            films=scale.films,
            classifiers=f"{scale.classifier}, {scale.classifier_px} px; the second crops to the lungs",
            segmenter=f"{scale.segmenter}, {scale.segmenter_px} px",
            mask_share=float(reference.masks.mean()),
            Dice_with_the_drawn_lungs=_dice(reference.masks, drawn.lungs_resized(scale.segmenter_px)),
            prob_spread=float(reference.probs.std(axis=1).mean()),
        )
        for precision in scale.precisions:
            work = functools.partial(
                _compare, sheet, ensemble, pixels, reference, distances, device, precision, compiled=False
            )
            sheet.measure(f"{precision}, fused", work, _EAGER_S)
            work = functools.partial(_embedding, sheet, ensemble, drawn, device, precision)
            sheet.measure(f"embedding, {precision}", work, _EAGER_S)
            ours.forget()
        sheet.measure("crop", lambda: _crop(sheet, scale, drawn, device))
        needs_s = scale.compile_s
        for precision in scale.compiled:
            work = functools.partial(
                _compare, sheet, ensemble, pixels, reference, distances, device, precision, compiled=True
            )
            left_s = sheet.left_s
            if sheet.measure(f"{precision}, compiled", work, needs_s):
                needs_s = _AGAIN * (left_s - sheet.left_s)
            ours.forget()
    note_what_a_cpu_lacks(sheet, device)


def _compare(
    sheet: Sheet,
    ensemble: Ensemble,
    pixels: dict[Preparation, np.ndarray],
    reference: Outcome,
    distances: np.ndarray,
    device: str,
    precision: str,
    compiled: bool,
) -> None:
    predictor = ours.predictor(ensemble, device, precision, compiled)
    got = ours.outcome(predictor, pixels)
    allowed = ALLOWED[precision]
    whole, cropped = np.abs(got.probs - reference.probs).max(axis=2)  # (N,) each
    moved = (_boxes(got.masks) != _boxes(reference.masks)).any(axis=1)
    flips = _flips(ensemble, got.probs, reference.probs)
    masks = float((got.masks != reference.masks).mean())
    maps = max(
        float(np.abs(ours_ - theirs)[~moved].max(initial=0) / theirs.max())
        for ours_, theirs in zip(got.maps, reference.maps, strict=True)
    )
    unlike = np.flatnonzero(got.unlike != reference.unlike) if got.unlike is not None else np.array([], int)
    in_place = float(max(whole.max(), cropped[~moved].max(initial=0)))
    finite = bool(np.isfinite(got.probs).all() and np.isfinite(got.dice).all())
    sheet.row(
        _TABLE,
        precision=precision,
        computed_on=predictor.computed_on,
        probability_at_most=in_place,
        boxes_moved=int(moved.sum()),
        consensus_flipped=len(flips),
        farthest_from_its_threshold=max(flips, default=0.0),
        mask_pixels=masks,
        expected_Dice_at_most=float(np.abs(got.dice - reference.dice).max()),
        heat_maps_at_most=maps,
        ood_flipped=len(unlike),
        farthest_from_its_limit=float(distances[unlike].max(initial=0)),
        within="yes" if finite and in_place <= allowed.prob and masks <= allowed.mask and maps <= allowed.map else "no",
    )


def _boxes(masks: np.ndarray) -> np.ndarray:
    """(N, 3): the squares around the lungs, to which the second member crops."""
    return crop.boxes(torch.from_numpy(masks), ensembles.MARGIN).numpy()


def _flips(ensemble: Ensemble, probs: np.ndarray, reference: np.ndarray) -> list[float]:
    """Of each film and finding whose consensus flipped: the distance of the nearest member, or of their mean, which
    decides a tie, from its threshold."""
    thresholds = np.stack([member.card.operating_points for member in ensemble.members])  # (K, F)
    flipped = consensus.combine(probs, thresholds).agreed != consensus.combine(reference, thresholds).agreed
    gaps = reference - thresholds[:, None]  # (K, N, F)
    nearest = np.minimum(np.abs(gaps).min(axis=0), np.abs(gaps.mean(axis=0)))
    return [float(gap) for gap in nearest[flipped]]


def _distances(ensemble: Ensemble, drawn: models.Films) -> np.ndarray:
    """(N,) distance of every film's embedding from its limit, as a part of the limit, on the CPU."""
    card = ensemble.members[0].card
    assert card.embedding is not None
    distance = out_of_distribution.distance(
        _explained(ensemble, drawn, "cpu", "fp32").embedding.numpy(), card.embedding
    )
    return np.abs(distance / card.embedding.limit - 1)


def _explained(ensemble: Ensemble, drawn: models.Films, device: str, precision: str) -> explain.Explained:
    """The explanation of the first member, float32 on the CPU."""
    member = ensemble.members[0]
    network = ours.explained(member, ours.execution_of(device, precision, compiled=False))
    with torch.inference_mode():
        answer = network(models.as_views(drawn, member.card).to(device))
    return explain.Explained(*(None if part is None else part.float().cpu() for part in answer))


def _embedding(sheet: Sheet, ensemble: Ensemble, drawn: models.Films, device: str, precision: str) -> None:
    """The embedding channel by channel, in standard deviations of the training views."""
    embedding = ensemble.members[0].card.embedding
    assert embedding is not None
    ways = ("cpu", "fp32"), (device, precision)
    reference, got = (_explained(ensemble, drawn, *way).embedding.numpy() for way in ways)
    off = np.abs(got - reference) / np.maximum(np.array(embedding.std), 1e-6)
    distances = out_of_distribution.distance(got, embedding) / out_of_distribution.distance(reference, embedding)
    sheet.row(
        "Embedding of the first member, without compiling",
        precision=precision,
        channel_at_most_in_std=float(off.max()),
        channel_on_average_in_std=float(off.mean()),
        distance_at_most=float(np.abs(distances - 1).max()),
    )


def _crop(sheet: Sheet, scale: Scale, drawn: models.Films, device: str) -> None:
    """The arithmetic of cropping alone, from the same masks: boxes, cropped pixels, and maps laid back."""
    masks = torch.from_numpy(drawn.lungs_resized(scale.segmenter_px))
    views = torch.from_numpy(drawn.resized(round(1.5 * scale.classifier_px)))[:, None]
    maps = torch.rand(len(views), 2, 7, 7, generator=torch.Generator().manual_seed(0))

    def on(where: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        boxes = crop.boxes(masks.to(where), ensembles.MARGIN)
        cut = crop.crop(views.to(where), boxes, scale.classifier_px)
        return boxes.cpu(), cut.cpu(), crop.uncrop(maps.to(where), boxes, scale.segmenter_px).cpu()

    (boxes, cut, laid), (its_boxes, its_cut, its_laid) = on("cpu"), on(device)
    levels = (cut.int() - its_cut.int()).abs()
    box, map_ = float((boxes - its_boxes).abs().max()), float((laid - its_laid).abs().max())
    sheet.row(
        "Cropping by the drawn lungs",
        side_of_the_boxes=float(boxes[:, 2].mean()),
        boxes_at_most=box,
        grey_levels_at_most=int(levels.max()),
        pixels_that_differ=float((levels > 0).float().mean()),
        maps_at_most=map_,
        within="yes" if box < 1e-5 and levels.max() <= 1 and map_ < 1e-3 else "no",
    )


def _dice(masks: np.ndarray, lungs: np.ndarray) -> float:
    return float(2 * (masks & lungs).sum() / (masks.sum() + lungs.sum()))
