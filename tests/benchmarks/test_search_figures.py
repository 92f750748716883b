"""The plan to a billion rows against a computation by hand."""

import search_figures

RECORD = {
    "rows": 100_000_000,
    "rows_built": 20_000_000,
    "shards": 2,
    "num_queries": 1000,
    "num_exact_queries": 100,
    "recall_at_5": 0.98,
    "queries_per_second": 500.0,
    "queries_per_second_at_first": 100.0,
    "median_milliseconds": 3.0,
    "load_seconds": 9.0,
    "build_seconds_per_shard": [300.0, 420.0],
    "peak_gb_building": 10.0,
    "peak_gb_searching": 4.0,
    "code_memory_gb": 2.0,
    "disk_gb": 3.0,
    "config": {"leaves": 7},
    "extrapolated": {
        "build_hours": 1.0,
        "queries_per_second": 100.0,
        "code_memory_gb": 10.0,
        "disk_gb": 15.0,
    },
    "command": "c",
    "machine": "m",
    "date": "d",
    "busy": False,
}


def cells(text):
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


def test_plan_is_the_measurement_times_the_rows():
    row = cells(search_figures.scale({"hundred_million": RECORD}))
    assert row["memory of a search: codes and ids"] == ["100 bytes"]
    assert row["time to build its shard"] == ["36 us"]
    assert row["largest memory while its shard is built"] == ["1000 bytes"]
    assert row["disk"] == ["15 GB", "150 GB"]
    assert row["memory of the search"] == ["10.0 GB", "100.0 GB"]
    assert row["machines with 20 GB for codes"] == ["1", "5"]
    assert row["hours to build, one machine"] == ["1.0", "10.0"]
    assert row["hours to build, all machines"] == ["1.0", "2.0"]
    # 20 million rows 500 times a second: 100 million 100 times, 5 x 200 million 50 times.
    assert row["queries per second, all machines at once"] == ["100", "50"]
    assert row["hours to embed, one machine"] == ["to be measured", "to be measured"]
    embed = {"images_per_second": {"one": 100.0, "two": 250.0}}
    row = cells(search_figures.scale({"hundred_million": RECORD, "embed": embed}))
    assert row["hours to embed, one machine"][1] == "1,111 (at 250 images/s)"
    assert "Rough" not in search_figures.scale({"hundred_million": RECORD})
    small = RECORD | {"rows_built": 2_000_000}
    assert "shards of 1,000,000 rows" in search_figures.scale({"hundred_million": small})


def test_extrapolation_is_marked():
    text = search_figures.hundred_million(RECORD)
    assert "**Extrapolated** to 100,000,000 rows" in text and "300, 420 s" in text
    whole = {key: value for key, value in RECORD.items() if key != "extrapolated"}
    assert "xtrapolated" not in search_figures.hundred_million(whole)
