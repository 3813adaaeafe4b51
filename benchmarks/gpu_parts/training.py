"""Images per second of a training step, from images that are on the device already."""

import functools

import torch

from cxrpipe.models.card import Card
from gpu_parts import models, ours
from gpu_parts.scales import Scale, note_what_a_cpu_lacks, scale_for
from gpu_parts.sheet import Sheet
from gpu_parts.timing import seconds_of

_EAGER_S = 6.0
_COMPILE_TIMES = 1.2
"""Seconds of compiling forwards and backwards, as a multiple of those of compiling an ensemble."""


def run(sheet: Sheet, device: str) -> None:
    scale = scale_for(device)
    if scale.segmenter_note:
        sheet.missing(f"training of {scale.wanted_segmenter}", f"{scale.segmenter_note}; unet-classic stands in")
    cards = [
        models.classifier_card(scale.classifier, scale.classifier_px),
        models.segmenter_card(scale.segmenter_px, scale.segmenter),
    ]
    ways = [("bf16", True, False), ("bf16", False, False)]
    if device == "cuda":
        ways += [("tf32", True, False), ("tf32", False, False), ("fp32", True, False)]
    ways += [("bf16", True, True), ("bf16", False, True)] if scale.compiled else []
    for precision, channels_last, compiled in ways:
        for card in cards:
            work = functools.partial(_step, sheet, scale, card, device, precision, channels_last, compiled)
            order = "channels last" if channels_last else "contiguous"
            what = f"{card.architecture}, {precision}, {order}{', compiled' if compiled else ''}"
            sheet.measure(what, work, _COMPILE_TIMES * scale.compile_s if compiled else _EAGER_S)
            ours.forget()
    note_what_a_cpu_lacks(sheet, device)


def _step(
    sheet: Sheet, scale: Scale, card: Card, device: str, precision: str, channels_last: bool, compiled: bool
) -> None:
    torch.manual_seed(0)
    ours.tf32(precision == "tf32")
    network = ours.for_training(card, device, channels_last)
    if compiled:
        network.compile()
    loss, optimizer = ours.loss_of(card), ours.optimizer_of(network)
    batch = batch_of(card, scale.train_batch, device)
    seconds = seconds_of(lambda: ours.step(network, card, loss, optimizer, batch, precision), device, scale.timed_s)
    sheet.row(
        "A training step: augmentation, forwards, backwards, AdamW",
        network=f"{card.architecture}, {card.side_px} px",
        precision=precision,
        order="channels last" if channels_last else "contiguous",
        kernels="compiled" if compiled else "eager",
        batch=scale.train_batch,
        images_s=scale.train_batch / seconds,
        ms_a_step=seconds * 1e3,
        memory_GB=torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None,
    )
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def batch_of(card: Card, images: int, device: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise as images, (N, 1, S, S) uint8, and targets of the card's task."""
    drawn = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, 1, card.side_px, card.side_px), dtype=torch.uint8, generator=drawn)
    shape = (images, len(card.findings)) if card.findings else pixels.shape
    return pixels.to(device), torch.rand(shape, generator=drawn).round().to(device)
