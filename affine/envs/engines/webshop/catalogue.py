"""WebShop's products and goals, and the catalogues that are generated rather than loaded.

A generated catalogue is a pure function of its vocabulary and position: product `i` is made when it is
asked for, so that a shop of a million products needs no memory for them and a stream of them no list.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

from affine.envs.engines.webshop.vocabulary import BRANDS, FULL, PRAISE, REVIEWS, SMALL, WISHES
from affine.envs.env import digest

VERSION = "1"
"""Raise it whenever generated products change: it is in every catalogue's key."""

NO_UPPER_PRICE = 1_000_000.0
"""What upstream sets as price limit where it names none."""

Wording = Literal["short", "upstream"]
Options = tuple[tuple[str, tuple[str, ...]], ...]
"""Option axes in page order: (name, values), all lower-case."""


@dataclass(frozen=True, slots=True)
class Product:
    """One product. `path` are the elements of its category path; `query` the search it was found by.

    `wish` is the instruction that asks for it ("" where it has none) and `wish_attributes` the attributes
    which that instruction names. `price` is in dollars, `price_tag` how the pages show it.
    """

    asin: str
    name: str
    query: str
    path: tuple[str, ...]
    description: str
    bullets: tuple[str, ...]
    attributes: tuple[str, ...]
    options: Options
    price: float
    price_tag: str
    rating: str = "N.A."
    reviews: tuple[str, ...] = ()
    wish: str = ""
    wish_attributes: tuple[str, ...] = ()

    def document(self) -> str:
        """The text that the search index holds: title, description, first bullet, options."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options)
        return " ".join((self.name, self.description, *self.bullets[:1], options)).lower()


@dataclass(frozen=True, slots=True)
class Goal:
    """What to buy: `product` is the one that the goal was made from (others may do as well).

    `options` are the wanted options: (name, value) pairs in synthetic goals, (value,) in human ones.
    """

    product: Product
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    price_upper: float

    def key(self) -> str:
        """Hash of everything the goal consists of."""
        return digest(self.product.asin, self.instruction, self.attributes, self.options, self.price_upper)

    def group(self) -> str:
        """Hash of the wish alone (type and attributes), whatever the options and the price limit."""
        return digest(self.product.query, *sorted(self.attributes))


class Catalogue(Protocol):
    """Products by position (0 … len-1). `key` changes with their content."""

    key: str

    def __len__(self) -> int: ...

    def product(self, i: int) -> Product:
        """The product at position `i`."""

    def stream(self) -> Iterator[Product]:
        """All products in order, without keeping them."""


class GeneratedCatalogue:
    """`size` products of one vocabulary ("small" or "full"). A longer catalogue begins with the shorter one's products,
    except that short identifiers grow with the size."""

    def __init__(self, vocabulary: str, size: int) -> None:
        self.key = digest("generated", VERSION, vocabulary, size)
        self._size = size
        self._digits = len(str(size - 1))
        self._make = {"small": self._small, "full": _full}[vocabulary]
        self.product = lru_cache(maxsize=20_000)(self._make)

    def __len__(self) -> int:
        return self._size

    def stream(self) -> Iterator[Product]:
        """All products in order, without keeping them."""
        return map(self._make, range(self._size))

    def _small(self, i: int) -> Product:
        rng = random.Random(f"webshop/small/{i}")
        kind = rng.choice(SMALL)
        noun, attributes = rng.choice(kind.nouns), (rng.choice(kind.adjectives), rng.choice(kind.materials))
        name = f"{attributes[0]} {attributes[1]} {noun}"
        axes = kind.axes[: 1 if rng.random() < 0.7 else 0]
        price = rng.randint(5, 99)
        return Product(
            asin=f"b{i:0{self._digits}d}",
            name=name,
            query=noun,
            path=(kind.name, noun),
            description=f"a {name}",
            bullets=(f"{attributes[0]} and made of {attributes[1]}",),
            attributes=attributes,
            options=_some_values(rng, axes, 2, 3),
            price=float(price),
            price_tag=f"${price}",
            rating=f"{rng.randint(20, 50) / 10}",
            wish=name,
            wish_attributes=attributes,
        )


def _full(i: int) -> Product:
    rng = random.Random(f"webshop/full/{i}")
    department = rng.choice(FULL)
    section, kind = rng.choice(department.types)
    material = rng.choice(department.materials)
    claims = rng.sample(department.attributes, 4)
    brand, use = rng.choice(BRANDS), rng.choice(department.uses)
    wants = tuple(rng.sample([material, *claims], rng.choice((1, 2, 2, 3))))
    price = rng.randint(100 * department.prices[0], 100 * department.prices[1]) / 100
    reviews = rng.sample(REVIEWS, rng.randint(0, 3))
    return Product(
        asin=_long_asin(i),
        name=f"{brand} {material} {kind}, {', '.join(claims[: rng.randint(1, 3)])}, for {use}".title().replace(
            "'S", "'s"
        ),
        query=kind,
        path=(department.name, section, kind.title()),
        description=f"This {kind} from {brand} is made with {material} and comes {rng.choice(claims)}. Made for {use}.",
        bullets=tuple(f"{claim.capitalize()}: {rng.choice(PRAISE)}." for claim in claims),
        attributes=(material, *claims),
        options=_some_values(rng, department.axes[: rng.choice((0, 1, 1, 2))], 2, 5),
        price=price,
        price_tag=f"${price}",
        rating=f"{sum(float(r[1]) for r in reviews) / len(reviews):.1f}" if reviews else "N.A.",
        reviews=tuple(" - ".join(r) for r in reviews),
        wish=rng.choice(WISHES).format(type=kind, wants=" and ".join(wants)),
        wish_attributes=wants,
    )


def _some_values(rng: random.Random, axes: Options, low: int, high: int) -> Options:
    """Each axis with `low` to `high` of its values, in the axis's own order."""
    kept = []
    for name, values in axes:
        chosen = rng.sample(values, min(rng.randint(low, high), len(values)))
        kept.append((name, tuple(value for value in values if value in chosen)))
    return tuple(kept)


def _long_asin(i: int) -> str:
    """Ten characters that look like Amazon's; distinct because the multiplier is coprime to 36^8."""
    digits, value = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (i * 1_664_525_011_397 + 1_013_904_223) % 36**8
    tail = ""
    for _ in range(8):
        value, digit = divmod(value, 36)
        tail = digits[digit] + tail
    return f"B0{tail}"


def price_limit(rng: random.Random, price: float) -> float:
    """The larger of two of the next four multiples of ten above `price`, up to 990; none near the end."""
    above = [10.0 * i for i in range(1, 100) if 10.0 * i > price][:4]
    return max(rng.sample(above, 2)) if len(above) >= 2 else NO_UPPER_PRICE


def instruction(wish: str, options: tuple[tuple[str, ...], ...], price_upper: float, wording: Wording) -> str:
    """What the shopper is asked for; "upstream" is how WebShop's synthetic goals are worded."""
    if wording == "short":
        parts = [wish, *(f"{name} {value}" for name, value in options)]
        return ", ".join([*parts, f"price lower than {price_upper:.0f}"])
    text = wish + (" with " if options else "") + ", and ".join(f"{name}: {value}" for name, value in options)
    return text if price_upper == NO_UPPER_PRICE else f"{text}, and price lower than {price_upper:.2f} dollars"


def draw_goal(catalogue: Catalogue, rng: random.Random, wording: Wording) -> Goal:
    """A random goal: a product, one value of each of its options (sorted by name), a price limit."""
    product = catalogue.product(rng.randrange(len(catalogue)))
    options = tuple((name, rng.choice(values)) for name, values in sorted(product.options))
    upper = price_limit(rng, product.price)
    return Goal(product, instruction(product.wish, options, upper, wording), product.wish_attributes, options, upper)


def synthetic_goals(product: Product, rng: random.Random) -> list[Goal]:
    """Upstream's synthetic goals of one product: every combination of option values, one price limit."""
    if not product.wish:
        return []
    upper = price_limit(rng, product.price)
    axes = [[(name, value) for value in values] for name, values in sorted(product.options)]
    return [
        Goal(product, instruction(product.wish, options, upper, "upstream"), product.wish_attributes, options, upper)
        for options in itertools.product(*axes)
    ]
