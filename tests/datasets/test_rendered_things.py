"""What is drawn: every thing, under every viewpoint, from its own parameters."""

import numpy as np
import pytest
from PIL import Image

from universal_embedding.datasets.rendered.domains import DOMAINS
from universal_embedding.datasets.rendered.gallery import CATEGORIES
from universal_embedding.datasets.rendered.scene import photograph, studio

THINGS = {domain.key: domain.thing for domain in DOMAINS} | {"dogs": CATEGORIES["Dog"]}


def rng(*stream: int) -> np.random.Generator:
    return np.random.default_rng(stream)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32)


@pytest.mark.parametrize("key", THINGS)
def test_every_variant_is_drawn(key):
    for number in range(60):
        thing = THINGS[key].design(rng(1, number))
        layer = pixels(thing.draw(rng(2, number)))
        covered = (layer[..., 3] > 0).mean()
        assert 0.05 < covered < 0.97, f"class {number} covers {covered:.2f} of the canvas"


@pytest.mark.parametrize("key", THINGS)
def test_a_class_is_told_by_the_object_not_the_scene(key):
    """Drawn alone from one viewpoint, two classes differ, and one class is the same."""
    first, second = (THINGS[key].design(rng(3, n)) for n in (0, 1))
    again = THINGS[key].design(rng(3, 0))
    assert first == again
    assert first != second
    same, other = (np.abs(pixels(first.draw(rng(4))) - pixels(t.draw(rng(4)))).mean()
                   for t in (again, second))  # fmt: skip
    assert same == 0 < other


@pytest.mark.parametrize("key", THINGS)
def test_photographs_of_one_thing_differ(key):
    thing = THINGS[key].design(rng(5))
    a, b, c = (photograph(thing, rng(6, n)) for n in (0, 1, 0))
    assert a.size == thing.size and a.mode == "RGB"
    assert np.abs(pixels(a) - pixels(b)).mean() > 15
    assert a.tobytes() == c.tobytes()


def test_nuisance_outweighs_identity_in_raw_pixels():
    """The nearest picture by pixels is mostly one of another class: a class is no colour patch."""
    right = total = 0
    for domain in DOMAINS:
        images = [
            pixels(photograph(thing, rng(8, c, n)).resize((16, 16), Image.Resampling.BOX)).ravel()
            for c in range(12)
            for thing in [domain.thing.design(rng(7, c))]
            for n in range(4)
        ]
        raw = np.stack(images)
        distance = ((raw[:, None] - raw[None]) ** 2).sum(-1)
        np.fill_diagonal(distance, np.inf)
        right += (distance.argmin(1) // 4 == np.arange(48) // 4).sum()
        total += 48
    assert right / total < 0.5


def test_catalogue_pictures_stand_on_pale_ground():
    for domain in DOMAINS:
        if domain.catalogue:
            image = pixels(studio(domain.thing.design(rng(9)), rng(10)))
            assert image[:4, :4].mean() > 200
