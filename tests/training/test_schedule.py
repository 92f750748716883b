"""Learning rates of stages, against their formulas."""

import math

import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config, stage
from universal_embedding.training.schedule import learning_rate_at, margin_at, read_stages


def read(stages, **head):
    config = base_config()
    config.head.update(head)
    config.stages = stages
    return read_stages(config)


STAGES = read(
    [
        stage(steps=10, head_lr=1e-2, warmup_steps=4, schedule="cosine"),
        stage(steps=20, backbone_lr=1e-4, projection_lr=1e-3, schedule="linear"),
        stage(steps=5, backbone_lr=2e-4, layer_decay=0.1, schedule="constant"),
        stage(steps=5, backbone_lr=3e-4, trainable_blocks=2, schedule="constant"),
        stage(steps=9, head_lr=1.0, schedule="step", milestones=(2, 6), milestone_factor=0.5),
    ]
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
    if step < 40:
        return 3e-4 if group == "backbone" and depth_from_top < 2 else 0.0
    return (1.0 if step < 42 else 0.5 if step < 46 else 0.25) if group == "head" else 0.0


@pytest.mark.parametrize("group", ["backbone", "projection", "head"])
@pytest.mark.parametrize("depth_from_top", [0, 1, 7])
def test_learning_rate_equals_formula_at_every_step(group, depth_from_top):
    for step in range(49):
        rate = float(learning_rate_at(STAGES, group, depth_from_top, tf.constant(step, tf.int64)))
        expected = naive_learning_rate(group, depth_from_top, step)
        assert rate == pytest.approx(expected, rel=1e-5, abs=1e-12), step


def test_learning_rate_distinguishes_consecutive_steps_beyond_float32():
    late = read([stage(steps=2**25, head_lr=1.0), stage(steps=10, head_lr=1.0, schedule="linear")])
    rates = [
        float(learning_rate_at(late, "head", 1.0, tf.constant(2**25 + i, tf.int64)))
        for i in range(10)
    ]
    assert rates == pytest.approx([1 - i / 10 for i in range(10)], rel=1e-6)


def test_margin_scale_rises_linearly_within_its_warmup():
    configs = [stage(steps=3, head_lr=1.0), stage(steps=9, head_lr=1.0, margin_warmup_steps=4)]
    first, second = read(configs)
    steps = [tf.constant(step, tf.int64) for step in range(3, 12)]
    values = [[float(v) for v in margin_at(second, s)] for s in steps]
    assert values == [[0.25, 0.0], [0.5, 0.0], [0.75, 0.0]] + [[1.0, 0.0]] * 6
    assert [float(v) for v in margin_at(first, steps[0])] == [1.0, 0.0]


@pytest.mark.parametrize("own", [0.0, 0.3, 0.45])
def test_margin_of_a_stage_grows_in_levels(own):
    margins = {"margin": 0.8, "margin_start": 0.1, "margin_warmup_steps": 16, "margin_levels": 8}
    (only,) = read([stage(steps=20, head_lr=1.0, **margins)], margin=own)
    for step in range(20):
        scale, shift = margin_at(only, tf.constant(step, tf.int64))
        expected = 0.1 * (1 + min(step // 2, 7))  # 0.1 more every 2 steps, up to 0.8
        assert float(scale) * own + float(shift) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("margin", [None, 0.5])
def test_margin_of_a_stage_grows_linearly_from_its_start(margin):
    fields = {"margin": margin, "margin_start": 0.2, "margin_warmup_steps": 5}
    (only,) = read([stage(steps=8, head_lr=1.0, **fields)], margin=0.3)
    last = 0.3 if margin is None else margin
    for step in range(8):
        scale, shift = margin_at(only, tf.constant(step, tf.int64))
        expected = 0.2 + (last - 0.2) * min(1, (step + 1) / 5)
        assert float(scale) * 0.3 + float(shift) == pytest.approx(expected, abs=1e-6)


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
        ({"steps": 5, "head_lr": 1.0, "dropout": 1.0}, "dropout"),
        ({"steps": 5, "head_lr": 1.0, "batch_size": -8}, "batch_size"),
        ({"steps": 5, "head_lr": 1.0, "margin_levels": 1}, "margin_levels"),
        ({"steps": 5, "head_lr": 1.0, "milestones": (2,)}, "milestones"),
        ({"steps": 5, "head_lr": 1.0, "schedule": "step"}, "milestones"),
        ({"steps": 5, "head_lr": 1.0, "schedule": "step", "milestones": (3, 2)}, "milestones"),
        ({"steps": 5, "head_lr": 1.0, "schedule": "step", "milestones": (5,)}, "milestones"),
        ({"steps": 5, "head_lr": 1.0, "augmentation": {"mixxup": 1.0}}, "augmentation.*mixxup"),
        ({"steps": 5, "head_lr": 1.0, "label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_invalid_field_is_named(fields, field):
    with pytest.raises(UserError, match=rf"stages\[1\].*{field}"):
        read([stage(steps=1, head_lr=1.0), stage(**fields)])


@pytest.mark.parametrize(
    ("head", "fields", "field"),
    [
        ({"margin_type": "arcface"}, {"margin": 4.0}, "margin"),
        ({"margin_type": "arcface"}, {"margin_start": -0.1}, "margin_start"),
        ({"class_margin": 0.5, "class_margin_range": (0.05, 0.5)}, {"margin": 0.1}, "margin"),
        ({"num_subcenters": 2}, {"label_smoothing": 0.1}, "label_smoothing"),
        ({"num_sampled_classes": 9}, {"label_smoothing": 0.1}, "label_smoothing"),
    ],
)
def test_field_that_does_not_fit_the_head_is_named(head, fields, field):
    with pytest.raises(UserError, match=rf"stages\[0\]\.{field} is "):
        read([stage(steps=3, head_lr=1.0, **fields)], **head)


def test_config_without_stages_is_refused():
    with pytest.raises(UserError, match=r"config\.stages is empty"):
        read([])


def test_misspelled_stage_field_is_an_error():
    with pytest.raises((KeyError, AttributeError), match="warmup"):
        stage(warmpu_steps=3)
