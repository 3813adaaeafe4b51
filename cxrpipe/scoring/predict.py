"""Prepared uint8 in; probabilities, masks and heat maps out. Normalisation happens on the device."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cxrpipe import console
from cxrpipe.errors import DeviceLostError
from cxrpipe.images import heatmaps
from cxrpipe.images.letterbox import Preparation
from cxrpipe.models import crop, devices, execution, explain, normalise, weights
from cxrpipe.models.card import Card
from cxrpipe.models.ensemble import Ensemble, Variant
from cxrpipe.models.execution import Execution
from cxrpipe.models.folder import ModelFolder


class Predictions(NamedTuple):
    """What the networks say of N views."""

    probs: np.ndarray  # (K, N, F) float32, 0..1, uncalibrated
    masks: np.ndarray | None = None  # (N, S, S) bool, in the segmenter's frame
    expected_dice: np.ndarray | None = None  # (N,) float32, 0..1: how sure the segmenter is of its mask
    maps: tuple[np.ndarray, ...] | None = None  # per member (N, F, h, w) float32, not below 0
    unlike: np.ndarray | None = None  # (N,) bool: unlike what most members that can tell were trained on

    def of(self, own: slice) -> "Predictions":
        """Those of some views."""

        def cut(each: np.ndarray | None) -> np.ndarray | None:
            return None if each is None else each[own]

        maps = None if self.maps is None else tuple(each[own] for each in self.maps)
        return Predictions(self.probs[:, own], cut(self.masks), cut(self.expected_dice), maps, cut(self.unlike))

    @classmethod
    def joined(cls, parts: "Sequence[Predictions]") -> "Predictions":
        """Those of all views of the parts, in their order; one part at least."""
        if len(parts) == 1:
            return parts[0]

        def join(arrays: Iterable[np.ndarray | None], axis: int = 0) -> Any:
            given = [each for each in arrays if each is not None]
            return np.concatenate(given, axis) if given else None

        maps = [part.maps for part in parts if part.maps is not None]
        return cls(
            join((part.probs for part in parts), axis=1),
            join(part.masks for part in parts),
            join(part.expected_dice for part in parts),
            tuple(np.concatenate(own) for own in zip(*maps, strict=True)) if maps else None,
            join(part.unlike for part in parts),
        )


class _Loaded(NamedTuple):
    card: Card
    network: nn.Module
    kernels: str
    """`eager`, `fused` or `compiled`."""


class Predictor:
    """All members and the segmenter, loaded on one device.

    device  `cuda`, `cpu`, or None for the best there is
    plan    how to run them; None: in float32, fused
    say     given a line for a person
    read    gives the weights of a model, which may have been read already
    """

    def __init__(
        self,
        ensemble: Ensemble,
        device: str | None = None,
        plan: Execution | None = None,
        say: Callable[[str], object] = console.log,
        read: Callable[[ModelFolder], bytes] = ModelFolder.read_weights,
    ) -> None:
        self.plan = plan or execution.plan(device)
        self._say = say
        self._most: int | None = None
        """Views that the device has memory for at once; None: it has always been enough."""
        if not self.plan.is_cuda:
            execution.keep_memory()
        self._ensemble = ensemble
        self._read = read
        self._members = [self._load(model) for model in ensemble.members]
        self._segmenter = self._load(ensemble.segmenter) if ensemble.segmenter else None

    @property
    def computed_on(self) -> str:
        """Device, precision and kernels: `cpu float32 fused`."""
        loaded = [*self._members, *([self._segmenter] if self._segmenter else [])]
        name = torch.cuda.get_device_name(self.plan.device) if self.plan.is_cuda else "cpu"
        return f"{name} {str(self.plan.dtype).removeprefix('torch.')} {'+'.join(sorted({m.kernels for m in loaded}))}"

    def _load(self, model: ModelFolder) -> _Loaded:
        network, card = weights.load(model, self._read), model.card
        if card.task == "classify" and (self._ensemble.explain or card.embedding):
            network = explain.explained(network, card.side_px)
            if isinstance(network, explain.ByGradient):
                return _Loaded(card, execution.move(network, self.plan), "eager")
        return _Loaded(card, *execution.speed_up(network, card.side_px, self.plan))

    def predict(self, pixels: dict[Preparation, np.ndarray]) -> Predictions:
        """Predict a batch of views, given once per distinct preparation as (N, S, S) uint8.

        Where the memory of the device is too small for all at once, for fewer at a time, and so it stays from then on.
        DeviceLostError where the device fails for good.
        """
        views = len(next(iter(pixels.values())))
        if not views:
            return self._nothing()
        parts, start = [], 0
        while start < views:
            own = slice(start, min(views, start + (self._most or views)))
            part = self._try({preparation: every[own] for preparation, every in pixels.items()})
            if part:
                parts.append(part)
                start = own.stop
            else:
                self._most = (own.stop - own.start) // 2
        return Predictions.joined(parts)

    def _try(self, pixels: dict[Preparation, np.ndarray]) -> Predictions | None:
        """None where the device has no memory for so many views at once; for one alone that is raised."""
        views = len(next(iter(pixels.values())))
        try:
            return self._predict(pixels)
        except (MemoryError, RuntimeError) as error:
            if devices.is_lost(error):
                raise DeviceLostError(f"{self.plan.device} fails: {str(error).splitlines()[0]}") from error
            if views == 1 or not devices.is_out_of_memory(error):
                raise
        if self.plan.is_cuda:
            torch.cuda.empty_cache()
        self._say(f"no memory for {views} views at once; from now on {views // 2} at a time")
        return None

    @torch.inference_mode()
    def _predict(self, pixels: dict[Preparation, np.ndarray]) -> Predictions:
        on_device = {key: self._upload(views) for key, views in pixels.items()}
        # All are queued before the first is waited for.
        masks, dice = self._segment(on_device) if self._segmenter else (None, None)
        said = [self._classify(member, on_device[member.card.preparation], masks) for member in self._members]
        masks, dice = (each if each is None else self._fetch(each) for each in (masks, dice))
        if self.plan.is_cuda:
            torch.cuda.synchronize(self.plan.device)
        probs = [own.probs.numpy() for own in said]
        maps = tuple(own.explained.maps.numpy() for own in said if own.explained)
        return Predictions(
            np.stack(probs) if probs else np.zeros((0, len(next(iter(pixels.values()))), 0), np.float32),
            masks if masks is None else masks.numpy(),
            dice if dice is None else dice.numpy(),
            maps if self._ensemble.explain else None,
            self._unlike(said),
        )

    def _classify(self, member: _Loaded, views: Tensor, masks: Tensor | None) -> "_Said":
        """A member's opinion of (N, 1, S, S) uint8: its probabilities averaged over the variants."""
        box = None
        if member.card.crop and masks is not None:
            box = crop.boxes(masks, member.card.crop.margin)
            views = crop.crop(views, box, member.card.side_px)
        plain = normalise.scaled(views)
        answers = [self._run(member, plain)]
        answers += [self._run(member, moved(plain, variant)) for variant in self._ensemble.variants]
        probs = torch.stack([logits.float().sigmoid() for logits, _ in answers]).mean(0)
        explained = answers[0][1]
        if explained and box is not None:
            explained = explained._replace(maps=crop.uncrop(explained.maps, box, heatmaps.SIDE_PX))
        return _Said(self._fetch(probs), explained and explain.Explained(*(self._fetch(each) for each in explained)))

    def _segment(self, on_device: dict[Preparation, Tensor]) -> tuple[Tensor, Tensor]:
        """(N, S, S) bool, and the Dice the segmenter expects of each, on the device."""
        assert self._segmenter is not None
        views = on_device[self._segmenter.card.preparation]
        logits, _ = self._run(self._segmenter, normalise.scaled(views))  # (N, 1, S, S)
        masks, probs = logits[:, 0] > 0, logits[:, 0].float().sigmoid()
        dice = 2 * (probs * masks).sum((1, 2)) / (probs.sum((1, 2)) + masks.sum((1, 2)))
        return masks, dice

    def _run(self, loaded: _Loaded, views: Tensor) -> tuple[Tensor, explain.Explained | None]:
        """(N, 1, S, S) float, 0..1 → logits, and the explanation of a network that gives one."""
        ready = normalise.normalise(views, loaded.card)
        in_fixed_calls = loaded.kernels == "compiled" and not self.plan.is_cuda
        answers = execution.in_calls(loaded.network, ready, in_fixed_calls)
        if isinstance(answers[0], Tensor):
            return torch.cat(answers)[: len(views)], None
        explained = explain.Explained(*(torch.cat(parts)[: len(views)] for parts in zip(*answers, strict=True)))
        return explained.logits, explained

    def _unlike(self, said: "list[_Said]") -> np.ndarray | None:
        opinions = [
            explain.distance(own.explained.embedding.numpy(), member.card.embedding) > member.card.embedding.limit
            for own, member in zip(said, self._members, strict=True)
            if own.explained and member.card.embedding
        ]
        return np.mean(opinions, axis=0) > 0.5 if opinions else None

    def _upload(self, views: np.ndarray) -> Tensor:
        """(N, S, S) uint8 → (N, 1, S, S) uint8 on the device. Copied, for arrays of Arrow's are read-only."""
        copied = torch.tensor(views)[:, None]
        return copied.pin_memory().to(self.plan.device, non_blocking=True) if self.plan.is_cuda else copied

    def _fetch(self, found: Tensor) -> Tensor:
        """To the host, as float32 unless it is a mask; on CUDA it is there only after the device was waited for."""
        found = found if found.dtype == torch.bool else found.float()
        return found.to("cpu", non_blocking=self.plan.is_cuda)

    def _nothing(self) -> Predictions:
        probs = np.zeros((len(self._members), 0, len(self._ensemble.findings)), np.float32)
        if self._segmenter is None:
            return Predictions(probs)
        side_px = self._segmenter.card.side_px
        return Predictions(probs, np.zeros((0, side_px, side_px), bool), np.zeros(0, np.float32))


class _Said(NamedTuple):
    probs: Tensor  # (N, F)
    explained: explain.Explained | None


def moved(views: Tensor, variant: Variant) -> Tensor:
    """(N, 1, S, S) float enlarged about the centre and shifted by fractions of the side; black comes in."""
    keep = 1 / variant.scale
    theta = views.new_tensor([[keep, 0, -2 * variant.right * keep], [0, keep, -2 * variant.down * keep]])
    grid = functional.affine_grid(theta.expand(len(views), 2, 3), list(views.shape), align_corners=False)
    return functional.grid_sample(views, grid, align_corners=False)
