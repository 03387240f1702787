"""A rule-based shopper for WebShop. It sees what an agent sees: the pages, and nothing of the goal or index.

It searches for the words of the instruction, opens affordable results in the order of how many wanted words
their titles hold, looks for missing words in Features and Description, picks the options and buys the first
product that shows everything, or the best one seen when turns run short.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from affine.envs.env import Env, Expert, GaveUp, Move, StepResult
from affine.envs.webshop import WebShop, random_command, read_command
from affine.envs.webshop_pages import BACK, BUY, NEXT, PREVIOUS, Page, Row

SUCCESS: dict[int, float] = {0: 0.9}

MAX_PAGES = 2
"""Result pages it reads before it settles for what it has seen."""

_PRICE = re.compile(r",? (?:and )?price lower than (\d+(?:\.\d+)?)(?: dollars)?$")
_PAIR = re.compile(r"([^:]+): (.+)")
_WORD = re.compile(r"[a-z0-9]+")
_FILLER = frozenset(
    """
    a am an and are as be buy find for i in is it like looking me my need of on or pair please set show some that the to want
    which with would
    """.split()
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What an instruction asks for: words to find, options by name, the price limit (None: no limit)."""

    words: tuple[str, ...]
    options: dict[str, str]
    limit: float | None

    def affordable(self, price_tag: str) -> bool:
        """Whether the (lowest) price shown is within the limit."""
        return self.limit is None or float(price_tag.split(" to ")[0].lstrip("$")) <= self.limit


def read_instruction(text: str) -> Wish:
    """The wish behind an instruction in either of the generated wordings; of others the words and price."""
    price = _PRICE.search(text)
    rest = text[: price.start()] if price else text
    options: dict[str, str] = {}
    if ": " in rest:  # "... with size: large, and color: red"
        rest, _, pairs = rest.rpartition(" with ")
        options = {m[1].strip(): m[2].strip() for m in map(_PAIR.fullmatch, pairs.split(", and ")) if m}
    elif ", " in rest:  # "..., size large, color red"
        rest, *short = rest.split(", ")
        options = {name: value for name, _, value in (pair.partition(" ") for pair in short)}
    words = dict.fromkeys(word for word in _WORD.findall(rest.lower()) if word not in _FILLER)
    return Wish(tuple(words), options, float(price[1]) if price else None)


@dataclass(slots=True)
class Seen:
    """What is known of one product: the wanted words still missing, the details read, and a verdict."""

    row: Row
    missing: frozenset[str]
    read: list[str] = field(default_factory=list)
    rejected: bool = False
    opened: bool = False


class Shopper(Expert):
    """See the module."""

    def __init__(self, env: WebShop) -> None:
        self._env = env
        self._wish = read_instruction(env.instruction)
        self._seen: dict[str, Seen] = {}
        self._chosen: dict[str, str] = {}
        self._turns = 0
        self._searched: frozenset[str] = frozenset()
        self._number = 1
        self._asin = ""
        self._page = env.page

    def act(self) -> Move:
        page = self._env.page
        if page.kind == "search":
            return self._search()
        if page.kind == "results":
            return self._choose(page)
        if page.kind == "item":
            return self._judge(page)
        if page.kind == "details":
            return Move(f"I have read the {page.details.lower()} and go back to the item.", f"click[{PREVIOUS}]")
        raise GaveUp("webshop: the episode is over")

    def wander(self, rng: random.Random) -> Move:
        words = _WORD.findall(self._env.instruction.lower())
        return Move("I try something.", random_command(self._env.page, words, rng))

    def observe(self, action: str, result: StepResult) -> None:
        self._turns += 1
        before, self._page = self._page, self._env.page
        command = read_command(f"Action: {action}")
        if command is None or not result.valid:
            return
        verb, argument = command
        if verb == "search":
            self._searched, self._number = frozenset(_WORD.findall(argument)), 1
        elif before.kind == "results":
            self._number += {NEXT.lower(): 1, PREVIOUS.lower(): -1}.get(argument, 0)
        elif before.kind == "item":
            for name, values in before.options:
                if argument in values:
                    self._chosen[name] = argument
        self._take_in(self._page)

    def _take_in(self, page: Page) -> None:
        """Remember what the page shows of products."""
        if page.kind in ("search", "results"):
            self._chosen = {}
        for row in page.rows:
            if row.asin not in self._seen:
                self._seen[row.asin] = Seen(row, self._missing(self._wish.words, row.title))
        if page.kind == "item" and page.row is not None:
            self._asin = page.row.asin
            self._seen[self._asin].opened = True
        if page.kind == "details":
            item = self._seen[self._asin]
            item.read.append(page.details)
            item.missing = frozenset(self._missing(item.missing, page.text()))

    @staticmethod
    def _missing(words: frozenset[str] | tuple[str, ...], text: str) -> frozenset[str]:
        found = set(_WORD.findall(text.lower()))
        return frozenset(word for word in words if word not in found)

    def _search(self) -> Move:
        query = [*self._wish.words, *(v for v in self._wish.options.values() if self._env.task.level > 1)]
        return Move("I search for all that is wanted.", f"search[{' '.join(query)}]")

    def _turns_left(self) -> int:
        return self._env.turn_limit - self._turns

    def _choose(self, page: Page) -> Move:
        """On a results page: open the best product that was not turned down, look on, or search again."""
        here = [self._seen[row.asin] for row in page.rows]
        fresh = [s for s in here if not s.rejected and not s.opened and self._wish.affordable(s.row.price_tag)]
        best = min(fresh, key=lambda s: len(s.missing), default=None)
        to_buy = 2 + len(self._wish.options)
        if best is not None and not best.missing:
            return self._open(best)
        if not self._searched.issuperset(self._wish.words) and self._turns_left() > to_buy + 2:
            return Move("That search was not for all the words.", f"click[{BACK}]")
        kept = [s for s in here if s.opened and not s.rejected]
        pool = fresh if self._turns_left() > to_buy + 1 and fresh else kept or fresh
        if NEXT in page.buttons and self._number < MAX_PAGES and self._turns_left() > to_buy and not self._good(pool):
            return Move("Nothing here fits well enough, I look on.", f"click[{NEXT}]")
        best = min(pool, key=lambda s: len(s.missing), default=None)
        if best is not None:
            return self._open(best)
        if self._number > 1:
            return Move("Nothing here fits, I go back a page.", f"click[{PREVIOUS}]")
        raise GaveUp("webshop: no affordable result")

    def _good(self, pool: list[Seen]) -> bool:
        return any(len(s.missing) <= len(self._wish.words) // 2 for s in pool)

    def _open(self, item: Seen) -> Move:
        price = item.row.price_tag
        limit = "" if self._wish.limit is None else f", not above {self._wish.limit:.0f}"
        return Move(f"{item.row.asin} costs {price}{limit}.", f"click[{item.row.asin}]")

    def _judge(self, page: Page) -> Move:
        """On an item page: turn it down, read on about it, pick an option, or buy."""
        assert page.row is not None
        item = self._seen[page.row.asin]
        wanted = self._wanted_options(page)
        open_choices = {name: value for name, value in wanted.items() if self._chosen.get(name) != value}
        spare = self._turns_left() - len(open_choices) - 1
        why = self._against(page, wanted)
        if why and spare >= 3:
            item.rejected = True
            return Move(why, f"click[{PREVIOUS}]")
        if item.missing and spare >= 2:
            unread = [d for d in ("Features", "Description") if d in page.buttons and d not in item.read]
            if unread:
                return Move(f"I see nothing of {sorted(item.missing)[0]} yet.", f"click[{unread[0]}]")
        if item.missing and spare >= 4 and not item.rejected:
            item.rejected = True
            return Move(f"It does not say {sorted(item.missing)[0]}.", f"click[{PREVIOUS}]")
        for name, value in open_choices.items():
            return Move(f"The {name} must be {value}.", f"click[{value}]")
        return Move("This is what is wanted.", f"click[{BUY}]")

    def _against(self, page: Page, wanted: dict[str, str]) -> str:
        """Why not to buy this item, from its page; "" where nothing speaks against it."""
        assert page.row is not None
        if not self._wish.affordable(page.row.price_tag):
            return f"{page.row.price_tag} is too much."
        for name, value in self._wish.options.items():
            if wanted.get(name) != value:
                return f"There is no {name} {value} here."
        return ""

    def _wanted_options(self, page: Page) -> dict[str, str]:
        """The values to choose: those asked for by name, else those that the instruction's words contain."""
        words = set(self._wish.words)
        chosen = {}
        for name, values in page.options:
            asked = self._wish.options.get(name)
            if asked in values:
                chosen[name] = asked
            elif named := [v for v in values if words.issuperset(_WORD.findall(v))]:
                chosen[name] = named[0]
        return chosen


def expert(env: Env, rng: random.Random) -> Expert:
    """The shopper for the task `env` was last reset to; it needs no randomness of its own."""
    assert isinstance(env, WebShop)
    return Shopper(env)
