import pytest

from universal_embedding.errors import UserError
from universal_embedding.input.samplers import SPECIALIST_STEPS, sampler

PICTURES = {"cars": 6346, "sop": 48942, "met": 397121}


def test_weights_by_definition():
    total = sum(PICTURES.values())
    by_size = sampler("dataset_size", PICTURES).weights
    assert by_size == pytest.approx([n / total for n in PICTURES.values()])
    assert sampler("balanced", PICTURES).weights == pytest.approx([1 / 3] * 3)
    assert sampler("round_robin", PICTURES).in_turn
    steps = [539, 10696, 24816]
    by_steps = sampler("specialist_steps", PICTURES).weights
    assert by_steps == pytest.approx([s / sum(steps) for s in steps])
    roots = [n**0.5 for n in PICTURES.values()]
    assert sampler("temperature", PICTURES, 0.5).weights == pytest.approx(
        [r / sum(roots) for r in roots]
    )
    assert sampler("temperature", PICTURES, 1.0).weights == pytest.approx(by_size)
    assert sampler("temperature", PICTURES, 0.0).weights == pytest.approx([1 / 3] * 3)
    explicit = sampler({"met": 3, "cars": 1, "sop": 0}, PICTURES).weights
    assert explicit == (0.25, 0, 0.75)


def test_specialist_steps_sum():
    assert sum(SPECIALIST_STEPS.values()) == 132_837
    assert len(SPECIALIST_STEPS) == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("roundrobin", "'roundrobin' is unknown"),
        ({"cars": 1}, "one weight for each domain"),
        ({"cars": 1, "sop": -1, "met": 1}, "finite and >= 0"),
        ({"cars": 0, "sop": 0, "met": 0}, "finite and >= 0"),
        ({"cars": float("nan"), "sop": 1, "met": 1}, "finite and >= 0"),
    ],
)
def test_wrong_samplers(name, message):
    with pytest.raises(UserError, match=message):
        sampler(name, PICTURES)


def test_specialist_steps_of_other_domains():
    with pytest.raises(UserError, match="'leaves'"):
        sampler("specialist_steps", {"cars": 1, "leaves": 2})
