import pytest

from universal_embedding.errors import UserError
from universal_embedding.input.samplers import SPECIALIST_STEPS, make_domain_weights

SIZES = {"cars": 6346, "sop": 48942, "met": 397121}


def test_domain_weights_equal_their_definitions():
    total = sum(SIZES.values())
    by_size = make_domain_weights("dataset_size", SIZES).weights
    assert by_size == pytest.approx([n / total for n in SIZES.values()])
    assert make_domain_weights("balanced", SIZES).weights == pytest.approx([1 / 3] * 3)
    assert make_domain_weights("round_robin", SIZES).round_robin
    steps = [539, 10696, 24816]
    by_steps = make_domain_weights("specialist_steps", SIZES).weights
    assert by_steps == pytest.approx([s / sum(steps) for s in steps])
    roots = [n**0.5 for n in SIZES.values()]
    assert make_domain_weights("temperature", SIZES, 0.5).weights == pytest.approx(
        [r / sum(roots) for r in roots]
    )
    assert make_domain_weights("temperature", SIZES, 1.0).weights == pytest.approx(by_size)
    assert make_domain_weights("temperature", SIZES, 0.0).weights == pytest.approx([1 / 3] * 3)
    explicit = make_domain_weights({"met": 3, "cars": 1, "sop": 0}, SIZES).weights
    assert explicit == (0.25, 0, 0.75)


def test_specialist_steps_sum_to_the_published_total():
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
def test_invalid_sampler_is_an_error(name, message):
    with pytest.raises(UserError, match=message):
        make_domain_weights(name, SIZES)


def test_specialist_steps_of_unknown_domain_is_an_error():
    with pytest.raises(UserError, match="'leaves'"):
        make_domain_weights("specialist_steps", {"cars": 1, "leaves": 2})
