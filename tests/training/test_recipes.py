"""Every file of configs/, with each of its arguments: what it asks for, and what it refuses."""

import importlib.util
from pathlib import Path

import pytest

from universal_embedding.datasets.domains import UNED
from universal_embedding.errors import UserError
from universal_embedding.training.config import OBJECTIVES
from universal_embedding.training.stages import read_stages

FOLDER = Path(__file__).parents[2] / "configs"
ARGUMENTS = {
    "demo": [""],
    "distill": [
        "method=specialist,domain=flags",
        "method=specialist,domain=flags,finetune=15",
        "finetune=960",
        *(f"method={m}" for m in ("feng", "absolute", "relational", "udon", "joint", "separate")),
    ],
    "distill_small": [f"method={m}" for m in ("joint", "feng", "absolute", "relational")],
    "guie": ["", "recipe=locked"],
    "linear_probe": ["", "folder"],
    "uned": ["variant=UJCDS", "variant=UJCRR", "variant=USCDS", "variant=USCRR", "domain=cars"],
    "uned_mini": [""],
}


def recipe(name, argument=""):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument) if argument else module.get_config()


def test_every_recipe_is_here():
    assert sorted(ARGUMENTS) == sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize(
    ("name", "argument"), [(name, each) for name, of in ARGUMENTS.items() for each in of]
)
def test_a_recipe_has_valid_stages_and_the_teachers_that_it_needs(name, argument):
    config = recipe(name, argument)
    stages = read_stages(config.stages, config.model.image_size)
    assert all(stage.rates for stage in stages)
    objectives = {objective: config.objectives[objective] for objective in OBJECTIVES}
    assert any(objectives.values()) and min(objectives.values()) >= 0
    taught = any(objectives[method] for method in ("feng", "absolute", "relational"))
    assert bool(config.distillation.teachers) == taught


def test_uned_takes_the_published_numbers_of_steps():
    universal = recipe("uned", "variant=UJCRR")
    steps = sum(stage.steps for stage in universal.stages)
    # 7 epochs of 22,118 steps, the specialist of food2k 30 of 3,690 (472,349 pictures / 128).
    assert steps == pytest.approx(7 * 22_118, rel=1e-3)
    specialist = recipe("uned", "domain=food2k")
    assert sum(s.steps for s in specialist.stages) == 30 * (UNED["food2k"].pictures["train"] // 128)
    assert tuple(specialist.data.domains) == ("food2k",)


@pytest.mark.parametrize("finetune", [15, 120, 960])
def test_the_average_keeps_the_same_part_of_its_beginning_however_long_it_is(finetune):
    config = recipe("distill", f"finetune={finetune}")
    assert config.stages[1].steps == finetune
    kept = 1.0
    for _ in range(finetune):
        kept *= config.optimizer.average
    assert kept == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("name", "argument", "named"),
    [
        ("distill", "method=fang", "method=fang"),
        ("distill", "method=specialist", "domain=KEY"),
        ("distill", "method=feng,domain=flags", "domain=KEY"),
        ("distill", "finetune=-1", "finetune=-1"),
        ("distill_small", "method=udon", "method=udon"),
        ("distill_small", "steps=many", "steps=many"),
        ("distill_small", "teachers=x", "teacher=..."),
        ("guie", "recipe=loked", "recipe=loked"),
        ("uned", "variant=UJC", "variant=UJC"),
        ("uned", "domain=dogs", "domain=dogs"),
    ],
)
def test_an_argument_that_cannot_be_is_named(name, argument, named):
    with pytest.raises(UserError, match=named):
        recipe(name, argument)
