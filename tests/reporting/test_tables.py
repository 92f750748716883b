"""Tables of a report: every number, in text and Markdown, and the files."""

import json

from tests.helpers.evaluated import make_results
from universal_embedding.evaluation.evaluate import make_report
from universal_embedding.reporting import tables


def test_text_and_markdown_hold_every_table_and_the_files_the_same(tmp_path):
    evaluated = make_results([("0.2", 0.2), ("0.6", 0.6)])
    report = {"dataset": "demo", "split": "test"}
    report |= make_report(evaluated.results, evaluated.config)
    text = tables.format_report_text(report)
    for heading in (
        "0.2 — Merged",
        "0.6 — Separate",
        "0.6 minus 0.2, merged",
        "Means over domains",
    ):
        assert heading in text
    for name, numbers in tables.sources(report):
        for protocol, summary in tables.protocols(numbers):
            for domain, entry in summary.items():
                row = next(r for r in tables.summary_rows(summary) if r[0] == domain)
                low, high = entry["ci95"]["r_at_1"]
                assert row[1] == f"{entry['r_at_1']:.4f} [{low:.3f}, {high:.3f}]", (name, protocol)
                assert row[-2:] == [f"{entry['num_queries']:,}", "0"]
                assert row[1] in text
    paths = tables.write_report(report, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["report.json", "report.md"]
    assert json.loads(paths[0].read_text()) == json.loads(json.dumps(report))
    assert paths[1].read_text() == tables.format_report_markdown(report)
    assert "| domain | R@1 | mMP@5 | queries | without positives |" in paths[1].read_text()


def test_a_domain_without_positives_says_none():
    entry = {"r_at_1": None, "mmp_at_5": None, "num_queries": 3, "num_queries_without_positives": 3}
    rows = tables.summary_rows({"toys": entry, "mean": entry | {"num_domains": 0}})
    assert rows[1] == ["toys", "none", "none", "3", "3"]


def test_titles_are_those_of_papers():
    assert tables.metric_title("mmp_at_5") == "mMP@5"
    assert tables.metric_title("map_at_r") == "mAP@R"
    assert tables.plain_table([["a", "b"], ["long", "1"]]) == "a     b\nlong  1"
    assert tables.markdown_table([["a", "b"], ["x", "1"]]) == "| a | b |\n|---|---:|\n| x | 1 |"
