"""Which builder prepares which data set."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from universal_embedding.datasets import info_files
from universal_embedding.datasets.builder import PictureBuilder
from universal_embedding.datasets.domains import GUIE, UNED, in_order
from universal_embedding.datasets.folders import FolderOptions, folder_builder
from universal_embedding.datasets.guie import Guie, GuieOptions
from universal_embedding.datasets.trees import tree_builder
from universal_embedding.datasets.uned import Uned
from universal_embedding.errors import UserError

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "uned": ("allow_partial",),
    "guie": ("allow_partial", *GuieOptions.__dataclass_fields__),
    "folder": tuple(FolderOptions.__dataclass_fields__),
}


def domain_keys(dataset: str, manual_dir: Path, chosen: Sequence[str] = ()) -> list[str]:
    """The domains to prepare: the chosen ones, or all that there are."""
    if dataset == "folder":
        there = [manual_dir.name]
    elif dataset in ("uned", "guie"):
        there = list({"uned": UNED, "guie": GUIE}[dataset])
    else:
        there = info_files.domain_keys(manual_dir / info_files.INFO_FILES)
    unknown = [key for key in chosen if key not in there]
    if unknown:
        raise UserError(f"--domains={unknown[0]}: {dataset} has {', '.join(there)}")
    return in_order(chosen or there) if dataset != "guie" else list(chosen or there)


def builder(
    dataset: str, domain: str, options: Mapping[str, Any] | None = None, **kwargs: Any
) -> PictureBuilder:
    """The builder of one domain.

    Args:
        dataset: `uned`, `guie`, `folder`, or the name of a data set in UnED's layout.
        domain: One of its domains.
        options: What only some data sets take, see `OPTIONS`.
        **kwargs: What every `PictureBuilder` takes.
    """
    options = dict(options or {})
    for name in options:
        if name not in OPTIONS.get(dataset, ()):
            takers = [taker for taker, names in OPTIONS.items() if name in names]
            raise UserError(
                f"--{name} means nothing for --dataset={dataset}, only for {', '.join(takers)}"
            )
    for name in (dataset, domain):
        if not re.fullmatch(r"[A-Za-z][\w-]*", name):
            raise UserError(
                f"{name!r} cannot name a data set or domain (letters, digits, _ and - can): "
                "rename the folder, or give --dataset another name"
            )
    if dataset == "uned":
        return Uned(config=domain, **options, **kwargs)
    if dataset == "guie":
        partial = options.pop("allow_partial", False)
        return Guie(
            config=domain, guie_options=GuieOptions(**options), allow_partial=partial, **kwargs
        )
    if dataset == "folder":
        return folder_builder(domain, folder_options=FolderOptions(**options), **kwargs)
    return tree_builder(dataset, domain, **kwargs)
