"""What rounded arithmetic needs in a training: fp16 its scaler, and a ranking logits of more than eight bits."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_trainer import results, said, saved, trainer
from test_training import CARD, LOSS, VALID, batches_of, small_network
from torch import nn

from cxrpipe.config.train_sections import OptimConfig
from cxrpipe.models import precision
from cxrpipe.models.normalise import normalise
from cxrpipe.models.weights import weights_bytes
from cxrpipe.training import arithmetic
from cxrpipe.training.fit import validate

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an old GPU: `auto` is fp16, which a CPU emulates."""
    monkeypatch.setattr(precision, "resolve", lambda precision, device: "fp16")


@pytest.mark.usefixtures("in_fp16")
def test_fp16_learns_what_fp32_learns_and_resumes_with_its_scale():
    undisturbed = trainer(epochs=6)
    expected = said(list(results(undisturbed)))
    assert expected[-1]["score"] > 0.9
    killed = trainer(epochs=6)
    before = list(itertools.islice(results(killed), 3))
    resumed = trainer(seed=5, epochs=6)
    resumed.restore(saved(killed))
    assert saved(killed)["scaler"]["scale"] > 1
    assert said(before) + said(list(results(resumed))) == expected
    assert weights_bytes(resumed.network) == weights_bytes(undisturbed.network)


@pytest.mark.usefixtures("in_fp16")
def test_a_gradient_in_fp16_is_clipped_without_its_scale(monkeypatch):
    lengths = []

    class Measuring(torch.optim.AdamW):
        def step(self, *args, **kwargs):
            grads = [parameter.grad.flatten() for group in self.param_groups for parameter in group["params"]]
            lengths.append(float(torch.cat(grads).norm()))
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "AdamW", Measuring)
    list(results(trainer(epochs=1, optim=OptimConfig(clip=0.01))))
    assert len(lengths) == 8
    assert max(lengths) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.usefixtures("in_fp16")
def test_a_gradient_that_overflows_costs_a_step_and_no_weight(monkeypatch):
    huge = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    monkeypatch.setattr(arithmetic, "scaler", lambda device, precision: huge)
    own = trainer(epochs=1)
    list(results(own))
    assert all(bool(parameter.isfinite().all()) for parameter in own.network.parameters())
    assert huge.get_scale() < 2.0**120


def test_logits_of_validation_under_autocast_are_not_rounded_to_eight_bits():
    torch.manual_seed(0)
    plain, exact = small_network().eval(), small_network().eval()
    exact.load_state_dict(plain.state_dict())
    arithmetic.keep_logits_exact(exact)
    pixels = torch.randint(0, 256, (2000, 1, 16, 16), dtype=torch.uint8)

    def different(network: nn.Module) -> int:
        with torch.inference_mode(), precision.autocast(torch.device("cpu"), "bf16"):
            return len(network(normalise(pixels, CARD))[:, 0].float().unique())

    assert different(plain) < 1_200
    assert different(exact) > 1_900


def test_validation_in_bf16_agrees_with_float32():
    torch.manual_seed(0)
    network = small_network()
    arithmetic.keep_logits_exact(network)
    card = replace(CARD)
    exact = validate(network, card, LOSS, batches_of(VALID))
    rounded = validate(network, card, LOSS, batches_of(VALID), precision="bf16")
    assert rounded != exact
    assert rounded.valid_loss == pytest.approx(exact.valid_loss, rel=1e-2)
    assert list(rounded.per_finding.values()) == pytest.approx(list(exact.per_finding.values()), abs=0.02)


def test_training_is_not_touched_by_what_keeps_logits_exact():
    torch.manual_seed(0)
    network = small_network()
    arithmetic.keep_logits_exact(network)
    with precision.autocast(torch.device("cpu"), "bf16"):
        logits = network.train()(normalise(VALID[0], CARD))
    assert logits.dtype == torch.bfloat16
    assert np.isfinite(logits.float().detach().numpy()).all()
