"""The recipes that ship: settings that the parser takes, and what none of them does."""

from pathlib import Path

import pytest

from cxrpipe.cli import parse
from cxrpipe.errors import ConfigError

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.toml"))


def test_the_recipes_of_the_contract_are_there():
    folders = {"pneumoniamnist", "kermany", "lungs"}
    assert folders | {"nih"} <= {recipe.stem for recipe in RECIPES} | {recipe.parent.name for recipe in RECIPES}
    for folder in folders:
        assert len([recipe for recipe in RECIPES if recipe.parent.name == folder]) >= 3


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_wants_no_more_than_an_archive_and_a_place(recipe: Path):
    settings = parse("train", ["--config", str(recipe), "--archive", "a", "--out", "o"])
    assert settings.archive == "a"
    assert sum(len(epochs) for epochs, _ in settings.phases) == settings.epochs


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_no_classifier_learns_mirrored_chests_but_those_of_the_tutorials(recipe: Path):
    settings = parse("train", ["--config", str(recipe), "--archive", "a", "--out", "o"])
    assert not settings.augment.flip or settings.task == "segment" or "tutorial-" in str(recipe)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, arch in (("b", "resnet18"), ("a", "densenet121")):
        (tmp_path / f"{name}.toml").write_text(f'task = "classify"\narch = "{arch}"\nepochs = 2\n')
    return tmp_path


def test_a_folder_of_recipes_trains_one_member_for_each_in_the_order_of_their_names(folder: Path):
    members = parse("train", ["--config", str(folder), "--archive", "x", "--out", "models/p/", "--epochs", "3"])
    assert members.out == "models/p/"
    assert [(config.out, config.arch) for config in members.members] == [
        ("models/p/a", "densenet121"),
        ("models/p/b", "resnet18"),
    ]
    assert {(config.archive, config.epochs) for config in members.members} == {("x", 3)}


def test_every_member_is_refitted_from_its_own_folds(folder: Path):
    words = ["--config", str(folder), "--archive", "x", "--out", "last", "--refit", "f0,f1/"]
    assert [config.refit for config in parse("train", words).members] == [("f0/a", "f1/a"), ("f0/b", "f1/b")]


def test_a_file_beside_the_folder_holds_for_every_member(folder: Path, tmp_path: Path):
    shared = tmp_path / "site" / "site.toml"
    shared.parent.mkdir()
    shared.write_text("workers = 2\n")
    words = [f"--config={shared}", f"--config={folder}", "--archive=x", "--out=o"]
    assert [config.workers for config in parse("train", words).members] == [2, 2]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--print-config"], "prints one file"),
        (["--config", "{folder}"], "two folders"),
    ],
)
def test_what_a_folder_cannot_mean_is_refused(folder: Path, words: list[str], reason: str):
    with pytest.raises(ConfigError, match=reason):
        parse("train", ["--config", str(folder), *(word.format(folder=folder) for word in words)])


def test_a_folder_without_recipes_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="a folder without recipes"):
        parse("train", ["--config", str(tmp_path), "--archive", "x", "--out", "o"])
