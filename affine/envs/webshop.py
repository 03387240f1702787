"""WebShop: buy what an instruction asks for in a text-only web shop."""

from __future__ import annotations

import importlib.metadata
import random
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

from affine.envs.engines.webshop.catalogue import Catalogue, GeneratedCatalogue, Goal, Product, draw_goal
from affine.envs.engines.webshop.files import OriginalCatalogue
from affine.envs.engines.webshop.pages import BACK, BUY, DETAILS, DONE, NEXT, PREVIOUS, Layout, Page
from affine.envs.engines.webshop.reward import reward
from affine.envs.engines.webshop.search import SearchIndex, open_index
from affine.envs.env import Content, Env, EnvSettings, IdRange, Level, Prompt, StepResult, digest, task_rng
from affine.envs.react import last_action
from affine.types import Message, Task

LEVELS: dict[int, Level] = {
    0: Level(
        "1,000 products with titles of three words, 3 on a page, one option at most",
        8,
        {"shop": "small", "size": 1_000, "page": 3, "hits": 9, "wording": "short", "repeat": False, "details": False},
    ),
    1: Level(
        "5,000 products of the same words, so that price and options decide; 5 on a page",
        8,
        {"shop": "small", "size": 5_000, "page": 5, "hits": 20, "wording": "short", "repeat": False, "details": False},
    ),
    2: Level(
        "1,000 products with long titles; some wanted attributes stand only in Features or Description",
        12,
        {"shop": "full", "size": 1_000, "page": 5, "hits": 20, "wording": "short", "repeat": False, "details": True},
    ),
    3: Level(
        "upstream's pages, wording and search over 1,000 generated products; 10 turns, as AgentGym and the validators",
        10,
        {"shop": "full", "size": 1_000, "page": 10, "hits": 50, "wording": "upstream", "repeat": True, "details": True},
    ),
    4: Level(
        "the same with 10,000 products; 30 turns, as the validators later",
        30,
        {
            "shop": "full",
            "size": 10_000,
            "page": 10,
            "hits": 50,
            "wording": "upstream",
            "repeat": True,
            "details": True,
        },
    ),
    5: Level(
        "the same with 100,000 products (indexed once, on disk)",
        30,
        {
            "shop": "full",
            "size": 100_000,
            "page": 10,
            "hits": 50,
            "wording": "upstream",
            "repeat": True,
            "details": True,
        },
    ),
    6: Level(
        "the same with 1,000,000 products (indexed once, on disk)",
        30,
        {
            "shop": "full",
            "size": 1_000_000,
            "page": 10,
            "hits": 50,
            "wording": "upstream",
            "repeat": True,
            "details": True,
        },
    ),
    7: Level(
        "WebShop's own 1,000 products and synthetic goals, as AgentGym played (needs $WEBSHOP_DATA)",
        10,
        {"shop": "_1000", "goals": "synthetic", "page": 10, "hits": 50, "repeat": True, "details": True},
    ),
    8: Level(
        "WebShop's own 1.18 million products and human goals (needs $WEBSHOP_DATA)",
        30,
        {"shop": "", "goals": "human", "page": 10, "hits": 50, "repeat": True, "details": True},
    ),
}

PROMPTS = {
    "brief": Prompt("Buy what is asked with search[words] and click[button]. Reply: Action: ..."),
    "full": Prompt(
        "You shop in a text-only web shop. Each turn shows you a page, its parts separated by [SEP]; the instruction "
        "on it says what to buy, with which options and below which price.\n"
        "Two actions exist:\n"
        "search[words] - search the shop; only possible on the page with the Search field\n"
        "click[button] - press a button of the page: a product's code, an option value, Back to Search, < Prev, "
        "Next >, Description, Features, Reviews, or Buy Now\n"
        "Choose the options that are asked for before you press Buy Now, which ends the task. An action that the page "
        "does not allow changes nothing.\n"
        "Reply in this form:\n"
        "Thought: what you conclude from the page\n"
        "Action: one action, for example search[blue cotton shirt] or click[Buy Now]",
        "Ok.",
    ),
}

_BARE = re.compile(r"(?:search|click)\[[^\[\]\n]+\]", re.IGNORECASE)


@lru_cache(maxsize=4)
def catalogue_of(shop: str, size: int, goals: str) -> Catalogue:
    """The catalogue that a level's settings name, made once per process."""
    return GeneratedCatalogue(shop, size) if size else OriginalCatalogue(shop, human=goals == "human")


@lru_cache(maxsize=4)
def index_of(shop: str, size: int, goals: str) -> SearchIndex:
    """The search index of that catalogue, opened or built once per process."""
    return open_index(catalogue_of(shop, size, goals))


def read_command(reply: str) -> tuple[str, str] | None:
    """("search" or "click", argument in lower case) of a reply; None where it holds no such action.

    The action is the text after the last "Action:"; without that mark the last bare search[...] or
    click[...] counts. Its first line is read as upstream's pattern `(.+)\\[(.+)\\]` reads it, in linear time.
    """
    action = last_action(reply)
    if action is None:
        bare = _BARE.findall(reply)
        action = bare[-1] if bare else ""
    line = action.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 1, max(end - 1, 0))
    if start == -1:
        return None
    verb, argument = line[:start].strip().lower(), line[start + 1 : end].strip().lower()
    return (verb, argument) if verb in ("search", "click") and argument else None


class WebShop(Env):
    """WebShop (Yao et al., 2022) in text mode.

    Description: a shop with a search engine (BM25), result pages, item pages with options and, from level 2
    on, Description, Features and Reviews. Generated catalogues of 1,000 to a million products; the original
    data at levels 7 and 8, when the folder $WEBSHOP_DATA holds it.
    Task: buy a product of the asked kind with the asked attributes and options below the asked price. A task
    draws a product, one value per option and a price limit; tasks that ask for the same kind and attributes
    form a group. At levels 7 and 8 the id is the place in upstream's shuffled list of goals.
    Observation: the page's texts joined by " [SEP] ". Levels 0 and 1 show the instruction on the first page
    only and have no details pages.
    Actions: search[words] on the first page; click[button] elsewhere. Upper and lower case are equal. An
    action that the page does not allow (or none at all) leaves the page as it is and counts as invalid.
    Reward: 0 until Buy Now, then r_type * (matched attributes + matched options + price kept) / (their
    number + 1), see `webshop_reward`. The score is that reward; solved means 1.0.
    Episode end: Buy Now, or the turn limit (8 to 30). The validators had 10 in October 2025, as level 7, and went
    to 30 at a date that is not known; the range of November 2025 is played with 10. Which goals AgentGym trained on
    is not known: no range has its name.
    Expert: a rule-based shopper that reads only the pages.
    Upstream: AgentGym's wrapper of WebShop. Differences: search is tantivy's BM25 (k1 1.2, b 0.75), not
    Lucene's (0.9, 0.4); nouns come from a word list, not spaCy; prices of price ranges and price limits are
    drawn from a fixed seed; the hidden search prefixes <r>, <a>, <c>, <q> do not exist. Mode "upstream" keeps
    three defects that "fixed" mends: colours are recognised inside words when options are compared, "Next >"
    is shown behind the last page too (and leads to empty pages), chosen options are not marked.
    """

    name = "webshop"
    version = "1"
    levels: ClassVar[Mapping[int, Level]] = LEVELS
    prompts: ClassVar[Mapping[str, Prompt]] = PROMPTS
    id_ranges: ClassVar[Mapping[str, IdRange]] = {
        "affine-2025-10-27": IdRange(7, 0, 199, "the validators' goals from 27 October 2025"),
        "affine-2025-11-17": IdRange(7, 0, 499, "the validators' goals from 17 November 2025"),
    }

    def __init__(self, settings: EnvSettings | None = None) -> None:
        super().__init__(settings)
        self._fixed = self.settings.mode == "fixed"

    def size(self, level: int) -> int | None:
        """The number of goals of the original data; generated shops have no end."""
        catalogue = self._catalogue(level)
        return len(catalogue.goals) if isinstance(catalogue, OriginalCatalogue) else None

    def content(self, level: int, id: int, seed: int) -> Content | None:
        """`group` is the wish (kind and attributes), `key` adds product, options, price limit and shop."""
        size = self.size(level)
        if size is not None and id >= size:
            return None
        goal = self._goal(level, id, seed)
        return Content(digest(self._catalogue(level).key, goal.key()), goal.group())

    def task_type(self, level: int, id: int, seed: int) -> str:
        goal = self._goal(level, id, seed)
        return f"{len(goal.attributes)} attributes, {len(goal.options)} options"

    def engine(self) -> Mapping[str, str]:
        return {package: importlib.metadata.version(package) for package in ("rapidfuzz", "tantivy")}

    def reset(self, task: Task) -> list[Message]:
        self.check_task(task)
        settings = self.levels[task.level].settings
        self.task = task
        self._goal_now = self._goal(task.level, task.id, task.seed)
        self._shop = self._catalogue(task.level)
        self._index = index_of(*self._shop_key(task.level))
        self._layout = Layout(settings["page"], settings["repeat"], settings["details"], self._fixed)
        self._hits: list[int] = []
        self._number = 1
        self._product: Product | None = None
        self._chosen: dict[str, str] = {}
        self._score = 0.0
        self.page = self._layout.search(self._goal_now.instruction)
        return self.opening(self.page.text())

    def step(self, reply: str) -> StepResult:
        if self.page is DONE:
            return StepResult(self.page.text(), 0.0, True, False)
        command = read_command(reply)
        valid = command is not None and self._do(*command)
        done = self.page is DONE
        return StepResult(self.page.text(), self._score if done else 0.0, done, valid)

    def score(self) -> float:
        return self._score

    def solved(self) -> bool:
        return self._score == 1.0

    @property
    def instruction(self) -> str:
        """What the first page asks for."""
        return self._goal_now.instruction

    def _shop_key(self, level: int) -> tuple[str, int, str]:
        settings = self.levels[level].settings
        return settings["shop"], settings.get("size", 0), settings.get("goals", "")

    def _catalogue(self, level: int) -> Catalogue:
        return catalogue_of(*self._shop_key(level))

    def _goal(self, level: int, id: int, seed: int) -> Goal:
        catalogue = self._catalogue(level)
        if isinstance(catalogue, OriginalCatalogue):
            return catalogue.goals[id]
        return draw_goal(catalogue, task_rng(self.name, level, id, seed), self.levels[level].settings["wording"])

    def _do(self, verb: str, argument: str) -> bool:
        """Carry out a command; False where the page does not allow it."""
        if verb == "search":
            if self.page.kind != "search":
                return False
            self._hits = self._index.search(argument, self.levels[self.task.level].settings["hits"])
            self._show_results(1)
            return True
        button = next((button for button in self.page.buttons if button.lower() == argument), None)
        if button is None:
            return False
        self._press(button, self.page)
        return True

    def _press(self, button: str, page: Page) -> None:
        goal = self._goal_now
        if button == BACK:
            self.page = self._layout.search(goal.instruction)
        elif page.kind == "results":
            if button in (NEXT, PREVIOUS):
                self._show_results(self._number + (1 if button == NEXT else -1))
            else:
                self._open(button)
        elif page.kind == "details":
            self._show_item()
        elif button == PREVIOUS:
            self._show_results(self._number)
        elif self._product is not None:
            self._press_on_item(button, self._product)

    def _press_on_item(self, button: str, product: Product) -> None:
        if button == BUY:
            self._score = reward(product, self._chosen, self._goal_now, substring_colors=not self._fixed).total
            self.page = DONE
        elif button in DETAILS and self._layout.details:
            self.page = self._layout.detail(self._goal_now.instruction, product, button)
        else:
            axis = next(name for name, values in product.options if button in values)
            self._chosen[axis] = button
            self._show_item()

    def _show_results(self, number: int) -> None:
        """Show results page `number`; what was chosen on an item is forgotten, as upstream does."""
        self._number, self._chosen = number, {}
        size = self._layout.page_size
        hits = [self._shop.product(i) for i in self._hits[(number - 1) * size : number * size]]
        self.page = self._layout.results(self._goal_now.instruction, hits, len(self._hits), number)

    def _open(self, asin: str) -> None:
        hits = (self._shop.product(i) for i in self._hits)
        self._product = next(hit for hit in hits if hit.asin == asin)
        self._show_item()

    def _show_item(self) -> None:
        assert self._product is not None
        self.page = self._layout.item(self._goal_now.instruction, self._product, self._chosen)


def random_command(page: Page, words: list[str], rng: random.Random) -> str:
    """A search for one to three of `words` where the page can search, else a click on any of its buttons."""
    if page.kind == "search":
        return f"search[{' '.join(rng.sample(words, min(len(words), rng.randint(1, 3))))}]"
    return f"click[{rng.choice(page.buttons)}]"
