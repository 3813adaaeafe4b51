"""Prepared uint8 in; probabilities, masks and heat maps out. Normalisation happens on the device."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cxrpipe import console
from cxrpipe.errors import DeviceLostError
from cxrpipe.images import heatmaps
from cxrpipe.images.letterbox import Preparation
from cxrpipe.models import crop, devices, drawing, execution, explain, features, normalise, out_of_distribution, weights
from cxrpipe.models.card import Card
from cxrpipe.models.drawing import Drawn
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.execution import Execution
from cxrpipe.models.folder import ONNX, ModelFolder
from cxrpipe.models.tensors import in_16_bits, moved, packed
from cxrpipe.scoring.predictions import Predictions

VIEWS_AT_ONCE = 16
"""Views of one batch on a CPU. Larger batches are no faster there, and need more memory."""


class _Loaded(NamedTuple):
    card: Card
    network: nn.Module
    kernels: str
    """`eager`, `fused`, `compiled` or `onnx`."""


class Predictor:
    """All members and segmenters, loaded on one device.

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
        self.views_at_once = None if self.plan.is_cuda else VIEWS_AT_ONCE
        """The most views of one batch; None: all that are given, since they have fitted into the memory so far."""
        self._one_at_a_time = threading.Lock()  # a network that explains by gradients keeps state during a call
        if not self.plan.is_cuda:
            execution.keep_memory()
        self._ensemble = ensemble
        self._read = read
        self._members = [self._load(model) for model in ensemble.members]
        self._segmenters = [self._load(model) for model in ensemble.segmenters]

    @property
    def computed_on(self) -> str:
        """Device, precision and kernels: `cpu float32 fused`."""
        loaded = [*self._members, *self._segmenters]
        name = torch.cuda.get_device_name(self.plan.device) if self.plan.is_cuda else "cpu"
        return f"{name} {self.plan.arithmetic} {'+'.join(sorted({m.kernels for m in loaded}))}"

    def _load(self, model: ModelFolder) -> _Loaded:
        network, card = weights.load(model, self._read), model.card
        if card.architecture == ONNX:
            return _Loaded(card, network, ONNX)
        if card.task == "classify":
            explained = None
            if self._ensemble.explain or card.embedding:
                explained = explain.explained(network, card.side_px, card.channels)
                if explained is None and self._ensemble.explain:
                    self._say(f"{model.url}: no layer of {card.architecture} lies on the image; it has no heat maps")
            if explained:
                explained.keep(card.kept)
            if isinstance(explained, explain.ByGradient):
                return _Loaded(card, execution.move(explained, self.plan), "eager")
            if explained:
                network = explained
            elif self._ensemble.embed:
                network = features.with_features(network, card.side_px, card.channels)
        return _Loaded(card, *execution.speed_up(network, card.side_px, self.plan, card.channels))

    def predict(self, pixels: dict[Preparation, np.ndarray]) -> Predictions:
        """Predict N views, given once per distinct preparation as (N, S, S) uint8.

        On CUDA the device is handed one batch after another, and the host waits once, for the last. Threads may call
        at the same time: the work of one call is queued while another waits.

        Where the device's memory is too small for a batch, fewer views go through at a time, and stay that few from
        then on. DeviceLostError where the device fails for good.
        """
        views = len(next(iter(pixels.values())))
        if not views:
            return self._nothing()
        queued, start = [], 0
        with self._device_errors(), self._one_at_a_time:
            while start < views:
                batch = slice(start, min(views, start + (self.views_at_once or views)))
                outputs = self._try({preparation: of_all[batch] for preparation, of_all in pixels.items()})
                if outputs:
                    queued.append(outputs)
                    start = batch.stop
                else:
                    self.views_at_once = (batch.stop - batch.start) // 2
            done = torch.cuda.Event(blocking=True) if self.plan.is_cuda else None  # type: ignore[no-untyped-call]
            if done:
                done.record(torch.cuda.current_stream(self.plan.device))
        with self._device_errors():
            if done:
                done.synchronize()
        return Predictions.joined([self._fetched(outputs) for outputs in queued])

    @contextlib.contextmanager
    def _device_errors(self) -> Iterator[None]:
        """DeviceLostError for an error after which the device answers no more."""
        try:
            yield
        except RuntimeError as error:
            if devices.is_lost(error):
                raise DeviceLostError(f"{self.plan.device} fails: {str(error).splitlines()[0]}") from error
            raise

    def _try(self, pixels: dict[Preparation, np.ndarray]) -> "_Outputs | None":
        """The outputs; None where the device lacks memory for so many views. Too little for one view raises."""
        views = len(next(iter(pixels.values())))
        try:
            return self._queue(pixels)
        except (MemoryError, RuntimeError) as error:
            if views == 1 or not devices.is_out_of_memory(error):
                raise
        if self.plan.is_cuda:
            torch.cuda.empty_cache()
        self._say(f"no memory for {views} views at once; from now on {views // 2} at a time")
        return None

    @torch.inference_mode()
    def _queue(self, pixels: dict[Preparation, np.ndarray]) -> "_Outputs":
        """Hand the device everything that it has to do for a batch."""
        on_device = {key: self._upload(views) for key, views in pixels.items()}
        drawn = self._segment(on_device) if self._segmenters else None
        masks = drawn and drawn.lungs
        opinions = [self._classify(member, on_device[member.card.preparation], masks) for member in self._members]
        views = len(next(iter(pixels.values())))
        return _Outputs(
            views,
            opinions,
            drawn
            and drawn._replace(
                lungs=self._download(packed(drawn.lungs.flatten(1))),
                expected_dice=self._download(drawn.expected_dice),
                structures=None if drawn.structures is None else self._download(packed(drawn.structures.flatten(2))),
            ),
        )

    def _fetched(self, outputs: "_Outputs") -> Predictions:
        """The outputs as arrays, once they have arrived on the host."""
        drawn = outputs.drawn
        probs = [opinion.probs.numpy() for opinion in outputs.opinions]
        maps = tuple(_array(opinion.maps) for opinion in outputs.opinions)
        vectors = tuple(_array(opinion.features) for opinion in outputs.opinions)
        return Predictions(
            self._ensemble.by_finding(probs) if probs else np.zeros((0, outputs.views, 0), np.float32),
            drawn and drawn.lungs.numpy(),
            drawn and drawn.expected_dice.numpy(),
            maps if self._ensemble.explain else None,
            self._out_of_distribution(outputs.opinions),
            vectors if self._ensemble.embed else None,
            drawn and _array(drawn.structures),
        )

    def _classify(self, member: _Loaded, views: Tensor, masks: Tensor | None) -> "_Opinion":
        """A member's opinion of (N, 1, S, S) uint8: its probabilities averaged over the variants.

        Maps and feature vector are those of the plain view.
        """
        box = None
        if member.card.crop and masks is not None:
            box = crop.boxes(masks, member.card.crop.margin)
            views = crop.crop(views, box, member.card.side_px)
        plain = normalise.scaled(views)
        if member.card.task == "embed":
            vectors, _ = self._run(member, plain)
            return _Opinion(torch.zeros(len(views), 0), features=self._download(in_16_bits(vectors)))
        answers = [self._run(member, plain)]
        answers += [self._run(member, moved(plain, variant)) for variant in self._ensemble.variants]
        probs = torch.stack([normalise.probabilities(logits, member.card) for logits, _ in answers]).mean(0)
        opinion, beside = _Opinion(self._download(probs)), answers[0][1]
        if isinstance(beside, explain.Explained):
            maps = beside.maps if box is None else crop.uncrop(beside.maps, box, heatmaps.SIDE_PX)
            maps, embedding = self._download(maps.float()), self._download(beside.embedding.float())
            opinion = opinion._replace(maps=maps, embedding=embedding)
        if self._ensemble.embed and beside is not None and beside.features is not None:
            opinion = opinion._replace(features=self._download(in_16_bits(beside.features)))
        return opinion

    def _segment(self, on_device: dict[Preparation, Tensor]) -> Drawn:
        """The masks of all views, on the device."""
        answers = (
            (self._run(segmenter, normalise.scaled(on_device[segmenter.card.preparation]))[0], segmenter.card)
            for segmenter in self._segmenters
        )
        if len(self._segmenters) == 1:
            return drawing.alone(*next(answers))
        return drawing.vote(answers, self._ensemble.structures, self._ensemble.mask_frame.side_px)

    def _run(self, loaded: _Loaded, views: Tensor) -> tuple[Tensor, explain.Explained | features.Featured | None]:
        """(N, 1, S, S) float, 0..1 → logits (or a backbone's vectors), and what else the network gives beside them."""
        ready = normalise.normalise(views, loaded.card)
        answer = loaded.network(ready)
        return (answer, None) if isinstance(answer, Tensor) else (answer.logits, answer)

    def _out_of_distribution(self, opinions: "list[_Opinion]") -> np.ndarray | None:
        """(N,) bool: whether a view is far from the training views of most members; None: no member's card can tell."""
        telling = (
            (opinion.embedding.numpy(), member.card.embedding)
            for opinion, member in zip(opinions, self._members, strict=True)
            if opinion.embedding is not None and member.card.embedding
        )
        return out_of_distribution.most_are_far(telling)

    def _upload(self, views: np.ndarray) -> Tensor:
        """(N, S, S) uint8 → (N, 1, S, S) uint8 on the device. Copied, because Arrow's arrays are read-only.

        torch keeps pinned memory for reuse, and reuses it only after the copy to the device has ended.
        """
        copied = torch.empty(views.shape, dtype=torch.uint8, pin_memory=self.plan.is_cuda)
        np.copyto(copied.numpy(), views)
        return copied[:, None].to(self.plan.device, non_blocking=True)

    def _download(self, tensor: Tensor) -> Tensor:
        """The tensor on the host, of a type that numpy has. On CUDA its values arrive later: see `predict`."""
        return tensor.to("cpu", non_blocking=self.plan.is_cuda)

    def _nothing(self) -> Predictions:
        probs = np.zeros((len(self._members), 0, len(self._ensemble.findings)), np.float32)
        if not self._segmenters:
            return Predictions(probs)
        named, side_px = self._ensemble.structures, self._ensemble.mask_frame.side_px
        bits = np.zeros((0, -(-side_px * side_px // 8)), np.uint8)
        structures = np.zeros((0, len(named), bits.shape[1]), np.uint8) if named else None
        return Predictions(probs, bits, np.zeros(0, np.float32), structure_bits=structures)


class _Opinion(NamedTuple):
    """The output of one member."""

    probs: Tensor  # (N, F_k), of the member's own findings
    maps: Tensor | None = None  # (N, F_k, h, w)
    embedding: Tensor | None = None  # (N, C)
    features: Tensor | None = None  # (N, D) float16


class _Outputs(NamedTuple):
    """The outputs for one batch on their way to the host."""

    views: int
    opinions: "list[_Opinion]"
    drawn: Drawn | None
    """Its masks are packed to bits: (N, ⌈S·S / 8⌉) and (N, T, ⌈S·S / 8⌉) uint8."""


def _array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.numpy()
