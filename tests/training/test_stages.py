import math

import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.training.config import stage
from universal_embedding.training.stages import rate_at, read_stages

STAGES = read_stages(
    [
        stage(steps=10, head_rate=1e-2, warmup=4, schedule="cosine"),
        stage(steps=20, backbone_rate=1e-4, projection_rate=1e-3, schedule="linear"),
        stage(steps=5, backbone_rate=2e-4, layer_decay=0.1, schedule="constant"),
        stage(steps=5, backbone_rate=3e-4, backbone_depths=2, schedule="constant"),
    ],
    image_size=224,
)


def naive_rate(group, below, step):
    if step < 10:
        if group != "head":
            return 0.0
        warm = min(1.0, (step + 1) / 4)
        part = max(0.0, (step - 4) / 6)
        return 1e-2 * warm * (1 + math.cos(math.pi * part)) / 2
    if step < 30:
        return {"backbone": 1e-4, "projection": 1e-3, "head": 0.0}[group] * (1 - (step - 10) / 20)
    if step < 35:
        return {"backbone": 2e-4, "projection": 0.0, "head": 0.0}[group] * 0.1**below
    return 3e-4 if group == "backbone" and below < 2 else 0.0


@pytest.mark.parametrize("group", ["backbone", "projection", "head"])
@pytest.mark.parametrize("below", [0, 1, 7])
def test_rates_follow_their_formulas_at_every_step(group, below):
    for step in range(40):
        rate = float(rate_at(STAGES, group, below, tf.constant(step, tf.int64)))
        assert rate == pytest.approx(naive_rate(group, below, step), rel=1e-5, abs=1e-12), step


def test_a_schedule_tells_late_steps_apart():
    late = read_stages(
        [stage(steps=2**25, head_rate=1.0), stage(steps=10, head_rate=1.0, schedule="linear")], 1
    )
    rates = [float(rate_at(late, "head", 1.0, tf.constant(2**25 + i, tf.int64))) for i in range(10)]
    assert rates == pytest.approx([1 - i / 10 for i in range(10)], rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"steps": 0, "head_rate": 1.0}, "steps"),
        ({"steps": 5}, "rates"),
        ({"steps": 5, "head_rate": -1.0}, "rates"),
        ({"steps": 5, "head_rate": 1.0, "schedule": "cosin"}, "schedule"),
        ({"steps": 5, "head_rate": 1.0, "warmup": 6}, "warmup"),
        ({"steps": 5, "head_rate": 1.0, "layer_decay": 0.0}, "layer_decay"),
        ({"steps": 5, "head_rate": 1.0, "backbone_depths": -1}, "backbone_depths"),
        ({"steps": 5, "backbone_rate": 1.0, "input": "features"}, "backbone_rate"),
    ],
)
def test_a_value_that_cannot_be_is_named(fields, named):
    with pytest.raises(UserError, match=rf"stages\[1\].*{named}"):
        read_stages([stage(steps=1, head_rate=1.0), stage(**fields)], 224)


def test_a_misspelt_field_is_an_error():
    with pytest.raises((KeyError, AttributeError), match="warmup"):
        stage(warmpu=3)
