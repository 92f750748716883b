"""Makes a competition of your own: query and index pictures and the solution file of score.py.

python tools/make_solution.py --output=DIR --folder=PICTURES       # PICTURES/<class>/*.jpg
python tools/make_solution.py --output=DIR --dataset=uned --split=test [--data_dir=DIR]
"""

from absl import flags

from universal_embedding import command
from universal_embedding.datasets.location import default_data_dir
from universal_embedding.errors import UserError

OUTPUT = flags.DEFINE_string("output", None, "Folder to make.", required=True)
FOLDER = flags.DEFINE_string("folder", None, "Folder of one folder of pictures for each class.")
DATASET = flags.DEFINE_string("dataset", None, "A prepared set, instead of --folder.")
DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Folder of the prepared data sets.")
SPLIT = flags.DEFINE_enum("split", "test", ["val", "test"], "Split of the prepared set.")
DOMAINS = flags.DEFINE_list("domains", [], "Some domains of the prepared set; all by default.")
QUERIES = flags.DEFINE_float(
    "queries", 0.2, "Share of each class that asks; the rest is searched.", 0.0, 1.0
)
PUBLIC = flags.DEFINE_float("public", 1 / 3, "Share of public queries.", 0.0, 1.0)


def main(argv: list[str]) -> None:
    del argv
    if bool(FOLDER.value) == bool(DATASET.value):
        raise UserError("give either --folder=DIR (labelled folders) or --dataset=NAME (prepared)")
    from universal_embedding.export import solution

    if FOLDER.value:
        queries, index = solution.divide(solution.of_folder(FOLDER.value), QUERIES.value)
    else:
        queries, index = solution.of_prepared(
            DATA_DIR.value, DATASET.value, SPLIT.value, DOMAINS.value, QUERIES.value
        )
    made = solution.write(OUTPUT.value, queries, index, PUBLIC.value)
    public = sum(usage == "Public" for usage in made.usage.values())
    print(
        f"{OUTPUT.value}: {len(made.images)} queries ({public} public), "
        f"{len(index)} index pictures, solution.csv"
    )


if __name__ == "__main__":
    command.run(main)
