"""Registry of the domains of UnED and of the challenge, with every published number once.

Counts: arXiv 2309.01858 and the authors' code (github nikosips/Universal-Image-Embeddings).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

UNED_CITATION = (
    "N.-A. Ypsilantis et al. Towards Universal Image Embeddings: A Large-Scale Dataset and "
    "Challenge for Generic Image Representations. ICCV 2023. arXiv 2309.01858."
)


@dataclass(frozen=True)
class DownloadArchive:
    """A file to download, as its publisher describes it."""

    url: str
    size: int
    sha256: str


INFO_FILES = DownloadArchive(
    url="https://cmp.felk.cvut.cz/univ_emb/info_files.zip",
    size=54_916_776,
    sha256="6d3661d53e9a93e0492eefb6850cf97f5cd70f293bd76e59c014f610ff72c021",
)


@dataclass(frozen=True)
class Domain:
    """One domain of a dataset: its contents and the source of its images.

    Attributes:
        key: The domain's name in configs, folders and reports.
        source: The dataset that the images come from.
        folders: Where the images belong in the manual folder.
        num_images: Published number of images of each split.
        num_classes: Published number of classes, where it is known; `all`: of all splits together.
        citation: Citation that the source asks for.
        license: License or terms of use, as the source states them.
        homepage: Address where the images are available.
        download_size: Size of the download, as far as confirmed.
    """

    key: str
    source: str
    folders: tuple[str, ...]
    num_images: Mapping[str, int] = field(default_factory=dict)
    num_classes: Mapping[str, int] = field(default_factory=dict)
    citation: str = ""
    license: str = ""
    homepage: str = ""
    download_size: str = "size: see there"

    @property
    def has_separate_index(self) -> bool:
        """Whether the test index is a separate set; otherwise the queries search each other."""
        return "index" in self.num_images

    @property
    def instructions(self) -> str:
        """Instructions to get the images into the manual folder."""
        return (
            f"{self.source}: get the images from {self.homepage} ({self.download_size}; "
            f"{self.license}) "
            f"and unpack them to {', '.join(self.folders)} in the manual folder"
        )


CARS = Domain(
    key="cars",
    source="Stanford Cars-196",
    folders=("images/cars/car_ims",),
    num_images={"train": 6_346, "val": 1_708, "test": 8_131},
    num_classes={"train": 78},
    citation="J. Krause et al. 3D Object Representations for Fine-Grained Categorization. 2013.",
    license="terms of the dataset's page",
    homepage="http://ai.stanford.edu/~jkrause/cars/car_dataset.html",
)
SOP = Domain(
    key="sop",
    source="Stanford Online Products",
    folders=("images/sop",),
    num_images={"train": 48_942, "val": 10_609, "test": 60_502},
    num_classes={"train": 9_054},
    citation="H. O. Song et al. Deep Metric Learning via Lifted Structured Feature Embedding. "
    "CVPR 2016.",
    license="terms of the dataset's page",
    homepage="https://cvgl.stanford.edu/projects/lifted_struct/",
)
INSHOP = Domain(
    key="inshop",
    source="DeepFashion In-Shop",
    folders=("images/deepfashion/inshop/img",),
    num_images={"train": 20_897, "val": 4_982, "test": 14_218, "index": 12_612},
    num_classes={"train": 3_198},
    citation="Z. Liu et al. DeepFashion: Powering Robust Clothes Recognition and Retrieval. "
    "CVPR 2016.",
    license="non-commercial research, after signing the agreement",
    homepage="http://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
)
INAT = Domain(
    key="inat",
    source="iNaturalist 2018",
    folders=("images/inat/iNaturalist/train_val2018",),
    num_images={"train": 273_929, "val": 51_917, "test": 136_093},
    num_classes={"train": 4_552},
    citation="G. Van Horn et al. The iNaturalist Species Classification and Detection Dataset. "
    "CVPR 2018.",
    license="non-commercial research and education",
    homepage="https://github.com/visipedia/inat_comp/tree/master/2018",
    download_size="120 GB",
)
MET = Domain(
    key="met",
    source="The Met",
    folders=(
        "images/met/MET",
        "images/met/test_met",
        "images/met/test_noart",
        "images/met/test_other",
    ),
    num_images={
        "train": 397_121,
        "val": 129,
        "test": 1_003,
        "index": 397_121,
        "small_index": 38_307,
    },
    num_classes={"train": 224_408},
    citation="N.-A. Ypsilantis et al. The Met Dataset: Instance-level Recognition for Artworks. "
    "NeurIPS Datasets and Benchmarks 2021.",
    license="terms of the dataset's page",
    homepage="http://cmp.felk.cvut.cz/met/",
)
GLDV2 = Domain(
    key="gldv2",
    source="Google Landmarks v2",
    folders=("images/gldv2/images/train", "images/gldv2/images/test", "images/gldv2/images/index"),
    num_images={"train": 1_422_914, "val": 157_556, "test": 1_129, "index": 761_757},
    num_classes={"train": 73_182},
    citation="T. Weyand et al. Google Landmarks Dataset v2. CVPR 2020. arXiv 2004.01804.",
    license="a license for each image, listed with the dataset",
    homepage="https://github.com/cvdfoundation/google-landmark",
    download_size="500 files of about 1 GB for train alone",
)
FOOD2K = Domain(
    key="food2k",
    source="Food2K",
    folders=("images/food2k/Food2k_complete",),
    num_images={"train": 472_349, "val": 49_323, "test": 9_979},
    num_classes={"train": 900},
    citation="W. Min et al. Large Scale Visual Food Recognition. TPAMI 2023. arXiv 2103.16107.",
    license="terms of the dataset's page",
    homepage="http://123.57.42.89/FoodProject.html",
)
RP2K = Domain(
    key="rp2k",
    source="RP2K",
    folders=("images/rp2k/all/train", "images/rp2k/all/test"),
    num_images={"train": 188_724, "val": 17_185, "test": 10_931},
    num_classes={"train": 1_074},
    citation="J. Peng et al. RP2K: A Large-Scale Retail Product Dataset for Fine-Grained Image "
    "Classification. 2020. arXiv 2006.12634.",
    license="terms of the dataset's page",
    homepage="https://www.pinlandata.com/rp2k_dataset/",
)

UNED: Mapping[str, Domain] = {
    domain.key: domain for domain in (CARS, SOP, INSHOP, INAT, MET, GLDV2, FOOD2K, RP2K)
}


def sort_domains(keys: Iterable[str]) -> list[str]:
    """Sorts domain keys: UnED's in UnED's order, then all others by name."""
    published = list(UNED)
    return sorted(keys, key=lambda key: (published.index(key) if key in UNED else len(UNED), key))


GUIE: Mapping[str, Domain] = {
    domain.key: domain
    for domain in (
        Domain(
            key="imagenet",
            source="ImageNet-1k, training images",
            folders=("imagenet/<class>",),
            num_classes={"all": 1_000},
            citation="O. Russakovsky et al. ImageNet Large Scale Visual Recognition Challenge. "
            "IJCV 2015. arXiv 1409.0575.",
            license="non-commercial research and education",
            homepage="https://www.image-net.org/download.php",
        ),
        Domain(
            key="products10k",
            source="Products-10K",
            folders=("products10k/train", "products10k/train.csv"),
            num_classes={"all": 9_691},
            citation="Y. Bai et al. Products-10K: A Large-scale Product Recognition Dataset. 2020. "
            "arXiv 2008.10545.",
            license="terms of the dataset's page",
            homepage="https://products-10k.github.io/",
        ),
        Domain(
            key="landmarks2021",
            source="Google Landmark Recognition 2021, training images",
            folders=("landmarks2021/train", "landmarks2021/train.csv"),
            num_classes={"all": 7_000},
            citation="T. Weyand et al. Google Landmarks Dataset v2. CVPR 2020. arXiv 2004.01804.",
            license="a license for each image, listed with the dataset",
            homepage="https://www.kaggle.com/c/landmark-recognition-2021/data",
        ),
    )
}
