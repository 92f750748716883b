"""Soups: the averaged weights of several runs, or of a run and its start.

Model soups (Wortsman et al. 2022, arXiv 2203.05482) average runs that started from the same
weights; WiSE-FT (arXiv 2109.01903) interpolates between a run and its start. Weights can be
averaged where the runs map images into one space: where projection and classes were locked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import open_eval_sets
from universal_embedding.evaluation.validation import Validation
from universal_embedding.files import atomic_directory, atomic_write
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.training.checkpoints import Checkpoints, load_embedding_model
from universal_embedding.training.initialization import CLASS_IDS_FILE, read_class_weights
from universal_embedding.training.model import save_architecture
from universal_embedding.training.run_directory import read_config, save_config

METHODS = ("uniform", "greedy")
Weights = list[np.ndarray]
Score = Callable[[EmbeddingModel], float]


@dataclass(frozen=True)
class Soup:
    """A soup that was written.

    Attributes:
        members: Indices of the runs in it.
        score: Its validation score; None if it was not needed.
        share_space: Whether all runs have one projection and the same classes.
    """

    members: list[int]
    score: float | None
    share_space: bool


def make_soup(
    runs: Sequence[Path],
    output: Path,
    method: str = "uniform",
    start_share: float = 0.0,
    score: Score | None = None,
) -> Soup:
    """Averages the scored weights of runs and writes the result as a run directory.

    Args:
        runs: Run directories of one architecture.
        output: Run directory to write, which evaluation, export and other runs take; its classes
            are kept if all runs have the same.
        method: `uniform` (all runs) or `greedy`: in the order of their validation scores, each run
            that does not lower the score of the soup is added.
        start_share: Share of each run's initial weights, as in WiSE-FT.
        score: The validation score of a model, for `greedy`.

    Raises:
        UserError: `output` exists, the runs have different models, or one has no checkpoint.
    """
    if output.exists():
        raise UserError(f"{output} already exists: remove it or name another directory")
    contents = [read_config(run) for run in runs]
    _check_models(runs, [content["config"]["model"] for content in contents])
    models = [load_embedding_model(run) for run in runs]
    ingredients = [_interpolate(*pair, start_share) for pair in zip(runs, models, strict=True)]
    for run, weights in zip(runs, ingredients, strict=True):
        if not all(np.isfinite(values).all() for values in weights):
            raise UserError(f"{run} has weights that are NaN or infinite; leave it out")
    share_space = _share_space(runs, models)
    model, members, best = models[0], list(range(len(runs))), None
    if method == "greedy":
        if score is None:
            raise ValueError("a greedy soup needs a validation score")
        members, best = choose_greedily(ingredients, lambda w: score(_with_weights(model, w)))
    _with_weights(model, average([ingredients[i] for i in members]))
    with atomic_directory(output) as partial:
        _write_run(partial, runs, contents[0], model, share_space, [str(runs[i]) for i in members])
    return Soup(members, best, share_space)


def average(weights: Sequence[Weights]) -> Weights:
    """The mean of each weight, in float64; those that are not floating point are the first's."""
    return [
        np.mean(values, axis=0, dtype=np.float64).astype(values[0].dtype)
        if np.issubdtype(values[0].dtype, np.floating)
        else values[0]
        for values in zip(*weights, strict=True)
    ]


def choose_greedily(
    weights: Sequence[Weights], score: Callable[[Weights], float]
) -> tuple[list[int], float]:
    """Chooses the members of a greedy soup (recipe 1 of arXiv 2203.05482).

    Returns:
        Their indices, the best run first, and the score of the soup.
    """
    scores = [score(values) for values in weights]
    order = sorted(range(len(weights)), key=lambda i: (-scores[i], i))
    members, best = order[:1], scores[order[0]]
    for i in order[1:]:
        candidate = score(average([weights[j] for j in [*members, i]]))
        if candidate >= best:
            members, best = [*members, i], candidate
    return members, best


def make_score(run: Path) -> Score:
    """The validation score by which the run selected its best checkpoint, of any model.

    Raises:
        UserError: the run's data cannot be opened.
    """
    content = read_config(run)
    if "data_dir" not in content:
        raise UserError(
            f"{run} does not say where its data is, so no greedy soup can be chosen; give runs of "
            "`universal-embedding train`, or --method=uniform"
        )
    config = ConfigDict(content["config"])
    name, protocol, domain, metric = config.best_metric.split("/")
    options = config.evals[name]
    eval_sets = open_eval_sets(
        content["data_dir"], config.data.dataset, options.split, config.data.domains
    )
    validation = Validation(eval_sets, [protocol], [metric], options.batch_size, 0)
    strategy = tf.distribute.get_strategy()
    return lambda model: validation(model, strategy)[f"{protocol}/{domain}/{metric}"]


def _check_models(runs: Sequence[Path], models: Sequence[dict]) -> None:
    for run, model in zip(runs, models, strict=True):
        changed = [name for name in models[0] if model.get(name) != models[0][name]]
        if changed:
            raise UserError(
                f"{run} and {runs[0]} differ in config.model.{changed[0]} "
                f"({model.get(changed[0])!r}, not {models[0][changed[0]]!r}); their weights cannot "
                "be averaged"
            )


def _share_space(runs: Sequence[Path], models: Sequence[EmbeddingModel]) -> bool:
    """Whether the runs have equal projections and equal classes, in as far as they have any."""
    projections = [m.projection.get_weights() if m.projection is not None else [] for m in models]
    classes = [read_class_weights(run) for run in runs]
    return all(_equal(values, projections[0]) for values in projections) and all(
        values.keys() == classes[0].keys()
        and all(_equal(values[domain], classes[0][domain]) for domain in values)
        for values in classes
    )


def _equal(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def _interpolate(run: Path, model: EmbeddingModel, start_share: float) -> Weights:
    weights = [weight.numpy() for weight in model.weights]
    if not start_share:
        return weights
    start = [weight.numpy() for weight in load_embedding_model(run, "initial").weights]
    return [
        ((1.0 - start_share) * w + start_share * s).astype(w.dtype)
        for w, s in zip(weights, start, strict=True)
    ]


def _with_weights(model: EmbeddingModel, weights: Weights) -> EmbeddingModel:
    for variable, value in zip(model.weights, weights, strict=True):
        variable.assign(value)
    return model


def _write_run(
    output: Path,
    runs: Sequence[Path],
    content: dict,
    model: EmbeddingModel,
    keeps_classes: bool,
    members: list[str],
) -> None:
    weights = [weight.value for weight in model.weights]
    state = {"model": weights, "ema": [w for w in weights if w.dtype.is_floating]}
    if keeps_classes:
        classes = read_class_weights(runs[0]).values()
        config = ConfigDict(content["config"])
        flat = [rows.reshape(-1, rows.shape[-1]) for _, rows in classes]
        flat = [np.concatenate(flat)] if config.head.joint and flat else flat
        state["heads"] = [tf.Variable(rows) for rows in flat]
        with atomic_write(output / CLASS_IDS_FILE, "wb") as file:
            file.write((runs[0] / CLASS_IDS_FILE).read_bytes())
    save_architecture(output, model)
    checkpoints = Checkpoints(output, state, background=False)
    checkpoints.save_best(0)
    save_config(output, content | {"soup": members})
