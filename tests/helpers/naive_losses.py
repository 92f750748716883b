"""Losses of one anchor of a batch by loops over the papers' formulas.

Each is a function of the batch and the anchor's index; distillation also takes whether the teacher
embeds all domains, so that images of other domains are compared with the anchor as well.
"""

import math

import numpy as np

from tests.helpers.loss_batches import compared_images, distance


def positives_and_negatives(batch, i):
    keys = list(zip(batch["domain"], batch["label"], strict=True))
    rest = [j for j in range(len(keys)) if j != i]
    return [j for j in rest if keys[j] == keys[i]], [j for j in rest if keys[j] != keys[i]]


def supcon(batch, i, temperature=0.1):
    positives, negatives = positives_and_negatives(batch, i)
    if not positives:
        return 0.0
    value = {
        j: math.exp(batch["student"][i] @ batch["student"][j] / temperature)
        for j in positives + negatives
    }
    return np.mean([-math.log(value[j] / sum(value.values())) for j in positives])


def multi_similarity(batch, i, alpha=2.0, beta=50.0, base=0.5, epsilon=0.1):
    similarity = batch["student"] @ batch["student"][i]
    positives, negatives = positives_and_negatives(batch, i)
    nearest = max((similarity[j] for j in negatives), default=-2)
    farthest = min((similarity[j] for j in positives), default=2)
    pulled = [j for j in positives if similarity[j] < nearest + epsilon]
    pushed = [j for j in negatives if similarity[j] > farthest - epsilon]
    return (
        math.log(1 + sum(math.exp(-alpha * (similarity[j] - base)) for j in pulled)) / alpha
        + math.log(1 + sum(math.exp(beta * (similarity[j] - base)) for j in pushed)) / beta
    )


def distance_distribution(
    batch,
    i,
    is_universal=False,
    teacher_temperature=0.1,
    student_temperature=0.1,
    mask_other_domains=False,
):
    def probabilities(rows, temperature, images):
        values = {j: math.exp(-(distance(rows, i, j) ** 2) / temperature) for j in images}
        return {j: value / sum(values.values()) for j, value in values.items()}

    teacher_images = compared_images(batch, i, is_universal)
    student_images = compared_images(batch, i, mask_other_domains or is_universal)
    p = probabilities(batch["teacher"], teacher_temperature, teacher_images)
    q = probabilities(batch["student"], student_temperature, student_images)
    return sum(p[j] * math.log(p[j] / q[j]) for j in teacher_images)


def mean_squared_difference(batch, i, is_universal=False):
    errors = [
        (distance(batch["teacher"], i, j) - distance(batch["student"], i, j)) ** 2
        for j in compared_images(batch, i, is_universal)
    ]
    return np.mean(errors) if errors else 0.0


def rkd_distance(batch, i, is_universal=False):
    anchors = [
        a
        for a in range(len(batch["domain"]))
        if is_universal or batch["domain"][a] == batch["domain"][i]
    ]
    pairs = [(a, j) for a in anchors for j in compared_images(batch, a, is_universal)]
    values = []
    both = batch["teacher"], batch["student"]
    means = [np.mean([distance(rows, *pair) for pair in pairs] or [1.0]) for rows in both]
    for j in compared_images(batch, i, is_universal):
        teacher, student = (distance(rows, i, j) / m for rows, m in zip(both, means, strict=True))
        error = abs(teacher - student)
        values.append(0.5 * error**2 if error < 1 else error - 0.5)
    return np.mean(values) if values else 0.0


# By the losses' names, with the options of `base_config`.
NAIVE_LOSSES = {
    "supcon": supcon,
    "multi_similarity": multi_similarity,
    "distance_distribution": distance_distribution,
    "distance": mean_squared_difference,
    "rkd_distance": rkd_distance,
}
