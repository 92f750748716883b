"""The sections of the page that show pictures: sheets of queries, and the map."""

from collections.abc import Mapping
from html import escape

from universal_embedding.retrieval import atlas, charts, sheets
from universal_embedding.retrieval.assessment import Assessment
from universal_embedding.retrieval.sources import Pair


def sheet(
    name: str,
    key: str,
    one: Assessment,
    pairs: Mapping[str, Pair],
    thumbnails: sheets.Thumbnails,
    examples: int,
) -> str:
    """The worst failures of one domain, and some queries drawn at random."""
    results = one.results["merged"]
    result = results.domains[key]
    wrong = int(((result.counts > 0) & ~result.relevant[:, 0]).sum())
    body = []
    for heading, rows in (
        ("Worst failures first", sheets.worst_failures(key, one.domains, results, examples)),
        ("Drawn at random", sheets.drawn(key, one.domains, results, examples)),
    ):
        lines = "".join(_row(row, pairs, thumbnails) for row in rows)
        body.append(f"<h3>{heading}</h3><div class='sheet'>{lines or 'None.'}</div>")
    note = (
        f"{wrong:,} of {(result.counts > 0).sum():,} queries have a wrong first neighbour. From "
        "the left: the query; its five neighbours in the merged index, right in green, wrong in "
        "red, with their cosine similarity and their domain if it is another; dashed, the most "
        "similar picture of the query's class."
    )
    return section(f"{name} — {key}", "".join(body), note)


def _row(row: sheets.Row, pairs: Mapping[str, Pair], thumbnails: sheets.Thumbnails) -> str:
    query = pairs[row.query.domain].queries
    parts = [_picture("query", thumbnails.query(row.query), _class(query, row.query), "query")]
    for shown in (*row.neighbours, row.best_right):
        records = pairs[shown.domain].searched
        kind = "best" if shown is row.best_right else "right" if shown.right else "wrong"
        below = f"{shown.score:.3f}"
        if shown.domain != row.query.domain:
            below += f"<em>{escape(shown.domain)}</em>"
        parts.append(_picture(kind, thumbnails.neighbour(shown), _class(records, shown), below))
    return f"<div class='row'>{''.join(parts)}</div>"


def _class(records: object, shown: sheets.Shown) -> str:
    names = getattr(records, "class_names", {}) or {}
    ids = records.labels[shown.record].tolist()
    return ", ".join(str(names.get(i, f"class {i}")) for i in ids)


def _picture(kind: str, address: str, name: str, below: str) -> str:
    name = escape(name)
    return (
        f"<div class='pic {kind}' title='{name}'><img src='{address}' alt='{name}'>"
        f"<b>{name}</b>{below}</div>"
    )


def embedding_map(name: str, one: Assessment, pairs: Mapping[str, Pair]) -> str:
    """Queries of all domains in two dimensions."""
    drawn = atlas.draw(one.domains)
    keys = list(one.domains)
    titles = [
        f"{keys[domain]}: {_class(pairs[keys[domain]].queries, sheets.Shown(keys[domain], record))}"
        for domain, record in zip(drawn.domains.tolist(), drawn.records.tolist(), strict=True)
    ]
    picture = charts.point_map(drawn.places, drawn.domains.tolist(), keys, titles)
    note = f"t-SNE of {len(titles):,} queries. Neighbourhoods mean something, distances do not."
    body = f"{charts.legend(keys)}<div class='map'>{picture}</div>"
    return section(f"{name} — map of the embedding", body, note)


def section(heading: str, body: str, note: str = "") -> str:
    """One box of the page."""
    note = f"<p class='note'>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(heading)}</h2>{note}{body}</section>"
