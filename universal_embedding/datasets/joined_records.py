"""Several prepared data sets as one: `config.data.dataset="uned+uned_2027"`."""

from collections.abc import Sequence

import numpy as np

from universal_embedding.datasets.examples import Labels
from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError


class JoinedRecords(Records):
    """Records of one domain and split in several data sets, one data set after another.

    A class keeps its id. Where classes have names (image folders, whose ids count them), those of
    later parts that are not the same by id and name are matched by name, and new ones get the next
    free ids: so labels are stable.

    Args:
        parts: Records of each data set, None where it has none; not all of them.

    Attributes:
        part_sizes: Number of records of each part; of all, also after `select`.

    Raises:
        UserError: Two images have one id.
    """

    def __init__(self, parts: Sequence[Records | None]) -> None:
        self._all_parts = tuple(parts)
        self.part_sizes = tuple(0 if part is None else len(part) for part in parts)
        present = [part for part in parts if part is not None]
        first = present[0]
        self.folder, self.domain, self.split = first.folder, first.domain, first.split
        self.class_names = dict(first.class_names)
        rows = [_join_class_ids(part, self.class_names) for part in present]
        self.labels = Labels.from_rows([row for part_rows in rows for row in part_rows])
        self.image_ids = np.concatenate([part.image_ids for part in present])
        ids, counts = np.unique(self.image_ids.astype(str), return_counts=True)
        if (counts > 1).any():
            raise UserError(
                f"{' and '.join(str(part.folder) for part in present)} both have an image "
                f"{str(ids[counts.argmax()])!r}: remove it from one of them, or rename it"
            )
        starts = np.cumsum([0, *(len(part.shard_paths) for part in present)])
        self.shard_paths = [path for part in present for path in part.shard_paths]
        self.shards = np.concatenate(
            [part.shards + start for part, start in zip(present, starts[:-1], strict=True)]
        ).astype(np.int32)
        self.offsets = np.concatenate([part.offsets for part in present])
        self.lengths = np.concatenate([part.lengths for part in present])

    def __reduce__(self) -> tuple:
        return _rejoin, (self._all_parts, self._indices)


def _rejoin(parts: Sequence[Records | None], indices: np.ndarray | None) -> Records:
    records = JoinedRecords(parts)
    return records if indices is None else records.select(indices)


def _join_class_ids(part: Records, class_names: dict[int, str]) -> list[np.ndarray]:
    """Class ids of each image of a part, by the names so far, to which its new ones are added."""
    rows = [part.labels[i] for i in range(len(part))]
    if not part.class_names or not class_names:
        class_names.update(part.class_names)
        return rows
    ids = {name: class_id for class_id, name in class_names.items()}
    new_ids = {}
    for class_id, name in sorted(part.class_names.items()):
        if class_names.get(class_id) == name:
            new_ids[class_id] = class_id
            continue
        if name not in ids:
            ids[name] = max(class_names) + 1
            class_names[ids[name]] = name
        new_ids[class_id] = ids[name]
    return [np.array([new_ids[class_id] for class_id in row.tolist()], np.int64) for row in rows]
