"""Published numbers of pictures and classes against those found."""

from collections.abc import Mapping

import numpy as np

from universal_embedding.datasets.collection import Entries
from universal_embedding.datasets.domains import Domain
from universal_embedding.errors import UserError


def check_counts(name: str, splits: Mapping[str, Entries], domain: Domain) -> None:
    """Compares each split with the registry.

    Raises:
        UserError: They differ; the message has every found and published number that does.
    """
    found_classes = {
        split: len(np.unique(splits[split].labels.values)) if split in splits else 0
        for split in domain.classes
    }
    found_pictures = {split: len(splits.get(split, ())) for split in [*domain.pictures, *splits]}
    differences = [
        *_differences(found_pictures, domain.pictures, "pictures"),
        *_differences(found_classes, domain.classes, "classes"),
    ]
    if differences:
        raise UserError(
            f"{name} is not what was published: {'; '.join(differences)}. "
            "Complete the files, or accept this with --allow_partial"
        )


def _differences(found: Mapping[str, int], published: Mapping[str, int], what: str) -> list[str]:
    return [
        f"{split} has {number:,} {what}, published {published.get(split, 0):,}"
        for split, number in found.items()
        if number != published.get(split, 0)
    ]
