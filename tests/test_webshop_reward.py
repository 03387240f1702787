"""The reward formula against definitions computed another way."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affine.envs.engines.webshop.catalogue import GeneratedCatalogue, Goal, Product, draw_goal
from affine.envs.engines.webshop.reward import COLORS, nouns, reward, similarity, type_reward
from affine.envs.engines.webshop.vocabulary import SMALL
from affine.envs.env import task_rng

SHIRT = Product(
    asin="B1",
    name="Norvik Cotton Dress Shirt, Machine Washable",
    query="dress shirts",
    path=("Clothing", "Men", "Shirts"),
    description="A shirt with a spread collar.",
    bullets=("Button closure.", "Imported"),
    attributes=("machine wash", "long sleeve"),
    options=(("color", ("red", "navy blue")), ("size", ("standard", "large"))),
    price=25.0,
    price_tag="$25.0",
)


def goal(**changes: object) -> Goal:
    base = Goal(SHIRT, "", ("long sleeve", "spread collar"), (("color", "red"), ("size", "large")), 30.0)
    return replace(base, **changes)  # type: ignore[arg-type]


def total(bought: Product, chosen: dict[str, str], wanted: Goal, *, upstream: bool = False) -> float:
    return reward(bought, chosen, wanted, substring_colors=upstream).total


def test_full_and_partial_reward() -> None:
    right = {"color": "red", "size": "large"}
    assert total(SHIRT, right, goal()) == 1.0
    assert total(SHIRT, {}, goal()) == pytest.approx(3 / 5)  # two attributes (one in the description), price
    assert total(SHIRT, right, goal(price_upper=24.99)) == pytest.approx(4 / 5)
    assert total(SHIRT, right, goal(price_upper=25.0)) == 1.0
    assert total(SHIRT, {**right, "size": "standard"}, goal()) == pytest.approx(4 / 5)
    assert total(SHIRT, right, goal(attributes=("long sleeve", "slim fit"))) == pytest.approx(4 / 5)


def test_type_reward_table() -> None:
    """r_type by hand: q = query, c = two category elements, s = share of the goal's nouns."""
    other = replace(SHIRT, name="Alpha Beta", query="other", path=("Clothing", "Women"))
    assert type_reward(other, SHIRT) == 0.0  # s = 0, whatever else holds
    assert type_reward(replace(other, query=SHIRT.query, path=SHIRT.path), SHIRT) == 0.0
    assert type_reward(replace(other, name="Alpha Shirt"), SHIRT) == 0.5  # s = 1/5
    assert type_reward(replace(other, name="Cotton Shirt"), SHIRT) == 1.0  # s = 2/5
    eleven = replace(SHIRT, name="shirt n1 " + " ".join(f"thing{'abcdefghijk'[i]}" for i in range(10)))
    assert len(nouns(eleven.name)) == 12
    assert type_reward(replace(other, name="shirt"), eleven) == 0.1  # s = 1/12 < 0.1
    five = replace(SHIRT, name="shirt cuff collar yoke placket")
    assert type_reward(replace(other, name="shirt"), five) == 0.5  # s = 0.2 is not above 0.2
    assert type_reward(replace(other, name="shirt", query=SHIRT.query), five) == 1.0
    assert type_reward(replace(other, name="shirt", path=SHIRT.path[:2]), five) == 1.0
    assert type_reward(SHIRT, replace(five, name="warm and soft")) == 1.0  # no nouns: s = 0.2, same query
    assert type_reward(other, replace(five, name="warm and soft")) == 0.5


def test_repeated_nouns_count_in_the_denominator() -> None:
    wanted = replace(SHIRT, name="shirt shirt shirt shirt shirt yoke", query="x", path=())
    assert type_reward(replace(SHIRT, name="yoke", query="y"), wanted) == 0.5  # 1/6, not 1/2


def test_options_are_compared_as_name_and_value() -> None:
    pair = goal(options=(("color", "navy blue"),))
    assert total(SHIRT, {"color": "navy blue"}, pair) == 1.0
    assert total(SHIRT, {"color": "red"}, pair) == pytest.approx(3 / 4)
    assert total(SHIRT, {"color": "dark navy"}, pair) == pytest.approx(3 / 4)  # read as "dark"
    assert total(SHIRT, {"color": "royal blue"}, pair) == 1.0  # read as "blue", which stands in the goal
    lone = goal(options=(("navy blue",),))
    assert total(SHIRT, {"color": "sky blue"}, lone) == 1.0


def test_upstream_reads_colours_inside_words() -> None:
    """ "standard" contains "tan": upstream does not reward choosing it, the mended rule does."""
    wanted = goal(options=(("size", "standard"),))
    assert total(SHIRT, {"size": "standard"}, wanted, upstream=True) == pytest.approx(3 / 4)
    assert total(SHIRT, {"size": "standard"}, wanted) == 1.0


def test_colours_are_in_upstream_order() -> None:
    assert len(COLORS) == 102
    assert all(a < b for a, b in pairwise(COLORS))


def indel_ratio(a: str, b: str) -> float:
    """100 * 2 LCS / (|a| + |b|), by dynamic programming."""
    row = [0] * (len(b) + 1)
    for x in a:
        new = [0]
        for j, y in enumerate(b):
            new.append(row[j] + 1 if x == y else max(row[j + 1], new[j]))
        row = new
    return 100 * 2 * row[-1] / (len(a) + len(b)) if a or b else 100.0


def token_set_ratio(a: str, b: str) -> float:
    """The definition: sorted shared tokens, alone and with either side's rest, compared pairwise."""
    left, right = set(a.split()), set(b.split())
    if not left or not right:
        return 0.0
    shared = " ".join(sorted(left & right))
    one = " ".join([shared, *sorted(left - right)]).strip()
    two = " ".join([shared, *sorted(right - left)]).strip()
    ratios = [indel_ratio(one, two)]
    if shared:
        ratios += [indel_ratio(shared, one), indel_ratio(shared, two)]
    return max(ratios)


WORDS = st.lists(st.text("abcd", min_size=1, max_size=4), max_size=4).map(" ".join)


@given(WORDS, WORDS)
def test_similarity_is_the_token_set_ratio(a: str, b: str) -> None:
    assert similarity(a, b) == pytest.approx(token_set_ratio(a, b), abs=0.51)


def test_similarity_processes_as_thefuzz_does() -> None:
    assert similarity("Machine-Washable!", "machine washable") == 100
    assert similarity("café", "caf") == 100  # Latin-1 letters are dropped
    assert similarity("!!!", "machine") == 0


def test_adjectives_of_small_titles_are_no_nouns() -> None:
    for kind in SMALL:
        for adjective in kind.adjectives:
            assert nouns(f"{adjective} {kind.nouns[0]}") == [kind.nouns[0]]


@pytest.mark.parametrize("vocabulary", ["small", "full"])
def test_every_goal_is_reached_by_its_own_product(vocabulary: str) -> None:
    catalogue = GeneratedCatalogue(vocabulary, 1000)
    for i in range(300):
        wanted = draw_goal(catalogue, task_rng("webshop", 0, i, 0), "upstream")
        assert total(wanted.product, {name: value for name, value in wanted.options}, wanted) == 1.0  # noqa: C416
        assert wanted.product.price < wanted.price_upper <= wanted.product.price + 40
        assert wanted.price_upper % 10 == 0
