import json

import numpy as np
import pytest
from PIL import Image

import universal_embedding
from universal_embedding.errors import UserError
from universal_embedding.export import competition, leaderboard, picture_files, scoring, solution

SIZES = [(20, 30), (30, 20), (20, 30), (41, 17)]


@pytest.fixture(scope="module")
def own(tmp_path_factory, picture):
    """A competition of 6 classes, 8 pictures each, of a few sizes."""
    folder = tmp_path_factory.mktemp("competition")
    random = np.random.default_rng(0)
    for name in range(6):
        (folder / "labelled" / str(name)).mkdir(parents=True)
        for i in range(8):
            noise = random.normal(0, 40, [*SIZES[i % 4], 3])
            image = np.clip(picture(*SIZES[i % 4], seed=name) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / "labelled" / str(name) / f"{i}.png")
    parts = solution.divide(solution.of_folder(folder / "labelled"), 0.25)
    solution.write(folder / "own", *parts, public=0.4)
    return folder / "own"


def score(own, exported, **kwargs):
    right = competition.read_solution(own / "solution.csv")
    return scoring.of_submission(exported[0], own / "query", own / "index", right, **kwargs), right


def test_agrees_with_a_plain_scorer_and_does_not_depend_on_batches(own, exported):
    single, right = score(own, exported)
    batched, _ = score(own, exported, batch_size=5)
    assert single.predictions == batched.predictions
    model = universal_embedding.load(exported[0])
    queries, index = (picture_files.find(own / name) for name in ("query", "index"))
    rows, searched = model(list(queries.values())), model(list(index.values()))
    ids, total = list(index), 0
    for query, row in zip(queries, rows, strict=True):
        nearest = np.argsort(np.linalg.norm(searched - row, axis=1))[:5]
        assert single.predictions[query] == tuple(ids[i] for i in nearest)
        total += sum(ids[i] in right.images[query] for i in nearest) / 5
    assert len(queries) == 12 and len(index) == 36
    np.testing.assert_allclose(competition.score(single.predictions, right)["total"], total / 12)
    assert single.facts["pictures_per_second"] > 0 and single.facts["peak_memory_bytes"] > 1e8


def test_leaderboard_keeps_the_standing(own, exported, tmp_path):
    scored, right = score(own, exported)
    board, file = tmp_path / "board.jsonl", own / "solution.csv"
    poor = scoring.Scored("poor.csv", "f" * 64, {}, {"config": {"a": 1}})
    for entry in (poor, scored, scored):
        text = scoring.enter(entry, right, file, board)
    assert len(board.read_text().splitlines()) == 3  # each scoring is kept
    assert "pictures per second" in text and "peak memory" in text and "hours" in text
    standing = text[text.index("standing") :].splitlines()[2:]
    assert [line.split()[-1] for line in standing] == ["submission.zip", "poor.csv"]
    assert standing[0].startswith("->") and "0.000000" in standing[1]
    other = tmp_path / "other.csv"
    other.write_text("id,images,Usage\nq,x,Private\n")
    alone = scoring.enter(poor, competition.read_solution(other), other, board)
    assert "submission.zip" not in alone  # scores against another solution do not compare
    board.write_text("{}\n")
    with pytest.raises(UserError, match="line 1 is damaged"):
        leaderboard.standing(board, "x")


def test_predictions_score_as_the_submission_they_came_from(own, exported, tmp_path):
    scored, right = score(own, exported)
    competition.write_predictions(tmp_path / "predictions.csv", scored.predictions)
    read = scoring.of_predictions(tmp_path / "predictions.csv")
    assert competition.score(read.predictions, right) == competition.score(
        scored.predictions, right
    )


def test_config_comes_from_the_card_of_this_very_model(own, exported):
    card = exported[0].with_suffix(".json")
    fingerprint = universal_embedding.load(exported[0]).fingerprint
    for found, config in ((fingerprint, {"seed": 3}), ("another", None)):
        card.write_text(json.dumps({"fingerprint": found, "config": {"seed": 3}}))
        assert score(own, exported)[0].facts["config"] == config
    card.unlink()


def test_slow_submissions_are_warned_of():
    assert "WARNING" in scoring._speed(6.3, 2**30)[-1]  # 9.04 hours
    assert len(scoring._speed(6.4, 2**30)) == 2


def test_pictures_that_the_solution_does_not_know(own, exported, tmp_path):
    right = competition.read_solution(own / "solution.csv")
    first = min(right.images)
    less = {k: dict(list(v.items())[1:]) for k, v in vars(right).items()}
    with pytest.raises(UserError, match=r"1 pictures of .* are no query"):
        scoring.of_submission(
            exported[0], own / "query", own / "index", competition.Solution(**less), 1
        )
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / f"{first}.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(UserError, match=f"{first}.jpg cannot be decoded"):
        scoring.of_submission(exported[0], own / "query", tmp_path / "index", right, 1)
