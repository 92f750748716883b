"""The registry against the sums that were published beside it."""

from universal_embedding.datasets.domains import GUIE, UNED, in_order


def test_published_sums():
    domains = UNED.values()
    assert sum(d.pictures["train"] for d in domains) == 2_831_222
    assert sum(d.classes["train"] for d in domains) == 316_446
    assert sum(d.pictures["test"] for d in domains) == 241_986
    index = sum(d.pictures["index" if d.own_index else "test"] for d in domains)
    assert index == 1_397_126


def test_own_indices():
    assert [key for key, domain in UNED.items() if domain.own_index] == ["inshop", "met", "gldv2"]
    assert UNED["met"].pictures["small_index"] == 38_307


def test_order():
    assert in_order(["b", "rp2k", "a", "cars"]) == ["cars", "rp2k", "a", "b"]


def test_one_label_space_of_the_challenge():
    assert sum(domain.classes["all"] for domain in GUIE.values()) == 17_691


def test_instructions_say_whence_and_where_to():
    for domain in [*UNED.values(), *GUIE.values()]:
        assert "http" in domain.instructions and domain.terms in domain.instructions
        assert all(folder in domain.instructions for folder in domain.folders)
