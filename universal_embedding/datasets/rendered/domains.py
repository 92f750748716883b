"""The eight domains: which thing each one shows, and how many classes of how many pictures."""

from dataclasses import dataclass, field

from universal_embedding.datasets.rendered.scene import Thing
from universal_embedding.datasets.rendered.things.cars import Car
from universal_embedding.datasets.rendered.things.fruit import Fruit
from universal_embedding.datasets.rendered.things.garments import Garment
from universal_embedding.datasets.rendered.things.leaves import Leaf
from universal_embedding.datasets.rendered.things.packages import Package
from universal_embedding.datasets.rendered.things.paintings import Painting
from universal_embedding.datasets.rendered.things.products import Product
from universal_embedding.datasets.rendered.things.towers import Tower

CLASSES = {"train": 48, "val": 6, "test": 12}


@dataclass(frozen=True)
class Domain:
    """One rendered domain.

    Attributes:
        key: Its folder's name.
        thing: What a class is an instance of.
        photos: Photographs of each class.
        catalogue: Studio pictures of each class. Where there are any, those of the test classes
            are the index, and the photographs the queries.
        classes: Number of classes of each split.
    """

    key: str
    thing: type[Thing]
    photos: int = 13
    catalogue: int = 0
    classes: dict[str, int] = field(default_factory=lambda: dict(CLASSES))


DOMAINS = (
    Domain("fruit", Fruit),
    Domain("cars", Car),
    Domain("products", Product),
    Domain("garments", Garment, photos=9, catalogue=4),
    Domain("leaves", Leaf),
    Domain("paintings", Painting),
    Domain("towers", Tower),
    Domain("packages", Package, photos=9, catalogue=4),
)
