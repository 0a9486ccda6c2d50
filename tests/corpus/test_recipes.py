"""Recipes: a target written down is the same target every time, and the published ones stay what they are."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
import torch

from forgetcast.corpus.zoo import datasets
from forgetcast.corpus.zoo.architectures import ARCHITECTURES
from forgetcast.corpus.zoo.recipes import PUBLISHED, Recipe, published
from forgetcast.errors import InputError, UnknownNameError

pytestmark = pytest.mark.slow

CHEAP = Recipe("cheap", "digits", "mlp", 300, 3, 5e-3, weight_decay=1e-2, dropout=0.1, label_noise=0.1, seed=3)


def test_published_names_are_unique_and_findable() -> None:
    """A name stands for one recipe."""
    names = [recipe.name for recipe in PUBLISHED]
    assert len(set(names)) == len(names)
    assert all(published(recipe.name) is recipe for recipe in PUBLISHED)
    with pytest.raises(UnknownNameError, match="unknown recipe 'digits-mpl': did you mean 'digits-mlp'"):
        published("digits-mpl")


@pytest.mark.parametrize("recipe", PUBLISHED, ids=lambda recipe: recipe.name)
def test_published_recipes_can_be_made(recipe: Recipe) -> None:
    """Dataset and architecture exist, and there are samples enough."""
    assert recipe.dataset in datasets.NAMES
    assert recipe.architecture in ARCHITECTURES
    largest = {"digits": 1200, "fashion-mnist": 60000, "satellite": 4435, "letter": 15000}
    assert recipe.n <= largest.get(recipe.dataset, 0) or recipe.n <= len(datasets.load(recipe.dataset)[0][1])


@pytest.mark.parametrize("recipe", [*PUBLISHED, CHEAP], ids=lambda recipe: recipe.name)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    """asdict and from_dict are inverse, through a file as well."""
    assert Recipe.from_dict(asdict(recipe)) == recipe
    assert Recipe.from_dict(json.loads(json.dumps(asdict(recipe)))) == recipe


def test_settings_left_out_take_their_defaults() -> None:
    """What has a default need not be said."""
    short = Recipe.from_dict({"name": "a", "dataset": "digits", "architecture": "mlp", "n": 5, "epochs": 1})
    assert short == Recipe("a", "digits", "mlp", 5, 1)


def test_unknown_and_missing_settings_are_named() -> None:
    """A misspelt setting is answered with the nearest; a missing one is listed."""
    with pytest.raises(UnknownNameError, match="unknown recipe setting 'epoch': did you mean 'epochs'"):
        Recipe.from_dict({**asdict(CHEAP), "epoch": 3})
    with pytest.raises(InputError, match=r"settings that have no default.*missing: architecture, n"):
        Recipe.from_dict({"name": "a", "dataset": "digits", "epochs": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 1201}, "'cheap' asks for 1201 samples; digits has 1200"),
        ({"n": 0}, "n: expected at least 1; got 0"),
        ({"n": -5}, "n: expected at least 1"),
        ({"heldout": 0}, "heldout: expected at least 1"),
        ({"epochs": -1}, "epochs: expected at least 0"),
        ({"label_noise": -0.1}, "label_noise: expected a share from 0 to 1; got -0.1"),
        ({"label_noise": 5}, "label_noise: expected a share"),
        ({"dropout": 1.5}, "dropout: expected a share"),
        ({"dataset": "wine", "architecture": "cnn", "n": 20}, "'cnn' takes images"),
    ],
)
def test_what_cannot_be_made_is_refused(change: dict[str, Any], message: str) -> None:
    """Too many samples, none, shares that are none, an architecture for other inputs."""
    with pytest.raises(InputError, match=message):
        replace(CHEAP, **change).build()


@pytest.mark.parametrize(("field", "value"), [("dataset", "digit"), ("architecture", "mpl")])
def test_unknown_parts_are_refused(field: str, value: str) -> None:
    """The dataset and the architecture are looked up by name."""
    with pytest.raises(UnknownNameError, match=f"unknown {field} '{value}': did you mean"):
        replace(CHEAP, **{field: value}).build()


# -- building ------------------------------------------------------------------------------------------


def test_building_twice_gives_the_same_target() -> None:
    """Data, held-out data and model to the bit, whatever was drawn before; the global random state stays."""
    first = CHEAP.build()
    torch.rand(7)
    before = torch.random.get_rng_state()
    again = CHEAP.build()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.model_hash == first.model_hash
    assert again.data_hash == first.data_hash
    assert again.heldout is not None
    assert first.heldout is not None
    assert again.heldout.digest() == first.heldout.digest()


def test_retraining_on_everything_gives_the_target_again() -> None:
    """The target carries its own training: all samples and its seed make the same model, fewer make another."""
    target = CHEAP.build()
    everyone = torch.arange(len(target))
    again = target.train(everyone, CHEAP.seed).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in target.module.state_dict().items())
    without = target.train(everyone[1:], CHEAP.seed).state_dict()
    assert any(not torch.equal(value, without[name]) for name, value in target.module.state_dict().items())


def test_the_target_says_what_it_was_made_from() -> None:
    """Name, dataset, architecture and the whole recipe, as results keep them."""
    target = CHEAP.build()
    assert target.name == "cheap"
    assert target.info == {"dataset": "digits", "architecture": "mlp", "recipe": asdict(CHEAP)}
    assert Recipe.from_dict(target.info["recipe"]) == CHEAP
    assert target.num_classes == 10


def rows(x: torch.Tensor) -> list[bytes]:
    """One value per sample, equal for equal samples."""
    return [row.numpy().tobytes() for row in x.flatten(1)]


def test_samples_are_drawn_from_the_right_part() -> None:
    """n different ones of the training part, at most ``heldout`` of the other; labels are theirs."""
    (x, y), (x_heldout, y_heldout) = datasets.load("digits")
    for heldout, expected in ((40, 40), (600, 597)):
        target = replace(CHEAP, label_noise=0.0, heldout=heldout, epochs=0).build()
        for part, source, labels, n in (
            (target.data, x, y, 300),
            (target.heldout, x_heldout, y_heldout, expected),
        ):
            got = rows(part.fetch(range(len(part)))[0])
            assert len(set(got)) == len(part) == n
            label = dict(zip(rows(source), labels.tolist(), strict=True))
            assert [label[row] for row in got] == part.labels.tolist()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.033, 0.5, 1.0])
def test_label_noise_flips_exactly_its_share(share: float) -> None:
    """That many labels become another class, the others and all held-out ones stay; the inputs are the same."""
    clean = replace(CHEAP, label_noise=0.0, epochs=0).build()
    noisy = replace(CHEAP, label_noise=share, epochs=0).build()
    assert int((clean.labels != noisy.labels).sum()) == round(share * 300)
    assert set(noisy.labels.tolist()) <= set(range(10))
    everyone = range(300)
    assert torch.equal(clean.data.fetch(everyone)[0], noisy.data.fetch(everyone)[0])
    assert torch.equal(clean.heldout.labels, noisy.heldout.labels)


@pytest.mark.parametrize("name", [f.name for f in fields(Recipe) if f.name not in ("name", "dataset", "heldout", "n")])
def test_every_setting_acts_on_the_model(name: str) -> None:
    """None of them is written down and forgotten."""
    other = {"architecture": "wide_mlp", "epochs": 4, "seed": 4, "augment": True, "data_seed": 4}.get(name, 0.2)
    assert replace(CHEAP, **{name: other}).build().model_hash != CHEAP.build().model_hash


DRAWN = {
    "digits-logistic": "a0a08ffdf562 78542b611e71",
    "digits-mlp-noise": "f059ef942e75 5ec646ad5218",
    "digits-cnn": "5ac309f5cb60 d91f50819a6b",
}


@pytest.mark.parametrize("name", DRAWN)
def test_published_targets_keep_their_samples(name: str) -> None:
    """The published corpus points at samples by number: which are drawn, and whose labels are flipped, is fixed."""
    target = replace(published(name), epochs=0).build()
    assert target.heldout is not None
    assert f"{target.data_hash[:12]} {target.heldout.digest()[:12]}" == DRAWN[name]
