"""Every recipe of configs/ with each of its arguments: what it describes, and what it refuses."""

import importlib
import importlib.resources

import pytest
import tensorflow as tf

from tests.helpers.fake_records import make_domains
from universal_embedding.datasets.domains import UNED
from universal_embedding.errors import UserError
from universal_embedding.input.augmentation_config import AugmentationConfig
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.losses import LOSSES
from universal_embedding.training.run_directory import write_config
from universal_embedding.training.schedule import margin_at, read_stages
from universal_embedding.training.strategy import make_strategy
from universal_embedding.training.trainer import train

DISTILLATION = ("distance_distribution", "distance", "rkd_distance")
METHODS = (*DISTILLATION, "udon", "joint", "separate")
ARGUMENTS = {
    "demo": [""],
    "distill": [
        "method=specialist,domain=flags",
        "method=specialist,domain=flags,finetune_steps=15",
        "finetune_steps=960",
        *(f"method={method}" for method in METHODS),
    ],
    "distill_fusion": ["", "finetune_steps=0", "teachers=a.npz+b.keras+runs/{domain}"],
    "distill_small": [f"method={method}" for method in ("joint", *DISTILLATION)],
    "fusion": ["", "finetune,prefixes", "backbone=a.keras+b.keras@192+c.keras"],
    "guie": ["", "recipe=first", "recipe=second", "recipe=third"],
    "linear_probe": ["", "dataset=folder"],
    "uned": ["variant=UJCDS", "variant=UJCRR", "variant=USCDS", "variant=USCRR", "variant=UDON"]
    + ["variant=distance_distribution", "domain=cars"],
    "uned_mini": ["", "backbone=MobileNetV2"],
}
CASES = [(name, argument) for name, arguments in ARGUMENTS.items() for argument in arguments]


def load_recipe(name, argument=""):
    return importlib.import_module(f"configs.{name}").get_config(argument)


def test_every_recipe_is_covered():
    configs = importlib.import_module("configs")
    folder = importlib.resources.files(configs)
    names = {path.name.removesuffix(".py") for path in folder.iterdir() if path.suffix == ".py"}
    assert names - {"__init__", "continued"} == set(ARGUMENTS)  # of a run: test_continued


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_recipe_has_valid_stages_and_the_teachers_that_it_needs(name, argument):
    config = load_recipe(name, argument)
    stages = read_stages(config)
    assert all(stage.learning_rates for stage in stages)
    weights = {loss: options.weight for loss, options in config.losses.items()}
    assert weights.keys() == LOSSES.keys()
    assert any(weights.values()) and min(weights.values()) >= 0
    needs_teachers = any(weights[method] for method in DISTILLATION)
    assert bool(config.distillation.teachers) == needs_teachers
    sources = [teacher.source for teacher in config.distillation.teachers]
    assert ".." not in " ".join([config.model.backbone, *sources])


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_runlocal_keeps_the_recipe_and_shrinks_the_run(name, argument):
    full = load_recipe(name, argument)
    local = load_recipe(name, f"{argument},runlocal=true")
    assert set(local.model.backbone.split("+")) == {"small"} and local.data.batch_size == 8
    assert all(stage.steps <= 4 for stage in local.stages)
    for field in ("losses", "head", "augmentation", "distillation"):
        assert local[field].to_dict() == full[field].to_dict()
    assert len(local.stages) == len(full.stages)
    read_stages(local)


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_recipes_for_accelerators_use_bfloat16_and_xla(name, argument):
    def settings(config):
        return config.model.dtype_policy, config.jit_compile

    is_for_accelerators = name in ("guie", "uned")
    expected = ("mixed_bfloat16", True) if is_for_accelerators else ("float32", False)
    assert settings(load_recipe(name, argument)) == expected
    assert settings(load_recipe(name, f"{argument},runlocal")) == ("float32", False)


def smoke_test(config, workdir):
    """Trains a recipe to its end on a few random images."""
    domains = config.data.domains or ("cars", "flags")
    records = make_domains(dict.fromkeys(domains, 24), height=40, width=50)
    experiment = Experiment.from_config(config, records, workdir, make_strategy())
    write_config(workdir, config, experiment.data_summary())
    assert train(experiment, default_hooks(experiment))
    assert int(experiment.step.numpy()) == sum(stage.steps for stage in config.stages)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("demo", ""),
        ("linear_probe", ""),
        pytest.param("distill", "method=udon,finetune_steps=2", marks=pytest.mark.slow),
        pytest.param("fusion", "finetune,prefixes", marks=pytest.mark.slow),
        pytest.param("guie", "recipe=third", marks=pytest.mark.slow),
        pytest.param("uned", "variant=USCRR", marks=pytest.mark.slow),
        pytest.param("uned", "variant=UDON", marks=pytest.mark.slow),
        pytest.param("uned_mini", "", marks=pytest.mark.slow),
    ],
)
def test_runlocal_trains_to_the_end(name, argument, tmp_path):
    smoke_test(load_recipe(name, f"{argument},runlocal=true"), tmp_path / "run")


@pytest.mark.slow
def test_runlocal_distills_from_specialists_and_a_universal_model(tmp_path):
    for domain in ("cars", "flags"):
        argument = f"method=specialist,domain={domain},runlocal"
        smoke_test(load_recipe("distill", argument), tmp_path / domain)
    teachers = f"teachers={tmp_path}/{{domain}}"
    smoke_test(load_recipe("distill", f"{teachers},runlocal"), tmp_path / "universal")
    argument = f"method=rkd_distance,teacher={tmp_path}/universal,runlocal"
    smoke_test(load_recipe("distill_small", argument), tmp_path / "small")


def test_uned_takes_the_published_numbers_of_steps():
    universal = load_recipe("uned", "variant=UJCRR")
    steps = sum(stage.steps for stage in universal.stages)
    # 7 epochs of 22,118 steps; the specialist of food2k 30 of 3,690 (472,349 images / 128).
    assert steps == pytest.approx(7 * 22_118, rel=1e-3)
    specialist = load_recipe("uned", "domain=food2k")
    epoch = UNED["food2k"].num_images["train"] // 128
    assert sum(stage.steps for stage in specialist.stages) == 30 * epoch
    assert tuple(specialist.data.domains) == ("food2k",)


def test_udon_takes_the_published_values():
    config = load_recipe("uned", "variant=UDON")
    frozen, finetune = config.stages
    assert (frozen.steps, frozen.steps + finetune.steps) == (2 * 22_118, 10 * 22_118)
    assert (frozen.backbone_lr, finetune.backbone_lr) == (0.0, 1e-5)
    for config_of_stage in (frozen, finetune):
        assert (config_of_stage.projection_lr, config_of_stage.head_lr) == (1e-3, 1e-3)
        assert config_of_stage.schedule == "constant"
    assert (config.data.batching, config.data.batch_size) == ("per_domain", 128)
    assert (config.data.sampler, config.data.reweight_every_steps) == ("round_robin", 1000)
    assert config.data.reweight_by == "udon_teacher"
    assert (config.head.scale, config.head.margin, config.head.joint) == (16.0, 0.0, False)
    assert config.model.projection_bias and config.model.dropout == 0.0
    assert set(config.optimizer.weight_decay.values()) == {1e-6}
    udon = config.losses.udon
    assert (udon.teacher_dim, udon.class_temperature) == (256, 0.1)
    assert udon.stop_gradient_at == "backbone" and set(udon.term_weights) == {1.0}


def test_guie_locks_projection_and_classes_after_the_winner():
    config = load_recipe("guie", "recipe=first")
    head, *later = config.stages
    assert head.backbone_lr == 0.0 and head.projection_lr == head.head_lr > 0
    for config_of_stage in later:
        assert config_of_stage.projection_lr == config_of_stage.head_lr == 0.0
        assert config_of_stage.backbone_lr == pytest.approx(head.head_lr / 80)
    assert (config.head.margin_type, config.head.margin) == ("cosface", 0.55)
    assert (later[-1].domains, later[-1].margin) == (("products10k",), 0.65)
    assert head.steps / 6 == 3736  # 478,185 images in batches of 128


def test_guie_takes_the_published_margins_and_batches():
    (second,) = read_stages(load_recipe("guie", "recipe=second"))
    for epoch in range(10):
        scale, shift = margin_at(second, tf.constant(3736 * epoch + 100, tf.int64))
        margin = float(scale) * 0.3 + float(shift)
        assert margin == pytest.approx(min(0.8, 0.1 * (epoch + 1)), abs=1e-6)
    assert second.learning_rates["backbone"] * 1000 == pytest.approx(second.learning_rates["head"])
    first, last = read_stages(load_recipe("guie", "recipe=third"))
    assert (first.batch_size, last.batch_size) == (512, 64)
    plain = AugmentationConfig(crop="none", flip=False)
    assert AugmentationConfig(**last.augmentation) == plain
    assert AugmentationConfig(**first.augmentation) != plain
    (frozen,) = read_stages(load_recipe("guie"))
    assert (frozen.input, frozen.steps) == ("features", 37_360)


def test_distill_holds_the_values_of_the_published_table():
    config = load_recipe("distill")
    distribution = config.losses.distance_distribution
    assert (distribution.teacher_temperature, distribution.student_temperature) == (0.2, 0.2)
    assert (distribution.weight, distribution.mask_other_domains) == (1.0, False)
    assert load_recipe("distill", "method=distance").losses.distance.weight == 10.0
    assert load_recipe("distill", "method=rkd_distance").losses.rkd_distance.weight == 30.0
    udon = load_recipe("distill", "method=udon")
    assert (udon.data.batching, udon.data.sampler) == ("mixed", "round_robin")
    assert udon.data.reweight_every_steps == 250 and not udon.losses.classification.weight
    masked = load_recipe("distill", "mask_other_domains,batching=per_domain,sampler=dataset_size")
    assert masked.losses.distance_distribution.mask_other_domains
    assert (masked.data.batching, masked.data.sampler) == ("per_domain", "dataset_size")


@pytest.mark.parametrize("steps", [15, 120, 960])
def test_ema_keeps_the_same_weight_on_its_start_for_any_number_of_steps(steps):
    config = load_recipe("distill", f"finetune_steps={steps}")
    assert config.stages[1].steps == steps
    remaining = 1.0
    for _ in range(steps):
        remaining *= config.optimizer.ema_decay
    assert remaining == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("distill", "method=fang", "method=fang"),
        ("distill", "method=specialist", "domain=KEY"),
        ("distill", "method=distance,domain=flags", "domain=KEY"),
        ("distill", "finetune_steps=-1", "finetune_steps=-1"),
        ("distill_small", "method=udon", "method=udon"),
        ("distill_small", "steps=many", "steps=many"),
        ("distill_small", "teachers=x", r"teacher=\.\.\."),
        ("guie", "recipe=locked", "recipe=locked; it must be one of frozen, first"),
        ("uned", "variant=UJC", "variant=UJC"),
        ("uned", "variant=UDON,domain=cars", "leave domain=cars out"),
        ("uned", "variant=distance_distribution,domain=cars", "leave domain=cars out"),
        ("uned", "domain=dogs", "domain=dogs"),
        ("demo", "small", "runlocal"),
    ],
)
def test_invalid_argument_is_named(name, argument, message):
    with pytest.raises(UserError, match=message):
        load_recipe(name, argument)
