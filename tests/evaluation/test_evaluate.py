import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import naive
from tests.helpers.fake_records import FakeRecords
from tests.helpers.random_domains import continuous, unit_grid
from universal_embedding.datasets.examples import Labels
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import EmbeddingSource, QueryIndexRecords
from universal_embedding.evaluation.embeddings import DomainEmbeddings, correct_scores
from universal_embedding.evaluation.evaluate import (
    EvaluationConfig,
    evaluate,
    evaluate_domains,
    evaluate_source,
    evaluate_specialists,
    make_report,
)
from universal_embedding.search import scann_index
from universal_embedding.search.exact import BlockedTopK
from universal_embedding.search.scann_index import ScannIndex

WORDS = np.array(["cat", "dog", "ant", "eel", "bee", "fox", "gnu"])


def assert_equals_naive(scores, entries):
    assert scores["num_queries"] == len(entries)
    assert scores["num_queries_without_positives"] == sum(n == 0 for n, _ in entries)
    for name, metric in naive.METRICS.items():
        expected = naive.mean(metric, entries)
        if expected is None:
            assert scores[name] is None
        else:
            assert scores[name] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("embeddings", [unit_grid, continuous])
@pytest.mark.parametrize("num_classes", [1, 4, 30])
@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_scores_equal_naive_scores(embeddings, num_classes, words, leave_one_out):
    rng = np.random.default_rng(num_classes)
    queries, index = embeddings(rng, 40, 8), embeddings(rng, 60, 8)
    query_labels, index_labels = (rng.integers(0, num_classes, n) for n in (40, 60))
    if words:
        query_labels, index_labels = WORDS[query_labels % 7], WORDS[index_labels % 7].tolist()
    arrays = (
        (queries, None, query_labels)
        if leave_one_out
        else (queries, index, query_labels, index_labels)
    )
    entries = naive.rank_arrays(*arrays, *([None] if leave_one_out else []))
    assert_equals_naive(evaluate(*arrays, metrics=list(naive.METRICS)), entries)


@given(
    st.integers(1, 20),
    st.none() | st.integers(1, 20),
    st.integers(1, 7),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_scores_equal_naive_scores_for_any_arrays(
    num_queries, index_size, num_classes, with_ids, seed
):
    rng = np.random.default_rng(seed)
    queries = unit_grid(rng, num_queries, 5) * rng.choice([1, 2, 4], (num_queries, 1))
    query_labels = WORDS[rng.integers(0, num_classes, num_queries)]
    index = index_labels = None
    ids = {}
    if index_size is not None:
        index = unit_grid(rng, index_size, 5)
        index_labels = WORDS[rng.integers(0, num_classes, index_size)]
        if with_ids:  # the first queries are index images
            ids = {
                "query_ids": [f"image {i}" for i in range(num_queries)],
                "index_ids": [f"image {i}" for i in rng.permutation(index_size + 3)[:index_size]],
            }
    entries = naive.rank_arrays(queries, index, query_labels, index_labels, **ids)
    scores = evaluate(
        queries, index, query_labels, index_labels, list(naive.METRICS), search=BlockedTopK, **ids
    )
    assert_equals_naive(scores, entries)


def test_query_is_excluded_by_id_and_its_duplicates_are_not():
    rows = np.tile(np.eye(2, dtype=np.float32)[:1], (3, 1))
    labels, ids = ["a", "a", "b"], ["x", "y", "z"]
    alone = evaluate(rows[:1], rows[:1], labels[:1], labels[:1], query_ids=["x"], index_ids=["x"])
    assert alone["r_at_1"] is None and alone["num_queries_without_positives"] == 1
    scores = evaluate(rows, rows, labels, labels, query_ids=ids, index_ids=ids)
    assert scores == evaluate(rows, None, labels)
    assert scores["num_queries_without_positives"] == 1  # the only b
    # without ids every image finds itself, or an equal image with a smaller label
    assert evaluate(rows, rows, labels, labels)["num_queries_without_positives"] == 0


def test_leave_one_out_excludes_a_query_that_is_alone_in_its_class_from_the_mean():
    rows = np.array([[1, 0], [0.8, 0.6], [0, 1]])
    assert evaluate(rows, None, ["cat", "cat", "dog"]) == {
        "r_at_1": 1.0,
        "mmp_at_5": 1.0,
        "num_queries": 3,
        "num_queries_without_positives": 1,
    }


def test_scores_do_not_depend_on_the_kind_of_labels():
    rng = np.random.default_rng(0)
    rows, classes = continuous(rng, 50, 6), rng.integers(0, 7, 50)
    words = np.sort(WORDS)[classes]
    expected = evaluate(rows, None, classes, bootstrap_samples=20)
    assert 0 < expected["r_at_1"] < 1 and len(expected["ci95"]["mmp_at_5"]) == 2
    as_labels = Labels.from_rows(classes)
    for labels in (classes.tolist(), words, words.tolist(), words.astype(object), as_labels):
        assert evaluate(rows, None, labels, bootstrap_samples=20) == expected
    assert evaluate(rows[:9], rows[9:], words[:9], words[9:].tolist()) == evaluate(
        rows[:9], rows[9:], classes[:9], Labels.from_rows(classes[9:])
    )


def test_several_labels_of_an_image_share_one():
    rows = np.eye(2, dtype=np.float32)
    labels = Labels.from_rows([[1, 2], [2, 3]])
    assert evaluate(rows, None, labels)["r_at_1"] == 1
    assert evaluate(rows, rows[:1], labels, Labels.from_rows([3]))["r_at_1"] == 1


def test_evaluate_equals_evaluate_domains_and_evaluate_source():
    rng = np.random.default_rng(1)
    query, index = continuous(rng, 30, 16), continuous(rng, 50, 16)
    classes = {"test": rng.integers(0, 5, 30), "index": rng.integers(0, 5, 50)}
    labels = {split: Labels.from_rows(values) for split, values in classes.items()}
    scores = evaluate(query, index, *classes.values(), bootstrap_samples=30)
    source = EmbeddingSource("x", lambda records: query if records.split == "test" else index)
    records = [FakeRecords("a", labels[split], split=split) for split in ("test", "index")]
    records[1].image_ids = np.array([f"index {i}" for i in range(50)])
    config = EvaluationConfig(bootstrap_samples=30)
    result = evaluate_source(source, {"a": QueryIndexRecords(*records)}, config)
    assert make_report([result], config)["separate"]["a"] == scores
    domains = {"a": result.domains["a"]}
    assert evaluate_domains(domains, bootstrap_samples=30)["merged"]["a"] == scores


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.eye(3), None, [0, 1]), r"query has shape \(3, 3\) and 2 labels"),
        ((np.eye(3), np.eye(3), [0, 1, 2]), "must both be given"),
        ((np.eye(3), None, [0, 1, 2], [0, 1, 2]), "must both be given"),
        ((np.ones(3), None, [0, 1, 2]), r"embeddings have shape \(3,\)"),
        ((np.full((2, 2), np.inf), None, [0, 1]), "2 of 2 query embeddings are not finite"),
        ((np.eye(3), np.eye(2), [0, 1, 2], [0, 1]), r"\(3, 3\) and index \(2, 2\)"),
        ((np.eye(2), np.eye(2), ["a", "b"], [0, 1]), "both be strings"),
        ((np.eye(2), np.eye(2), ["a", "b"], Labels.from_rows([0, 1])), "both be strings"),
        ((np.eye(2), None, [0.5, 1]), "float64"),
        ((np.eye(2), None, [[0], [1]]), r"shape \(2, 1\).*Labels.from_rows"),
    ],
)
def test_arrays_that_do_not_fit_raise_value_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*arguments)


def test_ids_that_do_not_fit_raise_value_error():
    rows, labels = np.eye(2), [0, 1]
    with pytest.raises(ValueError, match="query_ids and index_ids must both"):
        evaluate(rows, rows, labels, labels, query_ids=[0, 1])
    with pytest.raises(ValueError, match="index_ids must be 2 ids, all different"):
        evaluate(rows, rows, labels, labels, query_ids=[0, 1], index_ids=[1, 1])
    with pytest.raises(ValueError, match="query_ids must be 2 ids, all different"):
        evaluate(rows, rows, labels, labels, query_ids=[0], index_ids=[0, 1])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"metrics": ["r_at_0"]}, "unknown metric 'r_at_0'"),
        ({"protocols": ["joint"]}, r"protocols are \['joint'\]"),
        ({"metrics": []}, "at least one of each"),
    ],
)
def test_unknown_metric_or_protocol_raises_user_error(changes, message):
    with pytest.raises(UserError, match=message):
        EvaluationConfig(**changes)


@pytest.fixture(scope="module")
def eval_sets():
    classes = np.arange(60) % 12
    query = FakeRecords("b", classes, split="test")
    index = FakeRecords("b", classes, split="index", image_ids=[f"y{i}.jpg" for i in range(60)])
    return {
        "a": QueryIndexRecords(FakeRecords("a", classes, split="test"), None),
        "b": QueryIndexRecords(query, index),
    }


def noisy_source(name, noise):
    def embed(records):
        rng = np.random.default_rng(len(records.split))
        rows = np.eye(12, 16)[records.labels.values] + noise * rng.standard_normal(16)
        return (rows + noise * rng.standard_normal(rows.shape)).astype(np.float32)

    return EmbeddingSource(name, embed)


def test_report_of_two_sources_compares_them_with_an_interval(eval_sets):
    config = EvaluationConfig(bootstrap_samples=200)
    results = [evaluate_source(noisy_source(str(n), n), eval_sets, config) for n in (0.2, 0.6)]
    report = make_report(results, config)
    comparison = report["comparisons"]["0.6"]
    entry = comparison["difference"]["merged"]["mean"]["r_at_1"]
    good, bad = (r["merged"]["mean"]["r_at_1"] for r in (report, comparison))
    assert entry["difference"] == pytest.approx(bad - good) and bad < good
    low, high = entry["ci95"]
    assert low < entry["difference"] < high < 0
    assert report["source"] == "0.2"
    assert report["config"]["bootstrap_samples"] == 200
    assert {"python", "universal_embedding", "numpy", "scann"} <= report["versions"].keys()


def test_each_specialist_is_evaluated_in_its_own_domain(eval_sets):
    config = EvaluationConfig(bootstrap_samples=0)
    good, bad = noisy_source("good", 0.3), noisy_source("bad", 0.9)
    specialists = evaluate_specialists({"a": good, "b": bad}, eval_sets, config)
    summary = make_report([specialists], config)["specialist_oracle"]
    for key, source in (("a", good), ("b", bad)):
        alone = evaluate_source(source, {key: eval_sets[key]}, config)
        assert summary[key] == make_report([alone], config)["separate"][key]
    with pytest.raises(UserError, match="specialists for a, but the domains are a, b"):
        evaluate_specialists({"a": good}, eval_sets, config)


def test_specialists_are_compared_with_the_separate_protocol(eval_sets):
    config = EvaluationConfig(bootstrap_samples=0)
    source = noisy_source("good", 0.3)
    universal = evaluate_source(source, eval_sets, config)
    specialists = evaluate_specialists({"a": source, "b": source}, eval_sets, config)
    comparison = make_report([universal, specialists], config)["comparisons"]["specialists"]
    assert comparison["difference"]["specialist_oracle"]["mean"]["r_at_1"]["difference"] == 0


def test_approximate_search_is_reported_with_recall_and_curve(monkeypatch):
    monkeypatch.setattr(scann_index, "MIN_INDEX_SIZE", 500)
    classes = np.arange(1200) % 300
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((300, 16))
    domains = {}
    for key in ("a", "b"):
        rows = centers[classes] + 0.3 * rng.standard_normal((1200, 16))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        domains[key] = DomainEmbeddings(rows.astype(np.float32), Labels.from_rows(classes))
    source = EmbeddingSource("x", lambda records: domains[records.domain].query)
    eval_sets = {
        key: QueryIndexRecords(FakeRecords(key, classes, split="test"), None) for key in domains
    }
    config = EvaluationConfig(search=lambda: ScannIndex(0.9), bootstrap_samples=10)
    report = make_report([evaluate_source(source, eval_sets, config)], config)
    for protocol, index_size in (("merged", 2400), ("separate", 1200)):
        search = report["search"][protocol]
        assert search["index_size"] == index_size
        assert not search["is_exact"] and 0.85 < search["recall_at_5"] <= 1
        assert search["build_seconds"] > 0 and search["queries_per_second"] > 0
        recalls = [point["recall_at_5"] for point in search["recall_speed_curve"]]
        assert recalls[-1] > 0.95 and recalls[-1] > recalls[0]
    search = report["search"]["merged"]
    selected = [p["recall_at_5"] for p in search["recall_speed_curve"] if p["selected"]]
    assert selected == [search["recall_at_5"]]


def test_import_needs_no_tensorflow():
    code = (
        "import sys, universal_embedding.evaluation.evaluate, "
        "universal_embedding.evaluation.validation; "
        "assert not {'tensorflow', 'scann', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_score_correction_equals_the_naive_ranking(leave_one_out):
    rng = np.random.default_rng(0)
    queries, index, bank = (rng.standard_normal((n, 6), np.float32) for n in (30, 40, 25))
    index = queries if leave_one_out else index
    labels = [rng.integers(0, 4, len(rows)) for rows in (queries, index)]
    labels[1] = labels[0] if leave_one_out else labels[1]
    domain = DomainEmbeddings(
        queries,
        Labels.from_rows(labels[0].tolist()),
        *([] if leave_one_out else [index, Labels.from_rows(labels[1].tolist())]),
    )
    plain = queries @ index.T
    if leave_one_out:
        np.fill_diagonal(plain, -np.inf)
    scores = plain - np.sort(index @ bank.T, 1)[:, -10:].mean(1) / 2
    expected = (labels[1][scores.argmax(1)] == labels[0]).mean()
    corrected = correct_scores({"a": domain}, bank)
    assert evaluate_domains(corrected)["merged"]["a"]["r_at_1"] == pytest.approx(expected)
    assert (scores.argmax(1) != plain.argmax(1)).any()
