"""Miniature datasets on disk, in their published layouts."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from universal_embedding.datasets import prepare


def write_image(path: Path, seed: int = 0, **options) -> Path:
    """Writes a small image of noise, different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_uned_layout(
    root: Path, domain: str, splits: dict[str, list[tuple[str, int | list[int]]]]
) -> Path:
    """Writes one domain in UnED's layout: (path, class id or ids) of each split."""
    seed = 0
    for split, rows in splits.items():
        file = root / "info_files" / domain / f"{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([{"path": path, "class_id": label} for path, label in rows]))
        for path, _ in rows:
            seed += 1
            if not (root / "images" / path).exists():
                write_image(root / "images" / path, seed)
    return root


def write_small_dataset(root: Path) -> Path:
    """Writes two domains, one with a separate index and a query of several labels."""
    write_uned_layout(
        root,
        "toys",
        {
            "train": [(f"toys/a/{i}.jpg", i % 3) for i in range(7)],
            "val": [("toys/b/0.png", 10), ("toys/b/1.png", 10)],
            "test": [("toys/c/0.jpg", [20, 21]), ("toys/c/1.jpg", 20)],
            "index": [("toys/d/0.jpg", 20), ("toys/d/1.jpg", 21), ("toys/d/2.jpg", 22)],
        },
    )
    return write_uned_layout(
        root,
        "birds",
        {"train": [("birds/x.jpg", 0)], "test": [("birds/y.jpg", 5), ("birds/z.jpg", 5)]},
    )


def toys_builder(data_dir, **options):
    """The builder of the domain `toys` of a data set `small`."""
    return prepare.make_builder("small", "toys", data_dir=data_dir, **options)
