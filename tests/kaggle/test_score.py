import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.tiny_model import draw_image
from universal_embedding.errors import UserError
from universal_embedding.export import saved_model, zip_archive
from universal_embedding.export.embedder import Embedder
from universal_embedding.export.model_card import card_paths
from universal_embedding.kaggle import competition, make_solution, score

SIZES = [(20, 30), (30, 20), (20, 30), (41, 17)]


@pytest.fixture(scope="module")
def competition_dir(tmp_path_factory):
    """A competition of 6 classes, 8 images each, of a few sizes."""
    folder = tmp_path_factory.mktemp("competition")
    rng = np.random.default_rng(0)
    for name in range(6):
        (folder / "labeled" / str(name)).mkdir(parents=True)
        for i in range(8):
            noise = rng.normal(0, 40, [*SIZES[i % 4], 3])
            image = np.clip(draw_image(*SIZES[i % 4], seed=name) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / "labeled" / str(name) / f"{i}.png")
    images = make_solution.from_folder(folder / "labeled")
    queries, index = make_solution.split_queries_and_index(images, 0.25)
    make_solution.write_competition(folder / "competition", queries, index, public_fraction=0.4)
    return folder / "competition"


def score_exported(competition_dir, exported, **kwargs):
    solution = competition.read_solution(competition_dir / "solution.csv")
    result = score.score_submission(
        exported[0], competition_dir / "query", competition_dir / "index", solution, **kwargs
    )
    return result, solution


def test_score_equals_a_naive_scorer_for_any_batch_size(competition_dir, exported):
    single, solution = score_exported(competition_dir, exported)
    batched, _ = score_exported(competition_dir, exported, batch_size=5)
    assert single.predictions == batched.predictions
    embedder = Embedder.from_pretrained(exported[0])
    queries, index = (score.find_images(competition_dir / name) for name in ("query", "index"))
    query_rows, index_rows = (embedder.encode(list(i.values())) for i in (queries, index))
    ids, total = list(index), 0
    for query, row in zip(queries, query_rows, strict=True):
        nearest = np.argsort(np.linalg.norm(index_rows - row, axis=1))[:5]
        assert single.predictions[query] == tuple(ids[i] for i in nearest)
        total += sum(ids[i] in solution.images[query] for i in nearest) / 5
    assert len(queries) == 12 and len(index) == 36
    scores = competition.score_predictions(single.predictions, solution)
    np.testing.assert_allclose(scores["total"], total / 12)
    assert single.metadata["images_per_second"] > 0
    assert single.metadata["peak_memory_bytes"] > 1e8


def test_leaderboard_ranks_the_last_score_of_each_submission(competition_dir, exported, tmp_path):
    result, solution = score_exported(competition_dir, exported)
    board, file = tmp_path / "board.jsonl", competition_dir / "solution.csv"
    poor = score.ScoringResult("poor.csv", "f" * 64, {}, {"config": {"a": 1}})
    for entry in (poor, result, result):
        text = "\n".join(score.record_result(entry, solution, file, board))
    assert len(board.read_text().splitlines()) == 3  # every scoring is kept
    assert "images per second" in text and "peak memory" in text and "hours" in text
    ranking = text[text.index("ranking in") :].splitlines()[2:]
    assert [line.split()[-1] for line in ranking] == ["submission.zip", "poor.csv"]
    assert ranking[0].startswith("->") and "0.000000" in ranking[1]
    other = tmp_path / "other.csv"
    other.write_text("id,images,Usage\nq,x,Private\n")
    alone = "\n".join(score.record_result(poor, competition.read_solution(other), other, board))
    assert "submission.zip" not in alone  # scores against another solution do not compare


def test_predictions_score_as_the_submission_they_came_from(competition_dir, exported, tmp_path):
    result, solution = score_exported(competition_dir, exported)
    competition.write_predictions(tmp_path / "predictions.csv", result.predictions)
    loaded = score.load_predictions(tmp_path / "predictions.csv")
    scores = [competition.score_predictions(r.predictions, solution) for r in (loaded, result)]
    assert scores[0] == scores[1]


def test_config_comes_from_the_card_of_the_same_model(competition_dir, exported):
    card = card_paths(exported[0])[0]
    fingerprint = Embedder.from_pretrained(exported[0]).fingerprint
    for card_fingerprint, config in ((fingerprint, {"seed": 3}), ("another", None)):
        card.write_text(json.dumps({"fingerprint": card_fingerprint, "config": {"seed": 3}}))
        assert score_exported(competition_dir, exported)[0].metadata["config"] == config
    card.unlink()


def test_slow_submission_is_warned_of():
    assert "WARNING" in score.describe_speed(6.3, 2**30)[-1]  # 9.04 hours
    assert len(score.describe_speed(6.4, 2**30)) == 2


def test_images_unknown_to_the_solution_and_corrupt_ones_are_refused(
    competition_dir, exported, tmp_path
):
    solution = competition.read_solution(competition_dir / "solution.csv")
    first = min(solution.images)
    less = {k: dict(list(v.items())[1:]) for k, v in vars(solution).items()}
    with pytest.raises(UserError, match=r"1 images of .* are not queries"):
        score.score_submission(
            exported[0],
            competition_dir / "query",
            competition_dir / "index",
            competition.Solution(**less),
            1,
        )
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / f"{first}.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(UserError, match=f"{first}.jpg cannot be decoded"):
        score.score_submission(
            exported[0], competition_dir / "query", tmp_path / "index", solution, 1
        )


def test_find_images_refuses_two_files_of_one_id_and_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="no images"):
        score.find_images(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/a.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="map to the same id"):
        score.find_images(tmp_path)


@pytest.mark.parametrize("unit", [True, False])
def test_search_index_sorts_by_euclidean_distance(unit):
    rng = np.random.default_rng(0)
    queries, index = rng.normal(size=(30, 8)), rng.normal(size=(200, 8))
    if unit:
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        index /= np.linalg.norm(index, axis=1, keepdims=True)
    distances = np.square(queries[:, None] - index[None]).sum(axis=-1)
    neighbors = score.search_index(queries.astype(np.float32), index.astype(np.float32))
    np.testing.assert_array_equal(neighbors, np.argsort(distances, axis=1)[:, :5])


def means(images):
    return tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])


def varying_size(images):
    return {"embedding_norm": means(images)[:, : tf.minimum(tf.shape(images)[1], 3)]}


def not_finite(images):
    return {"embedding_norm": 1 / means(images)}


def too_many_dimensions(images):
    return {"embedding_norm": tf.tile(means(images), [1, 22])[:, :65]}


def too_many_rows(images):
    return {"embedding_norm": tf.concat([means(images)] * 2, axis=0)}


def failing(images):
    return {"embedding_norm": tf.ensure_shape(means(images)[:, : tf.shape(images)[1]], [None, 3])}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (varying_size, "b.png has 2 dimensions and that of the first image 3"),
        (not_finite, "b.png contains NaN or infinity"),
        (too_many_dimensions, "a.png has 65 dimensions"),
        (too_many_rows, r"a.png is float32 of shape \(2, 3\)"),
        (failing, "failed on .*b.png"),
    ],
)
def test_invalid_embeddings_are_refused(function, message, tmp_path):
    Image.fromarray(np.full([3, 4, 3], 9, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros([2, 4, 3], np.uint8)).save(tmp_path / "b.png")
    module = tf.Module()
    spec = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    module.embed = tf.function(function, input_signature=[spec])
    module.weight = tf.Variable(1.0)
    signatures = {"serving_default": module.embed}
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=signatures)
    path = tmp_path / "submission.zip"
    zip_archive.make_zip(tmp_path / "model", path)
    zip_archive.extract_zip(path, tmp_path / "extracted")
    model = saved_model.load_saved_model(tmp_path / "extracted", path)
    signature = saved_model.serving_signature(model, path)
    with pytest.raises(UserError, match=message):
        score.embed_images(signature, [tmp_path / "a.png", tmp_path / "b.png"])
