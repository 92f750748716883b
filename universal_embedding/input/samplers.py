"""Domain samplers: those of the UnED benchmark, temperature sampling and explicit weights."""

import math
from collections.abc import Mapping, Sequence
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
class DomainSampling:
    """Weights of the domains and the order in which they are sampled.

    Attributes:
        weights: Weight of each domain, >= 0, sum 1, in the order of the records.
        round_robin: Whether the domains alternate in a fixed order instead of at random.
    """

    weights: tuple[float, ...]
    round_robin: bool = False


def make_domain_weights(
    name: str | Mapping[str, float], sizes: Mapping[str, int], temperature: float = 0.5
) -> DomainSampling:
    """Makes the domain weights of a named sampler.

    Args:
        name: `dataset_size` (p ~ number of images), `balanced` (equal, at random), `round_robin`
            (equal, in a fixed order), `specialist_steps` (UnED's numbers of steps), `temperature`
            (p ~ images ** temperature), or explicit weights by domain (0 leaves a domain out; they
            need not sum to 1).
        sizes: Number of training images by domain, in the order of the records.
        temperature: Exponent of the sampler `temperature`: 1 is `dataset_size`, 0 is `balanced`.

    Raises:
        UserError: the name is unknown, or explicit weights are negative, not finite, all zero or
            not one for each domain.
    """
    domains = list(sizes)
    if not isinstance(name, str):
        if set(name) != set(domains):
            raise UserError(
                f"sampler weights are for {sorted(name)}, the training data for {sorted(domains)}; "
                "give one weight for each domain (0 leaves it out)"
            )
        weights = [name[d] for d in domains]
    elif name == "dataset_size":
        weights = [sizes[d] for d in domains]
    elif name in ("balanced", "round_robin"):
        weights = [1.0] * len(domains)
    elif name == "temperature":
        weights = [sizes[d] ** temperature for d in domains]
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
    return DomainSampling(normalize_weights(weights), round_robin=name == "round_robin")


def normalize_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """Divides weights by their sum.

    Raises:
        UserError: a weight is negative or not finite, or all are 0.
    """
    if not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) <= 0:
        raise UserError(
            f"sampler weights {list(weights)} must be finite and >= 0, with at least one above 0"
        )
    return tuple(float(w) / sum(weights) for w in weights)
