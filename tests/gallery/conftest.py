"""A gallery small enough to know by heart, and a model that anyone can recompute."""

import hashlib
import threading
import time

import numpy as np
import pytest
import uvicorn
from PIL import Image

from universal_embedding.gallery import indexing, pages, server
from universal_embedding.gallery.search import Gallery

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 220)}


class MeanColours:
    """Embeds a picture as the mean colours of a 4 x 4 grid, centred."""

    def __init__(self, name="model"):
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()
        self.embedded = 0

    def __call__(self, pictures, *, batch_size=32, progress=True):
        self.embedded += len(pictures)
        rows = []
        for picture in pictures:
            small = np.asarray(Image.fromarray(picture).resize((4, 4), Image.Resampling.BOX))
            row = small.astype(np.float32).ravel() - 127.5
            rows.append(row / np.linalg.norm(row))
        return np.stack(rows)


def draw(colour, seed, side=40):
    """A picture of about one colour."""
    noise = np.random.default_rng(seed).integers(-30, 31, (4, 4, 3))
    grid = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(grid).resize((side, side + 10), Image.Resampling.NEAREST)


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures in three categories; PNG, so that a copy is the same picture."""
    for c, colour in enumerate(COLOURS):
        path = tmp_path / "gallery" / colour
        path.mkdir(parents=True)
        for i in range(4):
            draw(colour, 10 * c + i).save(path / f"{i}.png")
    return tmp_path / "gallery"


@pytest.fixture
def model():
    return MeanColours()


@pytest.fixture
def other_model():
    return MeanColours("another")


@pytest.fixture
def picture():
    """Draws pictures: `picture(colour, seed)`."""
    return draw


@pytest.fixture
def gallery(folder, model, tmp_path):
    index, _ = indexing.update(tmp_path / "index", folder, model, tmp_path / "model")
    return Gallery(index, model, tmp_path / "model")


@pytest.fixture
def running(gallery):
    """The address of a real server of the gallery."""
    app = server.application(gallery, pages.Limits(upload=1 << 20), None, ("127.0.0.1",))
    web = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="critical"))
    thread = threading.Thread(target=web.run)
    thread.start()
    while not web.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
    web.should_exit = True
    thread.join()
