"""Learning rates of stages, against their formulas."""

import math

import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.training.config import stage
from universal_embedding.training.schedule import learning_rate_at, margin_scale_at, read_stages

STAGES = read_stages(
    [
        stage(steps=10, head_lr=1e-2, warmup_steps=4, schedule="cosine"),
        stage(steps=20, backbone_lr=1e-4, projection_lr=1e-3, schedule="linear"),
        stage(steps=5, backbone_lr=2e-4, layer_decay=0.1, schedule="constant"),
        stage(steps=5, backbone_lr=3e-4, trainable_blocks=2, schedule="constant"),
    ],
    image_size=224,
)


def naive_learning_rate(group, depth_from_top, step):
    if step < 10:
        if group != "head":
            return 0.0
        warmup = min(1.0, (step + 1) / 4)
        progress = max(0.0, (step - 4) / 6)
        return 1e-2 * warmup * (1 + math.cos(math.pi * progress)) / 2
    if step < 30:
        return {"backbone": 1e-4, "projection": 1e-3, "head": 0.0}[group] * (1 - (step - 10) / 20)
    if step < 35:
        return {"backbone": 2e-4, "projection": 0.0, "head": 0.0}[group] * 0.1**depth_from_top
    return 3e-4 if group == "backbone" and depth_from_top < 2 else 0.0


@pytest.mark.parametrize("group", ["backbone", "projection", "head"])
@pytest.mark.parametrize("depth_from_top", [0, 1, 7])
def test_learning_rate_equals_formula_at_every_step(group, depth_from_top):
    for step in range(40):
        rate = float(learning_rate_at(STAGES, group, depth_from_top, tf.constant(step, tf.int64)))
        expected = naive_learning_rate(group, depth_from_top, step)
        assert rate == pytest.approx(expected, rel=1e-5, abs=1e-12), step


def test_learning_rate_distinguishes_consecutive_steps_beyond_float32():
    late = read_stages(
        [stage(steps=2**25, head_lr=1.0), stage(steps=10, head_lr=1.0, schedule="linear")], 1
    )
    rates = [
        float(learning_rate_at(late, "head", 1.0, tf.constant(2**25 + i, tf.int64)))
        for i in range(10)
    ]
    assert rates == pytest.approx([1 - i / 10 for i in range(10)], rel=1e-6)


def test_margin_scale_rises_linearly_within_its_warmup():
    configs = [stage(steps=3, head_lr=1.0), stage(steps=9, head_lr=1.0, margin_warmup_steps=4)]
    first, second = read_stages(configs, 224)
    steps = [tf.constant(step, tf.int64) for step in range(3, 12)]
    assert [float(margin_scale_at(second, s)) for s in steps] == [0.25, 0.5, 0.75] + [1.0] * 6
    assert float(margin_scale_at(first, steps[0])) == 1.0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"steps": 0, "head_lr": 1.0}, "steps"),
        ({"steps": 5}, "head_lr"),
        ({"steps": 5, "head_lr": -1.0}, "head_lr"),
        ({"steps": 5, "head_lr": 1.0, "input": "image"}, "input"),
        ({"steps": 5, "head_lr": 1.0, "schedule": "cosin"}, "schedule"),
        ({"steps": 5, "head_lr": 1.0, "warmup_steps": 6}, "warmup_steps"),
        ({"steps": 5, "head_lr": 1.0, "layer_decay": 0.0}, "layer_decay"),
        ({"steps": 5, "head_lr": 1.0, "trainable_blocks": -1}, "trainable_blocks"),
        ({"steps": 5, "backbone_lr": 1.0, "input": "features"}, "backbone_lr"),
    ],
)
def test_invalid_field_is_named(fields, field):
    with pytest.raises(UserError, match=rf"stages\[1\].*{field}"):
        read_stages([stage(steps=1, head_lr=1.0), stage(**fields)], 224)


def test_config_without_stages_is_refused():
    with pytest.raises(UserError, match=r"config\.stages is empty"):
        read_stages([], 224)


def test_misspelled_stage_field_is_an_error():
    with pytest.raises((KeyError, AttributeError), match="warmup"):
        stage(warmpu_steps=3)
