"""WebShop's original product files, when the user has them in the folder $WEBSHOP_DATA.

Read are `items_shuffle{_1000,}.json` (products), `items_ins_v2{_1000,}.json` (attributes and instructions)
and, for human goals, `items_human_ins.json`. Upstream draws price limits and the prices of price ranges from
an unseeded stream; here both come from a fixed seed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from affine.envs.engines.webshop.catalogue import NO_UPPER_PRICE, Goal, Product, price_limit, synthetic_goals
from affine.envs.env import EnvError, digest

GOAL_SEED = 233
"""Upstream shuffles its goals with this seed; a task's id is the goal's place in that order."""

NO_ATTRIBUTE = ("DUMMY_ATTR",)
_PRICE = re.compile(r"\d[\d,]*(?:\.\d+)?")


class OriginalCatalogue:
    """The original products, in file order; `goals` in upstream's shuffled order."""

    def __init__(self, suffix: str, *, human: bool) -> None:
        """`suffix` is "_1000" or "" (all products); goals are `human` or synthetic.

        Raises EnvError where the folder or a file is missing or is not what it should be.
        """
        items, wishes = _path(f"items_shuffle{suffix}.json"), _path(f"items_ins_v2{suffix}.json")
        files = [items, wishes, *([_path("items_human_ins.json")] if human else [])]
        self.key = digest("original", human, *(_sha256(path) for path in files))
        attributes = _read(wishes, dict)
        self._products = _products(_read(items, list), attributes, items)
        rng = random.Random(GOAL_SEED)
        if human:
            self.goals = _human_goals(self._products, _read(files[-1], dict), rng)
        else:
            self.goals = [goal for product in self._products for goal in synthetic_goals(product, rng)]
        if not self.goals:
            raise EnvError(f"webshop: {files[-1]} asks for no product of {items}; give files that belong together")
        random.Random(GOAL_SEED).shuffle(self.goals)

    def __len__(self) -> int:
        return len(self._products)

    def product(self, i: int) -> Product:
        """The product at position `i`."""
        return self._products[i]

    def stream(self) -> Iterator[Product]:
        """All products in order."""
        return iter(self._products)


def _path(name: str) -> Path:
    folder = os.environ.get("WEBSHOP_DATA")
    if not folder:
        raise EnvError("webshop: this level plays WebShop's original products; set WEBSHOP_DATA to their folder")
    path = Path(folder) / name
    if not path.is_file():
        raise EnvError(f"webshop: {path} is missing (WEBSHOP_DATA must hold WebShop's data files)")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, kind: type) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EnvError(f"webshop: {path} is not JSON ({error}); download it again") from error
    if not isinstance(data, kind):
        raise EnvError(f"webshop: {path} holds a {type(data).__name__}, not a {kind.__name__}; is it another file?")
    return data


def _products(items: list[Any], attributes: Mapping[str, Any], path: Path) -> list[Product]:
    rng = random.Random(GOAL_SEED)
    products: dict[str, Product] = {}
    for item in items:
        asin = str(item.get("asin", ""))
        if not asin or asin == "nan" or len(asin) > 10 or asin in products:
            continue
        try:
            products[asin] = _product(asin, item, attributes.get(asin, {}), rng)
        except KeyError as error:
            raise EnvError(f"webshop: product {asin} in {path} has no {error}; is it WebShop's file?") from error
    return list(products.values())


def _product(asin: str, item: Mapping[str, Any], about: Mapping[str, Any], rng: random.Random) -> Product:
    bullets = item["small_description"]
    prices = [float(price.replace(",", "")) for price in _PRICE.findall(item.get("pricing") or "")][:2]
    tag = " to ".join(f"${price}" for price in prices) or "$100.0"
    return Product(
        asin=asin,
        name=item["name"],
        query=item["query"].lower().strip(),
        path=tuple(part.strip() for part in item["product_category"].split("›")),
        description=item["full_description"] or "",
        bullets=tuple(bullets) if isinstance(bullets, list) else (str(bullets),),
        attributes=tuple(about.get("attributes", NO_ATTRIBUTE)),
        options=_options(item.get("customization_options") or {}),
        price=100.0 if not prices else prices[0] if len(prices) == 1 else rng.uniform(*prices),
        price_tag=tag,
        wish=about.get("instruction") or "",
        wish_attributes=tuple(about.get("instruction_attributes", ())),
    )


def _options(raw: Mapping[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(
        (name.lower(), tuple(entry["value"].strip().replace("/", " | ").lower() for entry in entries))
        for name, entries in raw.items()
        if entries is not None
    )


def _human_goals(products: list[Product], wishes: Mapping[str, Any], rng: random.Random) -> list[Goal]:
    goals = []
    for product in products:
        for wish in wishes.get(product.asin, ()):
            if not wish["instruction_attributes"]:
                continue
            upper = price_limit(rng, product.price)
            limit = "" if upper == NO_UPPER_PRICE else f", and price lower than {upper:.2f} dollars"
            options = tuple((value,) for value in wish["instruction_options"])
            text = wish["instruction"].strip(".") + limit
            goals.append(Goal(product, text, tuple(wish["instruction_attributes"]), options, upper))
    return goals
