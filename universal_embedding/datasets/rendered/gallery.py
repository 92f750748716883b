"""The simulator's gallery: five categories of twenty pictures, as five things seen four times."""

from universal_embedding.datasets.rendered.scene import Thing
from universal_embedding.datasets.rendered.things.cars import Car
from universal_embedding.datasets.rendered.things.dogs import Dog
from universal_embedding.datasets.rendered.things.fruit import Fruit
from universal_embedding.datasets.rendered.things.garments import Garment
from universal_embedding.datasets.rendered.things.towers import Tower

CATEGORIES: dict[str, type[Thing]] = {
    "Dog": Dog,
    "Food": Fruit,
    "Garment": Garment,
    "Vehicle": Car,
    "Location": Tower,
}
INSTANCES = 5
VIEWS = 4
