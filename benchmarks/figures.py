"""Markdown of every figure that a benchmark measured, from its record."""

import numpy as np

METRICS = ("r_at_1", "mmp_at_5")
PROTOCOLS = ("merged", "separate")
SCORE_TITLES = ("merged R@1", "merged mMP@5", "separate R@1", "separate mMP@5")
TORCH = "pytorch-metric-learning"


def table(header, rows):
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def provenance(record):
    """One line: command, date, machine, commit and load."""
    versions = ", ".join(f"{name} {v}" for name, v in record.get("versions", {}).items())
    commit = f"commit {record['commit']}" if record.get("commit") else "commit not recorded"
    parts = [record["date"], record["machine"], *([versions] if versions else []), commit]
    return f"`{record['command']}`: {'; '.join(parts)}; {describe_load(record)}."


def describe_load(record):
    """Names the load of other programs while it ran."""
    busy = "**the machine was busy**" if record.get("busy") else "nothing else was running"
    if not record.get("load"):
        return busy if "busy" in record else "load not recorded"
    load = record["load"]
    took = f"{load['mean']:.1%} of its CPU time in the mean and {load['max']:.1%} at most"
    return f"other programs took {took}" + (f": {busy}" if record["busy"] else "")


def with_provenance(name, make):
    """A function of all records that makes a record's figures and says how they were measured."""

    def figure(records):
        if name not in records:
            return f"Not recorded yet: `make benchmarks ONLY={name}`."
        return f"{make(records[name])}\n\n{provenance(records[name])} [Record]({name}.json)."

    return figure


def heads(record):
    rows, errors = [], record["relative_error"]
    for batch_size, methods in record["seconds"].items():
        torch = methods.get(TORCH)
        for name, row in methods.items():
            ratios = [
                f"{torch[key] / row[key]:.1f}" if torch and name != TORCH else ""
                for key in ("median", "min")
            ]
            first = f"{row['first_call']:.1f}" if row["first_call"] else ""
            times = [f"{row['median']:.3f}", f"{row['min']:.3f}"]
            rows.append([batch_size, name, *times, first, *ratios])
    header = ["batch", "method", "median s", "least s", "first call s"]
    header += [f"{TORCH} / it", "by the least"]
    memory = [
        [name, f"{row['peak']:,.0f}", f"{row['above']:,.0f}"]
        for name, row in record["memory_mb"].items()
    ]
    differences = [
        [name, *(f"{row[key]:.1e}" for key in ("loss", "embeddings", "weights"))]
        for name, row in errors.items()
    ]
    return "\n\n".join(
        (
            f"{record['num_classes']:,} classes:",
            table(header, rows),
            table(["", "peak MB", "above weights and their gradient"], memory),
            "Relative difference from the full softmax:",
            table(["", "loss", "gradient of embeddings", "of weights"], differences),
        )
    )


def retrieval_challenge(record):
    seconds, config = record["seconds"], record["approximate_config"]
    rows = [
        ["faiss `IndexFlatIP`", f"{seconds['faiss']:.3f}", "", ""],
        [
            "exact (ScaNN brute force)",
            f"{seconds['exact']:.3f}",
            f"{record['exact_same_neighbors_as_faiss']:.4f}",
            f"{record['exact_speedup_over_faiss']:.2f} x faiss",
        ],
        [
            "approximate (ScaNN tree)",
            f"{seconds['approximate']:.3f}",
            f"{record['approximate_recall_at_5']:.5f}",
            f"{record['approximate_speedup_over_exact']:.2f} x exact",
        ],
    ]
    tree = f"The tree was built and tuned in {record['approximate_build_seconds']:.1f} s: "
    tree += ", ".join(f"{key} {value}" for key, value in config.items()) + "."
    header = ["search", "seconds", "same neighbors as faiss / recall@5", "speed"]
    parts = [table(header, rows), tree]
    if "hnswlib" in record:
        parts.append(retrieval_approximate(record["hnswlib"]))
    return "\n\n".join(parts)


def retrieval_exact(record):
    rows = [
        ["time", f"{record['seconds']:.1f} s (and {record['build_seconds']:.1f} s to build)"],
        ["rate", f"{record['gflops']:.0f} GFLOP/s"],
        [
            "arithmetic limit: the same operations at the rate of a product of 4096 x 4096 x 4096, "
            f"{record['square_product_gflops']:.0f} GFLOP/s",
            f"{record['limit_seconds']:.1f} s",
        ],
        [
            "NumPy's product in the shape of the search, without selecting the largest",
            f"{record['search_shaped_product_gflops']:.0f} GFLOP/s",
        ],
        ["peak memory", f"{record['peak_gb']:.2f} GB"],
        ["of which embeddings", f"{record['embeddings_gb']:.2f} GB"],
        [
            "above embeddings and libraries, while searching",
            f"{record['peak_above_embeddings_gb']:.2f} GB",
        ],
    ]
    sizes = f"{record['num_queries']:,} queries, {record['index_size']:,} index images"
    return table([sizes, ""], rows)


def retrieval_approximate(record):
    scann, graph = record["scann"], record["hnswlib"]
    settings = ", ".join(f"{key} {value}" for key, value in scann["config"].items())
    rows = [
        [
            f"ScaNN tree ({settings})",
            f"{scann['build_seconds']:.1f} s",
            f"{scann['recall_at_5']:.4f}",
            f"{scann['queries_per_second']:,.0f}",
        ]
    ]
    for point in graph["points"]:
        rate = record["num_queries"] / point["seconds"]
        cells = [f"{graph['build_seconds']:.1f} s", f"{point['recall_at_5']:.4f}", f"{rate:,.0f}"]
        rows.append([f"hnswlib, ef {point['ef']}", *cells])
    sizes = f"{record['num_queries']:,} queries, {record['index_size']:,} index images"
    text = (
        f"Built {record['build_speedup_over_hnswlib']:.1f} times as fast as hnswlib; "
        f"{record['query_speedup_over_hnswlib']:.2f} times its queries per second."
    )
    return f"{table([sizes, 'build', 'recall@5', 'queries/s'], rows)}\n\n{text}"


def train_step(record):
    rows = [
        [
            name,
            f"{row['loop_images_per_second']:,.1f}",
            f"{row['bare_images_per_second']:,.1f}",
            f"**{row['ratio']:.3f}**",
            ", ".join(f"{ratio:.3f}" for ratio in row["ratio_by_round"]),
            f"{row['cpu_ratio']:.3f}",
            f"{row['cpu_seconds_outside_backbone']:.2f}",
        ]
        for name, row in record["backbones"].items()
    ]
    sizes = f"{record['num_classes']:,} classes, batch {record['batch_size']}"
    header = ["loop, images/s", "bare, images/s", "ratio", "by round", "of CPU time"]
    return table([sizes, *header, "CPU s of a step outside the backbone"], rows)


def input_pipeline(record):
    parts = []
    for size in ("400x500", "1200x1600"):
        rows = [
            [
                name,
                f"{row['images_per_second']:,.0f}",
                f"{row['ratio']:.3f}",
                f"{row['cpu_microseconds']:,.0f}",
            ]
            for name, row in record[size].items()
            if isinstance(row, dict)
        ]
        parts.append(table([size, "images/s", "ours / it", "CPU us per image"], rows))
        extra = record[size]["cpu_microseconds_besides_decode_crop_resize"]
        parts.append(f"CPU besides the same decode, crop and resize: {extra:.0f} us per image.")
    memory, files = record["memory_mb"], record["most_open_files"]
    first, late = (record[f"first_batch_{step}_seconds"] for step in (0, 10**6))
    calls = [record[f"python_calls_per_batch_of_{size}"] for size in (32, 128)]
    rows = [
        ["first batch from step 0, from step 1,000,000", f"{first:.2f} s, {late:.2f} s"],
        ["Python calls per batch of 32, of 128", f"{calls[0]:.0f}, {calls[1]:.0f}"],
        ["the Python thread's share of CPU time", f"{record['python_share_of_cpu']:.2%}"],
        ["memory after every hundredth batch", f"{min(memory):,} to {max(memory):,} MB"],
        [
            "files open with 3,000 shards and a limit of 1,024, mapped and not",
            f"{files['mapped']}, {files['not mapped']}",
        ],
    ]
    return "\n\n".join((*parts, table(["", ""], rows)))


def image_search(record):
    titles = {
        "search_ms": "search alone",
        "numpy_ms": "a full sort in NumPy",
        "upload_ms": "upload: request, decoding, model and search",
        "click_ms": "click: request and a search from an image of the index",
    }
    rows = [
        [title, f"{record[key]['median']:.1f}", f"{record[key]['p95']:.1f}"]
        for key, title in titles.items()
    ]
    many = record["concurrent"]
    text = f"{many['num_clients']} uploads at once: all answered in {many['seconds']:.2f} s, "
    text += f"{many['num_correct']} answers correct."
    header = [f"{record['num_images']:,} images", "median ms", "95 % ms"]
    return f"{table(header, rows)}\n\n{text}"


def export(record):
    rows = []
    for batch_size in (1, 32):
        row = record[f"batch_{batch_size}"]
        rates = [f"{row[key]:.1f}" for key in ("backbone", "exported")]
        resized = f"{row['exported_375x500']:.1f}"
        rows.append([str(batch_size), *rates, f"{row['ratio']:.3f}", resized])
    header = ["batch", "backbone, images/s", "exported", "ratio", "exported, images of 375 x 500"]
    return table(header, rows)


def prepare(record):
    rows = [
        [
            row["name"],
            f"{row['num_images']:,}",
            f"{row['seconds']:.1f}",
            f"{row['num_images'] / row['seconds']:,.0f}",
            f"{row['peak_gb']:.2f}" if row["peak_gb"] else "",
        ]
        for row in record["runs"]
    ]
    return table(["", "images", "seconds", "images/s", "peak GB"], rows)


def format_score(values):
    """Mean over the seeds, with their standard deviation if there are several."""
    values = np.atleast_1d(values)
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{deviation}"


def quality(record):
    """Mean scores of every model, and its merged R@1 by domain."""
    results = record["results"]
    means = [
        [name, *(format_score(scores[p]["mean"][m]) for p in PROTOCOLS for m in METRICS)]
        for name, scores in results.items()
    ]
    domains = [key for key in next(iter(results.values()))["merged"] if key != "mean"]
    by_domain = [
        [name, *(f"{np.mean(scores['merged'][d]['r_at_1']):.3f}" for d in domains)]
        for name, scores in results.items()
    ]
    return "\n\n".join(
        (table(["", *SCORE_TITLES], means), "Merged R@1:", table(["", *domains], by_domain))
    )


# README's table: the file of a record, what was measured, the result, and the rival's.
README_ROWS = {
    "retrieval_challenge": lambda r: (
        "retrieval",
        "5,000 queries in 200,000 x 64, exact",
        f"{r['seconds']['exact']:.2f} s",
        f"faiss {r['seconds']['faiss']:.2f} s",
    ),
    "retrieval_exact": lambda r: (
        "retrieval",
        f"UnED's merged test size, {r['num_queries']:,} in {r['index_size']:,}, exact",
        f"{r['seconds']:.0f} s, {r['peak_above_embeddings_gb']:.2f} GB",
        f"{r['limit_seconds']:.0f} s, the bare matrix product",
    ),
    "retrieval_approximate": lambda r: (
        "retrieval",
        f"{r['num_queries']:,} in {r['index_size']:,}, approximate",
        f"ScaNN at recall {describe_search(r['scann'])}",
        f"hnswlib at {describe_search(r['hnswlib'])}",
    ),
    "heads": lambda r: (
        "heads",
        f"ArcFace at {r['num_classes']:,} classes, batch 128, forward and backward",
        f"{r['seconds']['128']['chunked']['median']:.3f} s",
        f"{TORCH} {r['seconds']['128'][TORCH]['median']:.3f} s",
    ),
    "train_step": lambda r: (
        "train_step",
        f"training ViT-S/16 with {r['num_classes']:,} classes",
        f"{r['backbones']['vit_s16']['ratio']:.2f} of the bare backbone's speed",
        "",
    ),
    "input_pipeline": lambda r: (
        "input_pipeline",
        "input, 224-pixel crops of 400 x 500 JPEGs",
        f"{r['400x500']['universal_embedding']['images_per_second']:,.0f} images/s",
        f"usual `tf.data` pipeline {r['400x500']['usual, antialias']['images_per_second']:,.0f}, "
        f"not antialiased {r['400x500']['usual, no antialias']['images_per_second']:,.0f}",
    ),
    "image_search": lambda r: (
        "image_search",
        f"search page, {r['num_images']:,} images, one upload",
        f"{r['upload_ms']['median']:.0f} ms",
        "",
    ),
}


def describe_search(row):
    rate, seconds = row["queries_per_second"], row["build_seconds"]
    return f"{row['recall_at_5']:.3f}: {rate:,.0f}/s, built in {seconds:.0f} s"


def readme(records):
    """README's table of speed."""
    rows = []
    for name, make in README_ROWS.items():
        if name in records:
            file, title, ours, rival = make(records[name])
            busy = ", **busy machine**" if records[name].get("busy") else ""
            date = records[name]["date"] + busy
            rows.append([f"[{title}](benchmarks/results/{file}.md)", ours, rival, date])
    return table(["", "measured", "compared with", "on"], rows)


MAKERS = (
    heads,
    retrieval_challenge,
    retrieval_exact,
    retrieval_approximate,
    train_step,
    input_pipeline,
    image_search,
    export,
    prepare,
)
QUALITY = ("uned_mini", "uned_mini_features", "uned_mini_finetuned", "uned_mini_variants")
FIGURES = {
    "readme": readme,
    **{make.__name__: with_provenance(make.__name__, make) for make in MAKERS},
    **{name: with_provenance(name, quality) for name in (*QUALITY, "uned_table")},
}
