import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.evaluated import make_eval_sets, make_results
from universal_embedding.datasets.examples import Labels
from universal_embedding.errors import UserError
from universal_embedding.evaluation.compatibility import (
    compatibility_report,
    evaluate_compatibility,
    mix_indexes,
    pair_domains,
)
from universal_embedding.evaluation.embeddings import DomainEmbeddings, normalize_rows
from universal_embedding.evaluation.evaluate import EvaluationConfig, EvaluationResult

CONFIG = EvaluationConfig(metrics=("r_at_1", "mmp_at_5"), bootstrap_samples=20)


def naive_r_at_1(queries, index):
    """Mean over domains of the first neighbor's correctness in one list of all images."""
    entries = []  # (domain, label, row, (domain, number))
    for key, domain in index.items():
        rows, labels = domain.index_embeddings
        for i, row in enumerate(rows):
            entries.append((key, labels.values[i], row, (key, i)))
    means = []
    for key, domain in queries.items():
        is_leave_one_out = index[key].index is None
        hits = []
        for i, query in enumerate(domain.query):
            label = domain.query_labels.values[i]
            others = [e for e in entries if not (is_leave_one_out and e[3] == (key, i))]
            if not any(e[0] == key and e[1] == label for e in others):
                continue
            best = max(others, key=lambda e: float(query @ e[2]))
            hits.append(best[0] == key and best[1] == label)
        means.append(np.mean(hits))
    return np.mean(means)


def random_results(seed, count=3, size=6):
    """Models over one pair of domains: `a` with an index of its own, `b` leave-one-out."""
    rng = np.random.default_rng(seed)
    labels = {name: Labels.from_rows(rng.integers(0, 4, 24)) for name in ("a", "a index", "b")}
    results = []
    for i in range(count):
        rows = {name: normalize_rows(rng.standard_normal((24, size))) for name in labels}
        domains = {
            "b": DomainEmbeddings(rows["b"], labels["b"]),
            "a": DomainEmbeddings(rows["a"], labels["a"], rows["a index"], labels["a index"]),
        }
        results.append(EvaluationResult(f"model {i}", domains, {}))
    return results


@given(st.integers(0, 2**32 - 1))
def test_matrix_equals_naive_search_of_each_pair(seed):
    results = random_results(seed)
    report = compatibility_report(evaluate_compatibility(results, CONFIG), CONFIG)
    matrix = report["matrix"]["r_at_1"]
    expected = {
        (i, j): naive_r_at_1(results[i].domains, results[j].domains)
        for i in range(3)
        for j in range(i + 1)
    }
    for (i, j), value in expected.items():
        assert matrix[i][j]["value"] == pytest.approx(value, abs=1e-12)
    assert [len(row) for row in matrix] == [1, 2, 3]
    compatible = [expected[i, j] > expected[j, j] for i, j in ((1, 0), (2, 0), (2, 1))]
    assert report["average_compatibility"]["r_at_1"] == pytest.approx(np.mean(compatible))
    assert report["average_metric"]["r_at_1"] == pytest.approx(np.mean([*expected.values()]))
    first = report["differences"][0]
    assert (first["queries"], first["index"]) == ("model 1", "model 0")
    change = expected[1, 0] - expected[0, 0]
    assert first["r_at_1"]["difference"] == pytest.approx(change, abs=1e-12)


def test_moved_shares_run_from_the_old_index_to_the_new_one():
    results = random_results(0, count=2)
    measured = evaluate_compatibility(results, CONFIG)
    old, new = measured.moved[0.0], measured.moved[1.0]
    for key in ("a", "b"):
        for actual, pair in ((old, (1, 0)), (new, (1, 1))):
            expected = measured.pairs[pair].domains[key].metrics["mmp_at_5"]
            np.testing.assert_array_equal(actual.domains[key].metrics["mmp_at_5"], expected)
    moved = compatibility_report(measured, CONFIG)["moved"]
    assert [entry["share"] for entry in moved] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_rows_that_moved_stay_moved():
    old, new = (result.domains for result in random_results(0, count=2))
    before = np.zeros(24, bool)
    for share in (0.25, 0.5, 0.75, 1.0):
        rows = mix_indexes(old, new, share)["a"].index
        is_new = (rows == new["a"].index).all(1)
        assert ((rows == old["a"].index).all(1) | is_new).all()
        assert is_new.sum() == round(24 * share) and is_new[before].all()
        before = is_new


def test_pair_of_a_model_with_itself_is_the_model():
    domains = random_results(0)[0].domains
    paired = pair_domains(domains, domains)["b"]
    np.testing.assert_array_equal(paired.self_index, np.arange(24))


def test_one_model_or_other_sizes_are_refused():
    small, large = random_results(0)[0], random_results(0, size=8)[1]
    with pytest.raises(UserError, match=r"oldest first; there are model 0 \(6-d\)$"):
        evaluate_compatibility([small], CONFIG)
    with pytest.raises(UserError, match=r"model 0 \(6-d\), model 1 \(8-d\)"):
        evaluate_compatibility([small, large], CONFIG)


def test_report_shows_matrix_and_moved_shares(tmp_path):
    from universal_embedding.evaluation.evaluate import make_report
    from universal_embedding.reporting.html import write_html_report
    from universal_embedding.reporting.tables import format_report_markdown, format_report_text

    names = (("o|d <b>", 0.9), ("new", 0.3))
    eval_sets, config, results = make_results(names, bootstrap_samples=20)
    assert eval_sets.keys() == make_eval_sets().keys()
    report = {"dataset": "d", "split": "test", **make_report(results, config)}
    measured = evaluate_compatibility(results, config)
    report["compatibility"] = compatibility_report(measured, config)
    value = report["compatibility"]["matrix"]["r_at_1"][1][0]["value"]
    text, markdown = format_report_text(report), format_report_markdown(report)
    assert f"{value:.4f}" in text and "50%" in text
    assert r"index: o\|d \<b\>" in markdown
    page = write_html_report(report, results, eval_sets, tmp_path / "r.html", 0).read_text()
    assert page.count("index: o|d &lt;b&gt;") >= 4 and f"{value:.3f}" in page
