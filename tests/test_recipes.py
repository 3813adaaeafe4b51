"""The recipes that ship: settings that the parser takes, and what none of them does."""

from pathlib import Path

import pytest

from cxrpipe.cli import parse

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


def test_the_recipes_of_the_contract_are_there():
    assert {"pneumoniamnist", "kermany", "nih", "lungs"} <= {recipe.stem for recipe in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_wants_no_more_than_an_archive_and_a_place(recipe: Path):
    settings = parse("train", ["--config", str(recipe), "--archive", "a", "--out", "o"])
    assert settings.archive == "a"
    assert sum(len(epochs) for epochs, _ in settings.phases) == settings.epochs


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_only_the_tutorials_mirror_chests(recipe: Path):
    settings = parse("train", ["--config", str(recipe), "--archive", "a", "--out", "o"])
    assert not settings.augment.flip or recipe.stem.startswith("tutorial-")
