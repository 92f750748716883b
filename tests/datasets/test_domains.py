"""The registry against the published sums."""

from universal_embedding.datasets.domains import GUIE, UNED, sort_domains


def test_counts_add_up_to_the_published_sums():
    domains = UNED.values()
    assert sum(d.num_images["train"] for d in domains) == 2_831_222
    assert sum(d.num_classes["train"] for d in domains) == 316_446
    assert sum(d.num_images["test"] for d in domains) == 241_986
    index = sum(d.num_images["index" if d.has_separate_index else "test"] for d in domains)
    assert index == 1_397_126


def test_three_domains_have_a_separate_index():
    assert [key for key, domain in UNED.items() if domain.has_separate_index] == [
        "inshop",
        "met",
        "gldv2",
    ]
    assert UNED["met"].num_images["small_index"] == 38_307


def test_sort_domains_puts_uned_first_in_its_order():
    assert sort_domains(["b", "rp2k", "a", "cars"]) == ["cars", "rp2k", "a", "b"]


def test_challenge_has_one_label_space():
    assert sum(domain.num_classes["all"] for domain in GUIE.values()) == 17_691


def test_instructions_name_homepage_license_and_folders():
    for domain in [*UNED.values(), *GUIE.values()]:
        assert "http" in domain.instructions and domain.license in domain.instructions
        assert all(folder in domain.instructions for folder in domain.folders)
