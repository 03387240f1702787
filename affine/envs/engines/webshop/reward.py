"""WebShop's reward for a purchase, as its `goal.py` and `normalize.py` define it (Yao et al., 2022).

    reward = r_type * (matched attributes + matched options + [price <= limit]) / (|A| + |O| + 1)

Upstream finds nouns with spaCy; here they are a title's alphabetic words less a list (`NOT_NOUNS`), so that
the score is the same wherever it is computed. The thresholds on shared nouns are lenient enough for that.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rapidfuzz import fuzz
from rapidfuzz.utils import default_process

from affine.envs.engines.webshop.catalogue import Goal, Product
from affine.envs.engines.webshop.vocabulary import NOT_NOUNS

_COLOR_WORDS = """
    alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel
    camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry
    cream crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green
    grey heather indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot
    midnight mint mocha multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple
    rainbow red rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan
    taupe teal tiger turquoise violet walnut wheat white wine yellow
"""
COLORS: tuple[str, ...] = tuple(_COLOR_WORDS.split())
"""The colours of upstream's normalisation, in its order: an option becomes the first that it contains."""

SIMILAR = 85
_ASCII_ONLY = dict.fromkeys(range(128, 256))
_ALPHABETIC = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Reward:
    """A purchase's reward and what it consists of."""

    type: float
    attributes: int
    options: int
    price: bool
    total: float


def reward(bought: Product, chosen: Mapping[str, str], goal: Goal, *, substring_colors: bool) -> Reward:
    """The reward of buying `bought` with the `chosen` options (name -> value).

    `substring_colors` keeps upstream's colour matching inside words ("standard" is read as "tan", so that
    the right choice of it goes unrewarded); without it colours are whole words and an equal choice counts.
    """
    r_type = type_reward(bought, goal.product)
    attributes = sum(_has_attribute(bought, wanted) for wanted in goal.attributes)
    values = list(chosen.values())
    options = sum(_has_option(values, wanted, substring_colors) for wanted in goal.options)
    price = bought.price <= goal.price_upper
    total = r_type * (attributes + options + price) / (len(goal.attributes) + len(goal.options) + 1)
    return Reward(r_type, attributes, options, price, total)


def nouns(title: str) -> list[str]:
    """The nouns of a title, in order, repeated ones too."""
    return [word for word in _ALPHABETIC.findall(title.lower()) if word not in NOT_NOUNS]


def type_reward(bought: Product, wanted: Product) -> float:
    """How far the two are the same kind of thing: 1, 0.5, 0.1 or 0."""
    wanted_nouns = nouns(wanted.name)
    shared = len(set(nouns(bought.name)) & set(wanted_nouns))
    share = shared / len(wanted_nouns) if wanted_nouns else 0.2
    if share == 0:
        return 0.0
    if share < 0.1:
        return 0.1
    same_category = len(set(bought.path) & set(wanted.path)) >= 2
    return 1.0 if bought.query == wanted.query or same_category or share > 0.2 else 0.5


def similarity(a: str, b: str) -> int:
    """`thefuzz.fuzz.token_set_ratio`: Latin-1 letters dropped, punctuation blanked, rounded to a whole."""
    processed = (default_process(text.translate(_ASCII_ONLY)) for text in (a, b))
    return round(fuzz.token_set_ratio(*processed))


def _has_attribute(bought: Product, wanted: str) -> bool:
    if any(similarity(own, wanted) > SIMILAR for own in bought.attributes):
        return True
    texts = (bought.name, " ".join(bought.bullets), bought.description)
    return any(wanted in text.lower() for text in texts)


def _has_option(values: Collection[str], wanted: tuple[str, ...], substring_colors: bool) -> bool:
    if not substring_colors and wanted[-1] in values:
        return True
    # A (name, value) pair holds a colour only where an element equals it, a lone value where it contains it.
    goal_text = _normalise(wanted, substring_colors)
    return any(similarity(_normalise((value,), substring_colors), goal_text) > SIMILAR for value in values)


def _normalise(option: tuple[str, ...], substring_colors: bool) -> str:
    """The first known colour of an option, else all of it."""
    if len(option) > 1:
        parts: Collection[str] = option
    elif substring_colors:
        parts = option[0]
    else:
        parts = option[0].split()
    return next((color for color in COLORS if color in parts), " ".join(option))
