"""Markdown of the figures of large indexes, and of the options of a search."""

import math

from figures import provenance, table, with_provenance

SIZES = (100_000_000, 1_000_000_000)
MEMORY_GB = 20  # of a machine, that codes may fill


def per_row(record, key):
    return record[key] / record["rows_built"]


def hundred_million(record):
    seconds = record["build_seconds_per_shard"]
    rows = [
        ["rows", f"{record['rows_built']:,} in {record['shards']} shards"],
        ["time to build a shard", ", ".join(f"{s:,.0f}" for s in seconds) + " s"],
        ["largest memory while building", f"{record['peak_gb_building']:.1f} GB"],
        ["memory of the search: codes and ids", f"{record['code_memory_gb']:.2f} GB"],
        ["largest memory while searching", f"{record['peak_gb_searching']:.1f} GB"],
        ["disk", f"{record['disk_gb']:.1f} GB"],
        ["time to load", f"{record['load_seconds']:.1f} s"],
        [f"queries per second, {record['num_queries']:,} at once", describe_rate(record)],
        ["one query alone, median", f"{record['median_milliseconds']:.1f} ms"],
        [
            f"recall@5 against exact search in float32, {record['num_exact_queries']:,} queries",
            f"{record['recall_at_5']:.4f}",
        ],
        ["settings", ", ".join(f"{key} {value}" for key, value in record["config"].items())],
    ]
    text = table(["", "measured"], rows)
    if "extrapolated" not in record:
        return text
    guess = record["extrapolated"]
    return text + (
        f"\n\n**Extrapolated** to {record['rows']:,} rows from these shards: built in "
        f"{guess['build_hours']:.1f} hours, {guess['queries_per_second']:,.0f} queries per second, "
        f"{guess['code_memory_gb']:.1f} GB of memory, {guess['disk_gb']:.0f} GB of disk."
    )


def describe_rate(record):
    first, best = record["queries_per_second_at_first"], record["queries_per_second"]
    return f"{best:,.0f} (at first, with rows on the disk alone, {first:,.0f})"


def embed(record):
    rows = [
        [
            way,
            f"{record['seconds'][way]:.1f} s",
            f"{record['images_per_second'][way]:,.0f}",
            f"{record['peak_gb_of_a_process'][way]:.2f} GB",
        ]
        for way in record["seconds"]
    ]
    bytes_text = "the same bytes" if record["same_bytes"] else "**other bytes**"
    killed = "the same" if record["same_bytes_after_kills"] else "**not the same**"
    text = (
        f"Two processes are {record['speedup_of_two_processes']:.2f} times as fast as one. All "
        f"ways wrote {bytes_text}; after {record['kills']} kills at random moments they were "
        f"{killed}."
    )
    header = [f"{record['num_images']:,} images", "time", "images/s", "largest process"]
    return f"{table(header, rows)}\n\n{text}"


def search_options(record):
    scores, rows, thresholds = [], [], []
    for result in record["results"]:
        name = f"{result['model']} ({result['embedding_dim']})"
        for title, key in (("as it is", "as_is"), ("score correction", "score_correction")):
            scores.append([f"{name}, {title}", *score_cells(result[key])])
        for dtype, row in result["rows"].items():
            memory = f"{row['mb_per_million_rows']:,.0f} MB"
            rows.append([f"{name}, {dtype}", *score_cells(row), memory])
        recall = result["threshold"]
        thresholds.append(
            [
                name,
                f"{recall['recall_at_90_precision']:.4f}",
                f"{recall['recall_at_90_precision_normalized']:.4f}",
                f"{recall['recall_at_any_precision']:.4f}",
            ]
        )
    metrics = ["R@1", "mMP@5"]
    header = ["model (dimensions)", "by similarity", "less that to the bank", "no threshold"]
    return "\n\n".join(
        (
            table(["model (dimensions)", *metrics], scores),
            "Recall at 90 % precision of accepting the nearest image:",
            table(header, thresholds),
            "Rows in smaller formats, searched exactly; memory of a million rows without codes:",
            table(["model (dimensions)", *metrics, "memory"], rows),
        )
    )


def score_cells(row):
    return [f"{row['r_at_1']:.4f}", f"{row['mmp_at_5']:.4f}"]


def scale(records):
    """docs/scale.md: a plan from the records of `hundred_million` and `embed`."""
    if "hundred_million" not in records:
        return "Not recorded yet: `make benchmarks ONLY=hundred_million`."
    record = records["hundred_million"]
    memory, disk = per_row(record, "code_memory_gb"), per_row(record, "disk_gb")
    seconds = sum(record["build_seconds_per_shard"]) / record["rows_built"]
    shard_rows = record["rows_built"] / record["shards"]
    machines = {size: max(1, math.ceil(size * memory / MEMORY_GB)) for size in SIZES}
    rates = [
        record["queries_per_second"] * record["rows_built"] * machines[size] / size
        for size in SIZES
    ]
    first = [
        ["disk: int8 rows, codes, ids", f"{disk * 1e9:.0f} bytes"],
        ["memory of a search: codes and ids", f"{memory * 1e9:.0f} bytes"],
        ["time to build its shard", f"{seconds * 1e6:.0f} us"],
        [
            "largest memory while its shard is built",
            f"{record['peak_gb_building'] / shard_rows * 1e9:.0f} bytes",
        ],
    ]
    plan = [
        ["disk", *(f"{size * disk:,.0f} GB" for size in SIZES)],
        ["memory of the search", *(f"{size * memory:,.1f} GB" for size in SIZES)],
        [f"machines with {MEMORY_GB} GB for codes", *(f"{machines[size]}" for size in SIZES)],
        ["hours to build, one machine", *(f"{size * seconds / 3600:,.1f}" for size in SIZES)],
        [
            "hours to build, all machines",
            *(f"{size * seconds / 3600 / machines[size]:,.1f}" for size in SIZES),
        ],
        ["queries per second, all machines at once", *(f"{rate:,.0f}" for rate in rates)],
        ["hours to embed, one machine", *(hours_to_embed(records, size) for size in SIZES)],
    ]
    note = ""
    if shard_rows < 1e7:
        note = f"\n\n**Rough: measured with shards of {shard_rows:,.0f} rows.**"
    return "\n\n".join(
        (
            table(["per row, measured", ""], first),
            table(["", *(f"{size:,} rows" for size in SIZES)], plan),
            provenance(record) + note,
        )
    )


def hours_to_embed(records, size):
    if "embed" not in records:
        return "to be measured"
    rate = max(records["embed"]["images_per_second"].values())
    return f"{size / rate / 3600:,.0f} (at {rate:,.0f} images/s)"


FIGURES = {
    make.__name__: with_provenance(make.__name__, make)
    for make in (hundred_million, embed, search_options)
} | {"scale": scale}
