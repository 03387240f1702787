"""WebShop: catalogues, search, pages, actions, modes, expert, the original files."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affine.collect.play import play
from affine.envs import webshop
from affine.envs.engines.webshop import search as webshop_search
from affine.envs.engines.webshop.catalogue import GeneratedCatalogue, Product
from affine.envs.engines.webshop.files import OriginalCatalogue
from affine.envs.engines.webshop.pages import Layout
from affine.envs.engines.webshop.search import open_index
from affine.envs.env import EnvError, EnvSettings, make, make_expert
from affine.envs.webshop import WebShop, read_command
from affine.envs.webshop_expert import SUCCESS, read_instruction
from affine.types import Split, StopReason, Task


def task(level: int, id: int, seed: int = 0) -> Task:
    return Task("webshop", level, id, seed, Split.TEST)


def started(level: int = 0, id: int = 0, mode: str = "fixed") -> WebShop:
    env = WebShop(EnvSettings(mode=mode))  # type: ignore[arg-type]
    env.reset(task(level, id))
    return env


# --- catalogues -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", ["small", "full"])
def test_products_do_not_depend_on_the_order_they_are_asked_for(vocabulary: str) -> None:
    catalogue = GeneratedCatalogue(vocabulary, 500)
    backwards = [catalogue.product(i) for i in reversed(range(500))]
    assert backwards[::-1] == list(GeneratedCatalogue(vocabulary, 500).stream())
    assert catalogue.key != GeneratedCatalogue(vocabulary, 501).key


def test_identifiers_are_distinct() -> None:
    for catalogue, length in ((GeneratedCatalogue("small", 1000), 4), (GeneratedCatalogue("full", 20_000), 10)):
        asins = [product.asin for product in catalogue.stream()]
        assert len(set(asins)) == len(asins)
        assert {len(asin) for asin in asins} == {length}


def test_option_values_of_a_product_are_distinct_buttons() -> None:
    for product in GeneratedCatalogue("full", 3000).stream():
        values = [value for _, axis in product.options for value in axis]
        assert len(set(values)) == len(values)
        assert set(product.wish_attributes) <= set(product.attributes)


def test_level_0_has_enough_tasks_disjoint_by_wish() -> None:
    env = WebShop()
    contents = [env.content(0, id, 0) for id in range(3000)]
    parts: dict[str, set[str]] = {"train": set(), "test": set()}
    for content in contents:
        assert content is not None
        share = int(content.group, 16) / 16**16
        if share < 0.6 or share >= 0.7:
            parts["train" if share < 0.6 else "test"].add(content.key)
    assert len(parts["train"]) >= 500
    assert len(parts["test"]) >= 200
    assert len({content.group for content in contents if content}) >= 200


def test_group_is_the_wish_and_key_the_whole_goal() -> None:
    env = WebShop()
    by_wish: dict[str, set[str]] = {}
    for id in range(400):
        content = env.content(0, id, 0)
        env.reset(task(0, id))
        wish = env.instruction.split(",")[0]
        assert content is not None
        by_wish.setdefault(wish, set()).add(content.group)
    assert all(len(groups) == 1 for groups in by_wish.values())
    assert len(set.union(*by_wish.values())) == len(by_wish)


# --- search ---------------------------------------------------------------------------------------------


def bm25(documents: list[list[str]], query: list[str]) -> list[float]:
    """Okapi BM25 as its textbook formula, k1 = 1.2, b = 0.75."""
    mean = sum(map(len, documents)) / len(documents)
    counts = [Counter(document) for document in documents]
    scores = [0.0] * len(documents)
    for word in query:
        df = sum(word in count for count in counts)
        idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
        for i, (count, document) in enumerate(zip(counts, documents, strict=True)):
            tf = count[word]
            scores[i] += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(document) / mean))
    return scores


@pytest.mark.parametrize("query", ["warm wool scarf", "soft cotton pillow red", "modern steel lamp size large"])
def test_search_ranks_by_bm25_and_then_by_position(query: str) -> None:
    catalogue = GeneratedCatalogue("small", 1000)
    documents = [
        p.document().replace(":", " ").replace(",", " ").split() for p in catalogue.stream()
    ]  # no two words of this vocabulary share a stem
    scores = bm25(documents, query.split())
    expected = sorted(range(1000), key=lambda i: (-round(scores[i], 4), i))[:50]
    assert open_index(catalogue).search(query, 50) == expected


def test_no_character_makes_a_query_fail() -> None:
    """Whatever the index's tokenizer cuts a word at: an underscore once made it a phrase, and the search an error."""
    index = open_index(GeneratedCatalogue("small", 1000))
    assert index.search("warm_wool_scarf", 9) == index.search("warm wool scarf", 9) != []
    characters = [chr(code) for code in range(0x20, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(characters), 60):
        index.search(" ".join(f"a{character}b" for character in characters[start : start + 60]), 5)
    assert index.search("_", 5) == []


def test_search_reads_words_only() -> None:
    index = open_index(GeneratedCatalogue("small", 1000))
    plain = index.search("warm wool scarf", 9)
    assert index.search('WARM: +"wool" AND^2 (scarf', 9) == index.search("warm wool and 2 scarf", 9)
    assert index.search("Warm, wool - scarf!", 9) == plain
    assert index.search("text:* [a TO z] \ud800 \x00", 9) == index.search("text a to z", 9)
    assert index.search("!!! ---", 9) == []
    assert index.search("zzzz", 9) == []
    assert len(index.search("wool " * 100_000, 9)) == 9


def test_disk_index_answers_like_the_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = GeneratedCatalogue("full", 800)
    queries = ["cotton dress shirt", "machine washable", "water bottle leak proof 6 count"]
    in_memory = [open_index(catalogue).search(query, 50) for query in queries]
    monkeypatch.setattr(webshop_search, "IN_MEMORY", 10)
    monkeypatch.setenv("AFFINE_CACHE", str(tmp_path))
    for _ in range(2):  # built, then opened
        index = open_index(catalogue)
        assert [index.search(query, 50) for query in queries] == in_memory
    assert [path.name for path in tmp_path.iterdir()] == [f"webshop-{catalogue.key}"]


def test_a_broken_build_leaves_nothing_and_a_wrong_index_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(GeneratedCatalogue):
        def stream(self) -> Iterator[Product]:
            yield self.product(0)
            raise RuntimeError("power cut")

    monkeypatch.setattr(webshop_search, "IN_MEMORY", 10)
    monkeypatch.setenv("AFFINE_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match="power cut"):
        open_index(Broken("small", 100))
    assert list(tmp_path.iterdir()) == []
    longer, catalogue = GeneratedCatalogue("small", 120), GeneratedCatalogue("small", 100)
    open_index(longer)
    (tmp_path / f"webshop-{longer.key}").rename(tmp_path / f"webshop-{catalogue.key}")
    with pytest.raises(EnvError, match="120 of 100 products"):
        open_index(catalogue)


# --- pages and actions ----------------------------------------------------------------------------------

MUG = Product(
    "B0MUG",
    "Tall Mug",
    "mug",
    ("Home", "Mugs"),
    "A mug.",
    ("Holds coffee.", "Holds tea."),
    ("tall",),
    (("color", ("red", "blue")), ("size", ("small", "large"))),
    9.5,
    "$9.5",
    "4.5",
    ("Good - 5.0 - Nice.",),
)


def test_pages_show_what_upstream_shows() -> None:
    layout = Layout(page_size=2, fixed=False)
    assert layout.search("buy a mug").text() == "WebShop [SEP] Instruction: [SEP] buy a mug [SEP] Search"
    head = "Instruction: [SEP] buy a mug [SEP] Back to Search [SEP] "
    assert layout.results("buy a mug", [MUG], 3, 2).text() == (
        head + "Page 2 (Total results: 3) [SEP] < Prev [SEP] Next > [SEP] B0MUG [SEP] Tall Mug [SEP] $9.5"
    )
    item = layout.item("buy a mug", MUG, {"color": "red"})
    assert item.text() == (
        head + "< Prev [SEP] color [SEP] red [SEP] blue [SEP] size [SEP] small [SEP] large [SEP] Tall Mug [SEP] "
        "Price: $9.5 [SEP] Rating: 4.5 [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    )
    assert layout.detail("buy a mug", MUG, "Features").text() == head + "< Prev [SEP] Holds coffee. [SEP] Holds tea."


def test_fixed_pages_mark_choices_and_end_where_the_results_end() -> None:
    layout = Layout(page_size=2, repeat=False, details=False)
    assert "Next >" not in layout.results("x", [MUG], 3, 2).buttons
    assert "Next >" in layout.results("x", [MUG, MUG], 3, 1).buttons
    item = layout.item("x", MUG, {"color": "red"})
    assert "red (selected)" in item.texts
    assert "red" in item.buttons
    assert "Rating: 4.5" not in item.texts


@pytest.mark.parametrize(
    ("reply", "command"),
    [
        ("Action: search[Red Mug]", ("search", "red mug")),
        ("Thought: x\nAction: click[a]\nAction: Click[Buy Now]", ("click", "buy now")),
        ("I think search[mug] is best", ("search", "mug")),
        ("search[mug] then click[b1]", ("click", "b1")),
        ("Action: I click[b1]", None),
        ("Action: buy now", None),
        ("Action: click[]", None),
        ("Action: click[ ]", None),
        ("search[mug]\nAction: wait", None),
        ("", None),
        ("go to red door 1", None),
    ],
)
def test_reading_actions(reply: str, command: tuple[str, str] | None) -> None:
    assert read_command(reply) == command


@given(st.text("click[] ab\n", max_size=12))
def test_actions_are_read_as_upstreams_pattern_reads_them(action: str) -> None:
    match = re.match(r"(.+)\[(.+)\]", action.strip())
    expected = (match[1].strip(), match[2].strip()) if match else ("", "")
    known = expected[0] == "click" and expected[1] != ""
    assert read_command(f"Action: {action}") == (expected if known else None)


def buy_with_expert(env: WebShop) -> None:
    """Play the expert, checking that the reward comes with the purchase and not before."""
    expert = make_expert(env, random.Random(0))
    for _ in range(env.turn_limit):
        action = expert.act().action
        result = env.step(f"Action: {action}")
        expert.observe(action, result)
        assert result.valid
        if result.done:
            assert result.reward == env.score() == 1.0
            assert env.solved()
            return
        assert result.reward == env.score() == 0.0
    raise AssertionError("never bought")


def test_an_episode_ends_with_buy_now_and_not_before() -> None:
    env = started()
    buy_with_expert(env)
    again = env.step("Action: click[Buy Now]")
    assert (again.done, again.valid, again.reward) == (True, False, 0.0)
    assert env.score() == 1.0
    env.reset(task(0, 1))
    assert env.score() == 0.0


def test_actions_that_the_page_does_not_allow_change_nothing() -> None:
    env = started(level=3)
    first = env.page
    for action in ("click[Buy Now]", "click[Search]", "click[Back to Search]", "click[b001]", "search[]", "look"):
        result = env.step(f"Action: {action}")
        assert (result.observation, result.valid, result.done) == (first.text(), False, False)
    env.step("Action: search[cotton shirt]")
    results = env.page
    for action in ("search[other]", "click[Description]", "click[< Prev]", "click[Page 1]"):
        assert not env.step(f"Action: {action}").valid
        assert env.page is results
    assert env.step(f"Action: CLICK[{results.rows[0].asin.lower()}]").valid
    assert env.page.kind == "item"
    assert env.step("Action: click[features]").valid
    assert not env.step("Action: click[buy now]").valid
    assert env.step("Action: click[< prev]").valid
    assert env.page.kind == "item"


def test_choices_are_kept_on_details_pages_and_lost_on_the_results_page() -> None:
    env = started(level=3)
    expert_words = " ".join(read_instruction(env.instruction).words)
    env.step(f"Action: search[{expert_words}]")
    for row in env.page.rows:
        env.step(f"Action: click[{row.asin}]")
        if env.page.options:
            break
        env.step("Action: click[< Prev]")
    asin, value = env.page.row.asin, env.page.options[0][1][0]  # type: ignore[union-attr]
    env.step(f"Action: click[{value}]")
    env.step("Action: click[Features]")
    env.step("Action: click[< Prev]")
    assert f"{value} (selected)" in env.page.texts
    env.step("Action: click[< Prev]")
    env.step(f"Action: click[{asin}]")
    assert f"{value} (selected)" not in env.page.texts


def test_next_leads_past_the_end_in_upstream_mode_only() -> None:
    pages = {}
    for mode in ("upstream", "fixed"):
        env = started(mode=mode)
        env.step("Action: search[wool]")
        pages[mode] = [env.step("Action: click[Next >]").valid for _ in range(4)]
    assert pages == {"upstream": [True] * 4, "fixed": [True, True, False, False]}  # 9 hits, 3 on a page


REPLIES = st.one_of(
    st.text(),
    st.text(st.characters(codec=None), max_size=30).map(lambda text: f"Action: search[{text}]"),
    st.sampled_from(
        [
            "Action: search[wool]",
            "Action: click[Next >]",
            "Action: click[< Prev]",
            "Action: click[red]",
            "Action: turn left",
            "<INPUT>3</INPUT>",
            "x1=True",
            "Action: search[" + "[" * 50,
            "\x00\ud800Action: click[\udfff]",
        ]
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(REPLIES, max_size=8))
def test_any_reply_gets_an_observation(replies: list[str]) -> None:
    env = started()
    for reply in replies:
        result = env.step(reply)
        assert result.observation
        assert not result.done
        assert env.score() == 0.0


def test_a_huge_reply_is_read() -> None:
    env = started()
    assert env.step("Action: search[" + "wool " * 200_000 + "]").valid
    assert not env.step("Action: " + "click[" * 100_000).valid


def test_tasks_that_do_not_exist_are_refused() -> None:
    with pytest.raises(EnvError, match="no level 99"):
        WebShop().reset(task(99, 0))
    with pytest.raises(EnvError, match="got a task of 'sat'"):
        WebShop().reset(Task("sat", 0, 0, 0, Split.TEST))


# --- expert ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "tasks"), [(0, 20), (1, 20), (2, 40), (3, 40), (4, 20)])
@pytest.mark.parametrize("mode", ["fixed", "upstream"])
def test_expert_succeeds_as_documented(level: int, tasks: int, mode: str) -> None:
    env = WebShop(EnvSettings(mode=mode))  # type: ignore[arg-type]
    solved = [play(env, task(level, id, seed=3), random.Random(id)).solved for id in range(tasks)]
    assert sum(solved) / tasks >= SUCCESS[level] - 0.1


def test_demonstrations_at_level_0_are_short() -> None:
    env = WebShop()
    for id in range(50):
        trajectory = play(env, task(0, id), random.Random(id), style="thought")
        assert trajectory.stop is StopReason.SOLVED
        assert len(trajectory.turns) <= 5
        assert all(len(turn.text.split("\n")[0].split()) <= 13 for turn in trajectory.turns)
        text = [message.content for message in trajectory.opening]
        text += [turn.text + " " + turn.observation for turn in trajectory.turns]
        assert len(" ".join(text).split()) <= 200


def test_expert_finds_back_after_wandering() -> None:
    env = WebShop()
    noisy = [play(env, task(0, id), random.Random(id), noise=0.3) for id in range(60)]
    detours = [t for t in noisy if t.solved and len(t.turns) > 4]
    assert len(detours) >= 5
    assert sum(t.solved for t in noisy) >= 40


def test_random_play_scores_a_little() -> None:
    env = WebShop()
    scores = []
    for id in range(100):
        env.reset(task(0, id))
        rng = random.Random(id)
        expert = make_expert(env, rng)
        for _ in range(env.turn_limit):
            move = expert.wander(rng)
            result = env.step(env.format(move.thought, move.action, "action"))
            expert.observe(move.action, result)
            assert result.valid
            if result.done:
                break
        scores.append(env.score())
    assert 0.05 <= sum(scores) / 100 <= 0.4


def test_reading_instructions() -> None:
    short = read_instruction("warm wool scarf, size large, price lower than 40")
    assert (short.words, short.options, short.limit) == (("warm", "wool", "scarf"), {"size": "large"}, 40.0)
    long = read_instruction(
        "i need a tea that is nut free and low carb with flavor: salted caramel, and pack: 6 count, "
        "and price lower than 20.00 dollars"
    )
    assert long.words == ("tea", "nut", "free", "low", "carb")
    assert long.kind == {"tea"}
    assert long.attributes == (("nut", "free"), ("low", "carb"))
    assert (long.options, long.limit) == ({"flavor": "salted caramel", "pack": "6 count"}, 20.0)
    assert read_instruction("find me a chew toy").limit is None


DIGEST = """
import hashlib, random
from affine.collect.play import play
from affine.envs.env import make
from affine.types import Split, Task, to_json
env, text = make("webshop"), ""
for level in (0, 3):
    for id in range(6):
        text += to_json(play(env, Task("webshop", level, id, 7, Split.TEST), random.Random(id), noise=0.3))
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_same_bytes_in_any_process_and_order() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "42")
    }
    assert len(digests) == 1
    env, other = make("webshop"), make("webshop")
    alone = play(env, task(3, 5), random.Random(1))
    other.reset(task(0, 9))
    other.step("Action: search[wool]")
    assert play(env, task(3, 5), random.Random(1)) == alone


# --- the original files ---------------------------------------------------------------------------------

ITEMS = [
    {
        "asin": "B000000001",
        "name": "Blue Mug",
        "full_description": "Big.",
        "small_description": ["Dishwasher safe", "Tall"],
        "pricing": "$1,010.00",
        "category": "home",
        "query": " Mugs ",
        "product_category": "Home › Kitchen › Mugs",
        "images": ["u"],
        "customization_options": {"Color": [{"value": "Red/Blue "}, {"value": "White"}], "size": None},
    },
    {
        "asin": "B000000002",
        "name": "Green Bowl",
        "full_description": "Small.",
        "small_description": "Deep",
        "pricing": "$10.00 to $30.50",
        "category": "home",
        "query": "bowls",
        "product_category": "Home › Kitchen › Bowls",
        "images": ["u"],
        "customization_options": None,
    },
    {"asin": "B0000000000", "name": "identifier too long"},
    {"asin": "B000000002", "name": "twice"},
]
ATTRIBUTES = {
    "B000000001": {
        "attributes": ["dishwasher safe"],
        "instruction": "i want a mug",
        "instruction_attributes": ["tall"],
    },
}
HUMAN = {
    "B000000002": [
        {"instruction": "get me a bowl.", "instruction_attributes": ["deep"], "instruction_options": ["green"]},
        {"instruction": "nothing asked", "instruction_attributes": [], "instruction_options": []},
    ]
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, content in (
        ("items_shuffle_1000.json", ITEMS),
        ("items_ins_v2_1000.json", ATTRIBUTES),
        ("items_shuffle.json", ITEMS),
        ("items_ins_v2.json", ATTRIBUTES),
        ("items_human_ins.json", HUMAN),
    ):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setenv("WEBSHOP_DATA", str(tmp_path))
    webshop.catalogue_of.cache_clear()
    webshop.index_of.cache_clear()
    yield tmp_path
    webshop.catalogue_of.cache_clear()
    webshop.index_of.cache_clear()


def test_original_products_are_read_as_upstream_reads_them(data: Path) -> None:
    catalogue = OriginalCatalogue("_1000", human=False)
    mug, bowl = catalogue.stream()
    assert mug.options == (("color", ("red | blue", "white")),)
    assert (mug.price, mug.price_tag, mug.query, mug.path) == (1010.0, "$1010.0", "mugs", ("Home", "Kitchen", "Mugs"))
    assert mug.document() == "blue mug big. dishwasher safe color: red | blue, white"
    assert bowl.attributes == ("DUMMY_ATTR",)
    assert 10 <= bowl.price <= 30.5
    assert (bowl.price_tag, bowl.bullets) == ("$10.0 to $30.5", ("Deep",))
    assert {goal.instruction for goal in catalogue.goals} == {
        "i want a mug with color: red | blue",  # no price limit above 990
        "i want a mug with color: white",
    }
    assert OriginalCatalogue("_1000", human=False).goals == catalogue.goals


def test_original_goals_are_played(data: Path) -> None:
    env = WebShop()
    assert env.size(7) == 2
    assert env.content(7, 2, 0) is None
    env.reset(task(7, 0))
    env.step("Action: search[mug]")
    env.step("Action: click[B000000001]")
    env.step(f"Action: click[{env.instruction.partition('color: ')[2]}]")
    assert env.step("Action: click[Buy Now]").reward == 1.0
    assert env.size(8) == 1
    env.reset(task(8, 0))
    assert env.instruction.startswith("get me a bowl, and price lower than ")
    with pytest.raises(EnvError, match="ids 0 to 0"):
        env.reset(task(8, 1))


def test_missing_or_wrong_files_are_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "items_shuffle.json").write_text("{}", encoding="utf-8")
    with pytest.raises(EnvError, match=r"items_shuffle\.json holds a dict, not a list"):
        OriginalCatalogue("", human=True)
    (data / "items_shuffle.json").write_text("[", encoding="utf-8")
    with pytest.raises(EnvError, match=r"items_shuffle\.json is not JSON"):
        OriginalCatalogue("", human=True)
    (data / "items_shuffle.json").write_text('[{"asin": "B1"}]', encoding="utf-8")
    with pytest.raises(EnvError, match=r"product B1 in .* has no 'small_description'"):
        OriginalCatalogue("", human=True)
    (data / "items_ins_v2.json").unlink()
    with pytest.raises(EnvError, match=r"items_ins_v2\.json is missing"):
        OriginalCatalogue("", human=True)
    monkeypatch.delenv("WEBSHOP_DATA")
    with pytest.raises(EnvError, match="set WEBSHOP_DATA"):
        WebShop().content(7, 0, 0)
