"""Searches a folder of pictures with an exported model: as text, as a picture, as a web page.

python tools/search.py index --saved_model=DIR|submission.zip --gallery=FOLDER --output=INDEX
python tools/search.py query --index=INDEX --image=FILE [--k=5] [--sheet=FILE.png]
python tools/search.py evaluate --index=INDEX [--precision=0.9] [--sheet=FILE.png]
python tools/search.py serve --index=INDEX [--port=8000]

The first sub-folder of a picture is its category. `index` run again embeds only what has changed.
"""

from pathlib import Path

from absl import flags

from universal_embedding import command
from universal_embedding.errors import UserError

_FLAG = flags.DEFINE_string
SAVED_MODEL = _FLAG("saved_model", None, "Exported model; the index's own by default.")
GALLERY = _FLAG("gallery", None, "index: the folder of pictures.")
OUTPUT = _FLAG("output", None, "index: the index to make or to bring up to date.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "index: pictures embedded at once.", 1)
INDEX = _FLAG("index", None, "query, evaluate, serve: the index.")
EXACT_BELOW = flags.DEFINE_integer(
    "exact_below", 500_000, "query, evaluate, serve: smaller galleries are searched exactly.", 0
)
IMAGE = _FLAG("image", None, "query: the picture to search with.")
K = flags.DEFINE_integer("k", 5, "query: how many matches.", 1)
DISTANCE = flags.DEFINE_enum("distance", "euclidean", ["euclidean", "cosine"], "query: which.")
CATEGORY = _FLAG("category", None, "query: search only this category.")
SORT_ALL = flags.DEFINE_bool("sort_all", False, "query: list the whole gallery by distance.")
MAX_DISTANCE = flags.DEFINE_float(
    "max_distance", None, "query, serve: leave out what is farther away.", 0.0
)
SHEET = _FLAG("sheet", None, "query, evaluate: a picture of the matches, or of the failures.")
PRECISION = flags.DEFINE_float("precision", 0.9, "evaluate: wished, for a threshold.", 0.0, 1.0)
REPORT = _FLAG("report", None, "evaluate: write all numbers to this JSON file.")
HOST = _FLAG("host", "127.0.0.1", "serve: address to listen on; other than loopback is public.")
PORT = flags.DEFINE_integer("port", 8000, "serve: port; 0 takes a free one.", 0, 65535)
MAX_UPLOAD_MB = flags.DEFINE_integer("max_upload_mb", 16, "serve: largest file taken.", 1)

SEARCHING = (INDEX, SAVED_MODEL, EXACT_BELOW)
TAKES = {
    "index": (SAVED_MODEL, GALLERY, OUTPUT, BATCH_SIZE),
    "query": (*SEARCHING, IMAGE, K, DISTANCE, CATEGORY, SORT_ALL, MAX_DISTANCE, SHEET),
    "evaluate": (*SEARCHING, SHEET, PRECISION, REPORT),
    "serve": (*SEARCHING, HOST, PORT, MAX_UPLOAD_MB, MAX_DISTANCE),
}
NEEDS = {
    "index": (SAVED_MODEL, GALLERY, OUTPUT),
    "query": (INDEX, IMAGE),
    "evaluate": (INDEX,),
    "serve": (INDEX,),
}


def main(argv: list[str]) -> None:
    chosen = argv[1]
    own = {flag.name for flag in TAKES[chosen]}
    for flag in (flag for takes in TAKES.values() for flag in takes):
        if flag.present and flag.name not in own:
            raise UserError(f"--{flag.name} has no meaning for {chosen}: leave it out")
    for flag in NEEDS[chosen]:
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; `{chosen}` needs it")
    {"index": index, "query": query, "evaluate": evaluate, "serve": serve}[chosen]()


def index() -> None:
    from universal_embedding.gallery import indexing, model

    origin, output = Path(SAVED_MODEL.value), Path(OUTPUT.value)
    made, changes = indexing.update(
        output, Path(GALLERY.value), model.load(origin), origin, BATCH_SIZE.value
    )
    for name, reason in made.broken.items():
        print(f"broken: {name}: {reason}")
    print(
        f"{output}: {len(made)} pictures in {len(set(made.categories))} categories; "
        f"{changes.added} new, {changes.changed} changed, {changes.removed} removed, "
        f"{changes.kept} as before, {len(made.broken)} broken, {changes.other_files} other files"
    )


def query() -> None:
    from universal_embedding.gallery import sheets
    from universal_embedding.gallery.pictures import read

    image = Path(IMAGE.value)
    try:
        picture = read(image)
    except UserError as error:
        raise UserError(f"--image={image}: {error}") from None
    gallery = _open()
    matches = gallery.nearest(
        gallery.embed(picture),
        len(gallery.index) if SORT_ALL.value else K.value,
        DISTANCE.value,
        CATEGORY.value,
        MAX_DISTANCE.value,
    )
    if not matches:
        print(f"no picture within --max_distance={MAX_DISTANCE.value:g}")
    for match in matches:
        print(f"{match.distance:.4f}  {match.name}")
    if SHEET.value:
        sheets.save(sheets.of_query(gallery.index, image, matches[:100]), Path(SHEET.value))
        print(f"wrote {SHEET.value}")


def evaluate() -> None:
    import json

    from universal_embedding.gallery import evaluation, sheets

    gallery = _open()
    found = evaluation.leave_one_out(gallery)
    report = evaluation.evaluate(found, PRECISION.value)
    print(evaluation.text(report))
    if REPORT.value:
        Path(REPORT.value).write_text(json.dumps(report, indent=1, ensure_ascii=False))
        print(f"wrote {REPORT.value}")
    failures = evaluation.failures(found)
    if SHEET.value and failures:
        sheets.save(sheets.of_failures(gallery.index, failures), Path(SHEET.value))
        print(f"wrote {SHEET.value}")
    elif SHEET.value:
        print("no failures, so no sheet of them")


def serve() -> None:
    from universal_embedding.gallery import pages, server

    limits = pages.Limits(upload=MAX_UPLOAD_MB.value << 20)
    server.serve(_open(), HOST.value, PORT.value, limits, MAX_DISTANCE.value)


def _open():
    from universal_embedding.gallery import search

    saved_model = Path(SAVED_MODEL.value) if SAVED_MODEL.value else None
    gallery = search.open_gallery(Path(INDEX.value), saved_model, EXACT_BELOW.value)
    if not gallery.is_exact:
        print(gallery.approximation())
    return gallery


if __name__ == "__main__":
    command.run(main, tuple(TAKES))
