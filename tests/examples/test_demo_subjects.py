"""The demo's objects: each is drawn in every pose, and is told apart by itself alone."""

import numpy as np
import pytest
from PIL import Image

from examples.demo_data import DOMAINS
from examples.demo_data.canvas import fill
from examples.demo_data.generate import CATEGORIES
from examples.demo_data.scene import photograph

SUBJECTS = {domain.key: domain.subject for domain in DOMAINS} | {"dogs": CATEGORIES["Dog"]}


def make_rng(*stream: int) -> np.random.Generator:
    return np.random.default_rng(stream)


def to_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32)


@pytest.mark.parametrize("key", SUBJECTS)
def test_every_instance_covers_part_of_the_canvas(key):
    for number in range(60):
        draw = SUBJECTS[key].design(make_rng(1, number))
        layer = to_array(fill(draw(make_rng(2, number))))
        covered = (layer[..., 3] > 0).mean()
        assert 0.05 < covered < 0.97, f"class {number} covers {covered:.2f} of the canvas"


@pytest.mark.parametrize("key", SUBJECTS)
def test_instances_differ_in_the_same_pose(key):
    first, second, again = (
        to_array(fill(SUBJECTS[key].design(make_rng(3, number))(make_rng(4))))
        for number in (0, 1, 0)
    )
    assert np.array_equal(first, again)
    assert np.abs(first - second).mean() > 0


@pytest.mark.parametrize("key", SUBJECTS)
def test_photographs_of_one_instance_differ(key):
    subject = SUBJECTS[key]
    draw = subject.design(make_rng(5))
    first, second, again = (photograph(draw, subject, make_rng(6, n)) for n in (0, 1, 0))
    assert first.size == subject.size and first.mode == "RGB"
    assert np.abs(to_array(first) - to_array(second)).mean() > 15
    assert first.tobytes() == again.tobytes()


def test_nearest_image_in_pixels_is_mostly_of_another_class():
    correct = total = 0
    for domain in DOMAINS:
        draws = [domain.subject.design(make_rng(7, number)) for number in range(12)]
        images = [
            photograph(draw, domain.subject, make_rng(8, number, n))
            for number, draw in enumerate(draws)
            for n in range(4)
        ]
        pixels = np.stack(
            [to_array(image.resize((16, 16), Image.Resampling.BOX)) for image in images]
        )
        distance = ((pixels[:, None] - pixels[None]) ** 2).sum((2, 3, 4))
        np.fill_diagonal(distance, np.inf)
        correct += (distance.argmin(1) // 4 == np.arange(48) // 4).sum()
        total += 48
    assert correct / total < 0.5


@pytest.mark.parametrize("domain", [d for d in DOMAINS if d.num_studio_images], ids=lambda d: d.key)
def test_studio_photograph_has_a_pale_background(domain):
    draw = domain.subject.design(make_rng(9))
    image = to_array(photograph(draw, domain.subject, make_rng(10), studio=True))
    assert image[:4, :4].mean() > 200
