import json
import subprocess
import sys

import pytest

from universal_embedding.errors import UserError
from universal_embedding.training.config import (
    base_config,
    evaluation,
    parse_argument,
    shrink,
    stage,
)

DEFAULTS = {"name": "x", "steps": 10, "rate": 0.5, "runlocal": False}


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("", {}),
        ("steps=20", {"steps": 20}),
        ("rate=2", {"rate": 2.0}),
        ("rate=1e-3,name=a=b", {"rate": 1e-3, "name": "a=b"}),
        ("runlocal=true", {"runlocal": True}),
        ("runlocal", {"runlocal": True}),
        ("runlocal=False,name=12", {"name": "12"}),
    ],
)
def test_argument_values_have_the_types_of_their_defaults(argument, expected):
    values = parse_argument(argument, **DEFAULTS)
    assert values.to_dict() == DEFAULTS | expected
    assert [type(values[key]) for key in DEFAULTS] == [type(v) for v in DEFAULTS.values()]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("stepz=3", r"'stepz=3'; it takes name=\.\.\., steps=\.\.\."),
        ("steps", "'steps'"),
        ("steps=", "'steps='"),
        ("steps=many", "steps=many; steps must be a whole number, such as 10"),
        ("steps=2.5", r"steps=2\.5"),
        ("rate=fast", r"rate must be a number, such as 0\.5"),
        ("runlocal=yes", "runlocal must be true or false"),
    ],
)
def test_wrong_argument_is_named(argument, message):
    with pytest.raises(UserError, match=message):
        parse_argument(argument, **DEFAULTS)


def test_fields_are_locked_and_evals_take_entries():
    config = base_config()
    for group in (config, config.data, config.losses.supcon, config.evals.val):
        with pytest.raises(AttributeError):
            group.unknown_field = 1
    config.evals.test = evaluation(split="test", protocols=("merged", "separate"))
    assert list(config.evals) == ["test", "val"]
    with pytest.raises(KeyError):
        stage(stepz=3)
    with pytest.raises(KeyError):
        evaluation(metric="r_at_1")


def test_config_survives_json():
    config = base_config()
    config.stages = (stage(steps=3, head_lr=1.0),)
    content = json.loads(config.to_json())
    assert content["evals"]["val"]["metrics"] == ["r_at_1", "mmp_at_5"]
    assert content["stages"][0]["steps"] == 3


def test_shrink_limits_every_stage():
    config = base_config()
    config.stages = (
        stage(steps=900, warmup_steps=50, batch_size=512, milestones=(300, 600)),
        stage(steps=3, image_size=336),
    )
    config.evals.val.every_steps = 300
    config = shrink(config)
    assert [s.steps for s in config.stages] == [4, 3]
    assert [s.warmup_steps for s in config.stages] == [4, 0]
    assert [s.image_size for s in config.stages] == [0, 0]
    assert [s.batch_size for s in config.stages] == [4, 0]
    assert [tuple(s.milestones) for s in config.stages] == [(1, 2), ()]
    assert (config.model.backbone, config.evals.val.every_steps) == ("small", 0)


def test_config_imports_no_tensorflow():
    code = "import sys, universal_embedding.training.config; print('tensorflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
