"""Which domain how often: the samplers of the UnED benchmark and their relatives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from universal_embedding.errors import UserError

SAMPLERS = ("dataset_size", "balanced", "round_robin", "specialist_steps", "temperature")

# Steps after which each domain's specialist was best, from UnED's reference code.
SPECIALIST_STEPS = {
    "food2k": 11070,
    "cars": 539,
    "sop": 10696,
    "inshop": 4564,
    "inat": 8560,
    "met": 24816,
    "gldv2": 66696,
    "rp2k": 5896,
}


@dataclass(frozen=True)
class Sampler:
    """Shares of the domains, and whether they come in turn or in random order.

    Attributes:
        weights: Share of each domain, >= 0, sum 1, in the order of the records.
        in_turn: One domain after the other (equal weights) instead of at random.
    """

    weights: tuple[float, ...]
    in_turn: bool = False


def sampler(
    name: str | Mapping[str, float], pictures: Mapping[str, int], temperature: float = 0.5
) -> Sampler:
    """Builds a sampler from its name.

    Args:
        name: `dataset_size` (p ~ number of pictures), `balanced` (equal, at random),
            `round_robin` (equal, in turn), `specialist_steps` (UnED's numbers of steps),
            `temperature` (p ~ pictures ** temperature), or explicit weights by domain (0 leaves a
            domain out; they need not sum to 1).
        pictures: Number of training pictures of each domain, in the order of the records.
        temperature: Exponent of the sampler `temperature`: 1 is `dataset_size`, 0 is `balanced`.

    Raises:
        UserError: for an unknown name, weights that do not fit the domains, or negative ones.
    """
    domains = list(pictures)
    if not isinstance(name, str):
        if set(name) != set(domains):
            raise UserError(
                f"sampler weights are for {sorted(name)}, the training data for {sorted(domains)}; "
                "give one weight for each domain (0 leaves it out)"
            )
        weights = [name[d] for d in domains]
    elif name == "dataset_size":
        weights = [pictures[d] for d in domains]
    elif name in ("balanced", "round_robin"):
        weights = [1.0] * len(domains)
    elif name == "temperature":
        weights = [pictures[d] ** temperature for d in domains]
    elif name == "specialist_steps":
        unknown = [d for d in domains if d not in SPECIALIST_STEPS]
        if unknown:
            raise UserError(
                f"sampler specialist_steps has no number of steps for {unknown}, only for "
                f"{list(SPECIALIST_STEPS)}; give explicit weights instead"
            )
        weights = [SPECIALIST_STEPS[d] for d in domains]
    else:
        raise UserError(f"sampler {name!r} is unknown; use one of {SAMPLERS} or explicit weights")
    return Sampler(normalise(weights), in_turn=name == "round_robin")


def normalise(weights: list[float]) -> tuple[float, ...]:
    """Weights with sum 1; UserError if one is negative or not finite, or all are 0."""
    if not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) <= 0:
        raise UserError(
            f"sampler weights {list(weights)} must be finite and >= 0, and one of them above 0"
        )
    return tuple(float(w) / sum(weights) for w in weights)
