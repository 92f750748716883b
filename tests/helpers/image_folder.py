"""A folder of images small enough to know by heart, and a model that anyone can recompute."""

import hashlib

import numpy as np
from PIL import Image

COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 220)}


class MeanColorModel:
    """Embeds an image as the centered mean colors of a 4 x 4 grid."""

    def __init__(self, name="model"):
        self.name = name
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()
        self.num_embedded = 0

    def encode(self, images, *, batch_size=32, show_progress_bar=None):
        self.num_embedded += len(images)
        rows = []
        for image in images:
            small = np.asarray(Image.fromarray(image).resize((4, 4), Image.Resampling.BOX))
            row = small.astype(np.float32).ravel() - 127.5
            rows.append(row / np.linalg.norm(row))
        return np.stack(rows)


def draw_color(color, seed, side=40):
    """An image of about one color."""
    noise = np.random.default_rng(seed).integers(-30, 31, (4, 4, 3))
    grid = np.clip(np.array(COLORS[color]) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(grid).resize((side, side + 10), Image.Resampling.NEAREST)


def write_color_folder(folder):
    """Twelve images in three categories; PNG, so that a copy is the same image."""
    for c, color in enumerate(COLORS):
        (folder / color).mkdir(parents=True)
        for i in range(4):
            draw_color(color, 10 * c + i).save(folder / color / f"{i}.png")
    return folder
