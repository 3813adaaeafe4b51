"""The recipes of the four tutorials, setting by setting, as the tutorials were published."""

from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from cxrpipe.cli import parse
from cxrpipe.config import TrainConfig

RECIPES = Path(__file__).parents[1] / "recipes"

FEATURE_EXTRACTION: dict[str, Any] = {
    # ResNet-50 at 224 px, head GAP - Dense 1024 - ReLU - Dropout 0.5
    "task": "classify",
    "arch": "resnet50",
    "weights": "imagenet",
    "side_px": 224,
    "head": "dense-1024",
    "dropout": 0.5,
    # Adam 1e-4, batch 32, at most 20 epochs with all convolutions frozen; then the last 30 layers learn at 1e-5
    "optim.optimizer": "adam",
    "optim.weight_decay": 0.0,
    "batch_size": 32,
    "freeze.policy": "head-then-last-9",
    "phases": ((range(20), 1e-4), (range(20, 40), 1e-5)),
    # rotation 15 degrees, shift, shear and zoom 0.1, horizontal flip, nearest border
    "augment.rotation_deg": 15.0,
    "augment.shift_fraction": 0.1,
    "augment.shear_deg": 0.1,
    "augment.zoom_fraction": 0.1,
    "augment.flip": True,
    "augment.border": "repeat",
    # early stopping on validation loss (patience 5, best weights back), best model by validation accuracy
    "watched": "loss",
    "stop_after": 5,
    "freeze.early_stop": "each",
    "best": "accuracy",
    # plateau (factor 0.2, patience 3, never below 1e-5)
    "optim.schedule": "plateau",
    "optim.decay": 0.2,
    "optim.patience": 3,
    "optim.floor": 1e-5,
}
SMALL_CNN: dict[str, Any] = {
    # four blocks of 32 to 128 channels and dense 512 (the architecture); 160 px, samplewise standardisation
    "task": "classify",
    "arch": "smallcnn",
    "weights": "none",
    "dropout": 0.0,
    "side_px": 160,
    "samplewise": True,
    # SGD 0.01 with exponential decay
    "optim.optimizer": "sgd",
    "optim.momentum": 0.0,
    "optim.weight_decay": 0.0,
    "optim.schedule": "exponential",
    "learning_rate": 0.01,
}
UNET: dict[str, Any] = {
    # 64 to 1024 channels (the architecture), 512 px, Dice loss, Adam 1e-5, batch 2, plateau
    "task": "segment",
    "arch": "unet-classic",
    "weights": "none",
    "side_px": 512,
    "loss.name": "dice",
    "optim.optimizer": "adam",
    "optim.weight_decay": 0.0,
    "optim.accumulate": 1,
    "learning_rate": 1e-5,
    "batch_size": 2,
    "optim.schedule": "plateau",
}
TRANSFER: dict[str, Any] = {
    "task": "classify",
    "weights": "imagenet",
    # random resized crop, flip, rotation 10 degrees, colour jitter, centre crop for tests
    "augment.crop": 0.08,
    "augment.flip": True,
    "augment.rotation_deg": 10.0,
    "augment.jitter": 0.2,
    "side_px": 224,
    "fit": "center-crop",
    "crop_fraction": 0.875,
    # AdamW 1e-4, weight decay 1e-4, plateau 0.5 after 3, 30 epochs
    "optim.optimizer": "adamw",
    "optim.weight_decay": 1e-4,
    "optim.schedule": "plateau",
    "optim.decay": 0.5,
    "optim.patience": 3,
    "epochs": 30,
    # head Dropout 0.5 - 512 - ReLU - BatchNorm - Dropout 0.3
    "head": "mlp-512",
    "dropout": 0.5,
    "last_dropout": 0.3,
}
WHOLE = ((range(30), 1e-4),)
FROZEN = {"freeze.policy": "all", "phases": WHOLE}
PARTIAL = {"freeze.policy": "partial", "freeze.until": "layer4", "phases": WHOLE}
AS_PUBLISHED = {
    "tutorial-finetuning": FEATURE_EXTRACTION,
    "tutorial-smallcnn": SMALL_CNN,
    "tutorial-unet": UNET,
    "tutorial-unfrozen": TRANSFER | {"arch": "resnet50", "freeze.policy": "none", "phases": WHOLE},
    "tutorial-adaptive": TRANSFER
    | {"arch": "resnet50", "freeze.policy": "adaptive", "freeze.count": 10}
    | {"phases": ((range(0), 1e-4), (range(30), 1e-4))},
    "tutorial-progressive": TRANSFER
    | {"arch": "resnet50", "freeze.policy": "progressive", "freeze.until": "layer3"}
    | {"phases": ((range(10), 1e-3), (range(10, 20), 1e-4), (range(20, 30), 1e-5))},
    "tutorial-vote/resnet50-partial": TRANSFER | {"arch": "resnet50"} | PARTIAL,
    "tutorial-vote/resnet101-partial": TRANSFER | {"arch": "resnet101"} | PARTIAL,
    "tutorial-vote/resnet50-frozen": TRANSFER | {"arch": "resnet50"} | FROZEN,
}
OF_TUTORIALS = {"rotation_deg", "shift_fraction", "shear_deg", "zoom_fraction", "border", "flip", "crop", "jitter"}
"""Changes of training images that some tutorial makes."""


def settings_of(recipe: str) -> TrainConfig:
    settings = parse("train", [f"--config={RECIPES / recipe}.toml", "--archive=a", "--out=o"])
    assert isinstance(settings, TrainConfig)
    return settings


def test_every_recipe_of_a_tutorial_is_compared():
    there = {str(path.relative_to(RECIPES).with_suffix("")) for path in RECIPES.rglob("*.toml")}
    assert {name for name in there if name.startswith("tutorial-")} == set(AS_PUBLISHED)


@pytest.mark.parametrize("recipe", AS_PUBLISHED)
def test_a_recipe_has_the_settings_of_its_tutorial(recipe: str):
    settings = settings_of(recipe)
    of_recipe = {name: reduce(getattr, name.split("."), settings) for name in AS_PUBLISHED[recipe]}
    assert of_recipe == AS_PUBLISHED[recipe]


@pytest.mark.parametrize("recipe", AS_PUBLISHED)
def test_a_recipe_does_nothing_that_its_tutorial_does_not(recipe: str):
    settings = settings_of(recipe)
    plain = TrainConfig(task="classify", archive="a", out="o")
    for name in ("average", "clip", "warmup_epochs", "accumulate"):
        assert getattr(settings.optim, name) == getattr(plain.optim, name)
    for name in set(vars(plain.augment)) - (OF_TUTORIALS if recipe != "tutorial-unet" else set()):
        assert getattr(settings.augment, name) == getattr(plain.augment, name)
    assert (settings.loss.smoothing, settings.crop) == (0.0, plain.crop)
    assert settings.task == "segment" or (settings.loss.name, settings.loss.balance) == ("bce", "none")


def test_the_vote_is_trained_from_its_folder_with_three_members():
    members = parse("train", [f"--config={RECIPES / 'tutorial-vote'}", "--archive=a", "--out=models/vote"]).members
    assert [member.out for member in members] == [
        f"models/vote/{name}" for name in ("resnet101-partial", "resnet50-frozen", "resnet50-partial")
    ]
