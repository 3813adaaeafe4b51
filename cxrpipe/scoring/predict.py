"""Prepared uint8 in; probabilities, masks and heat maps out. Normalisation happens on the device."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

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
    """The outputs of the networks for N views."""

    probs: np.ndarray  # (K, N, F) float32, 0..1, uncalibrated
    masks: np.ndarray | None = None  # (N, S, S) bool, in the segmenter's frame
    expected_dice: np.ndarray | None = None  # (N,) float32, 0..1: the Dice that the segmenter expects of its mask
    maps: tuple[np.ndarray, ...] | None = None  # per member (N, F, h, w) float32, not below 0
    out_of_distribution: np.ndarray | None = None  # (N,) bool: by most of the members whose cards can tell

    def of(self, views: slice) -> "Predictions":
        """The predictions for some of the views."""

        def cut(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[views]

        return Predictions(
            self.probs[:, views],
            cut(self.masks),
            cut(self.expected_dice),
            None if self.maps is None else tuple(of_member[views] for of_member in self.maps),
            cut(self.out_of_distribution),
        )

    @classmethod
    def joined(cls, parts: "Sequence[Predictions]") -> "Predictions":
        """The predictions for the views of all parts, in their order; there is one part at least."""
        if len(parts) == 1:
            return parts[0]

        def join(arrays: Iterable[np.ndarray | None]) -> np.ndarray | None:
            present = [array for array in arrays if array is not None]
            return np.concatenate(present) if present else None

        maps = [part.maps for part in parts if part.maps is not None]
        return cls(
            np.concatenate([part.probs for part in parts], axis=1),
            join(part.masks for part in parts),
            join(part.expected_dice for part in parts),
            tuple(np.concatenate(of_member) for of_member in zip(*maps, strict=True)) if maps else None,
            join(part.out_of_distribution for part in parts),
        )


class _Loaded(NamedTuple):
    card: Card
    network: nn.Module
    kernels: str
    """`eager`, `fused` or `compiled`."""


class Predictor:
    """All members and the segmenter, loaded on one device.

    device  `cuda`, `cpu`, or None for the best there is
    plan    precision and kernels; None: float32, fused
    say     shows a line to a person
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
        """The views that fit into the device's memory at once; None: every batch has fitted so far."""
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

        Where the device's memory is too small for the batch, fewer views go through at a time, and stay that few from
        then on. DeviceLostError where the device fails for good.
        """
        views = len(next(iter(pixels.values())))
        if not views:
            return self._nothing()
        parts, start = [], 0
        while start < views:
            piece = slice(start, min(views, start + (self._most or views)))
            part = self._try({preparation: batch[piece] for preparation, batch in pixels.items()})
            if part:
                parts.append(part)
                start = piece.stop
            else:
                self._most = (piece.stop - piece.start) // 2
        return Predictions.joined(parts)

    def _try(self, pixels: dict[Preparation, np.ndarray]) -> Predictions | None:
        """The predictions; None where the device lacks memory for so many views. Too little for one view raises."""
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
        # All networks are queued before the first result is waited for.
        masks, dice = self._segment(on_device) if self._segmenter else (None, None)
        opinions = [self._classify(member, on_device[member.card.preparation], masks) for member in self._members]
        masks, dice = (tensor if tensor is None else self._fetch(tensor) for tensor in (masks, dice))
        if self.plan.is_cuda:
            torch.cuda.synchronize(self.plan.device)
        probs = [opinion.probs.numpy() for opinion in opinions]
        maps = tuple(opinion.explained.maps.numpy() for opinion in opinions if opinion.explained)
        return Predictions(
            np.stack(probs) if probs else np.zeros((0, len(next(iter(pixels.values()))), 0), np.float32),
            masks if masks is None else masks.numpy(),
            dice if dice is None else dice.numpy(),
            maps if self._ensemble.explain else None,
            self._out_of_distribution(opinions),
        )

    def _classify(self, member: _Loaded, views: Tensor, masks: Tensor | None) -> "_Opinion":
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
        fetched = explained and explain.Explained(*(self._fetch(tensor) for tensor in explained))
        return _Opinion(self._fetch(probs), fetched)

    def _segment(self, on_device: dict[Preparation, Tensor]) -> tuple[Tensor, Tensor]:
        """Masks (N, S, S) bool, and the Dice that the segmenter expects of each mask, both on the device."""
        assert self._segmenter is not None
        views = on_device[self._segmenter.card.preparation]
        logits, _ = self._run(self._segmenter, normalise.scaled(views))  # (N, 1, S, S)
        masks, probs = logits[:, 0] > 0, logits[:, 0].float().sigmoid()
        dice = 2 * (probs * masks).sum((1, 2)) / (probs.sum((1, 2)) + masks.sum((1, 2)))
        return masks, dice

    def _run(self, loaded: _Loaded, views: Tensor) -> tuple[Tensor, explain.Explained | None]:
        """(N, 1, S, S) float, 0..1 → logits, and the explanation where the network gives one."""
        ready = normalise.normalise(views, loaded.card)
        in_fixed_calls = loaded.kernels == "compiled" and not self.plan.is_cuda
        answers = execution.in_calls(loaded.network, ready, in_fixed_calls)
        if isinstance(answers[0], Tensor):
            return torch.cat(answers)[: len(views)], None
        explained = explain.Explained(*(torch.cat(parts)[: len(views)] for parts in zip(*answers, strict=True)))
        return explained.logits, explained

    def _out_of_distribution(self, opinions: "list[_Opinion]") -> np.ndarray | None:
        """(N,) bool: whether a view is far from the training views of most members; None: no member's card can tell."""
        votes = [
            explain.distance(opinion.explained.embedding.numpy(), member.card.embedding) > member.card.embedding.limit
            for opinion, member in zip(opinions, self._members, strict=True)
            if opinion.explained and member.card.embedding
        ]
        return np.mean(votes, axis=0) > 0.5 if votes else None

    def _upload(self, views: np.ndarray) -> Tensor:
        """(N, S, S) uint8 → (N, 1, S, S) uint8 on the device. Copied, because Arrow's arrays are read-only."""
        copied = torch.tensor(views)[:, None]
        return copied.pin_memory().to(self.plan.device, non_blocking=True) if self.plan.is_cuda else copied

    def _fetch(self, tensor: Tensor) -> Tensor:
        """The tensor on the host, float32 or bool. On CUDA its values arrive only when the device is synchronised."""
        tensor = tensor if tensor.dtype == torch.bool else tensor.float()
        return tensor.to("cpu", non_blocking=self.plan.is_cuda)

    def _nothing(self) -> Predictions:
        probs = np.zeros((len(self._members), 0, len(self._ensemble.findings)), np.float32)
        if self._segmenter is None:
            return Predictions(probs)
        side_px = self._segmenter.card.side_px
        return Predictions(probs, np.zeros((0, side_px, side_px), bool), np.zeros(0, np.float32))


class _Opinion(NamedTuple):
    """The output of one member."""

    probs: Tensor  # (N, F)
    explained: explain.Explained | None


def moved(views: Tensor, variant: Variant) -> Tensor:
    """(N, 1, S, S) float, enlarged about the centre and shifted by fractions of the side; black fills what comes in."""
    keep = 1 / variant.scale
    theta = views.new_tensor([[keep, 0, -2 * variant.right * keep], [0, keep, -2 * variant.down * keep]])
    grid = functional.affine_grid(theta.expand(len(views), 2, 3), list(views.shape), align_corners=False)
    return functional.grid_sample(views, grid, align_corners=False)
