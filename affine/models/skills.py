"""Short synthetic exercises that teach a nano model what the environments take for granted: to copy from
its context, to look a thing up, to follow two links, to check a clause, to add small numbers, to spell.

Each exercise is a (question, answer) pair made from a seeded stream and a list of words; no task of any
environment enters here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch

Exercise = tuple[str, str]


def _pairs(rng: random.Random, words: Sequence[str], count: int) -> tuple[list[str], list[str]]:
    chosen = rng.sample(words, 2 * count)
    return chosen[:count], chosen[count:]


def repeat(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Copy a list of words."""
    text = " ".join(rng.choices(words, k=rng.randint(2, 14)))
    return f"repeat: {text}", text


def look_up(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Find the value that belongs to a key; sometimes in the other direction."""
    keys, values = _pairs(rng, words, rng.randint(3, 12))
    if rng.random() < 0.5:
        keys = [f"{k} {rng.randint(1, 4)}" for k in keys]
    k = rng.randrange(len(keys))
    lines = "\n".join(f"{a}: {b}" for a, b in zip(keys, values, strict=True))
    if rng.random() < 0.3:
        return f"{lines}\nwhich key has {values[k]}?", keys[k]
    return f"{lines}\n{keys[k]}?", values[k]


def where_is(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Say which place holds an object."""
    things, places = _pairs(rng, words, rng.randint(3, 8))
    places = [f"{p} {rng.randint(1, 3)}" for p in places]
    rows = [f"On the {p}, you see a {t}." for t, p in zip(things, places, strict=True)]
    k = rng.randrange(len(things))
    return " ".join(rows) + f"\nwhere is {things[k]}?", places[k]


def two_links(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Follow a key to its value and that value, as a key, to another."""
    count = rng.randint(3, 6)
    a, b = _pairs(rng, words, count)
    c = rng.sample([w for w in words if w not in set(a) | set(b)], count)
    order = list(range(count))
    rng.shuffle(order)
    lines = [f"{a[i]}: {b[i]}" for i in range(count)] + [f"{b[i]}: {c[i]}" for i in order]
    k = rng.randrange(count)
    return "\n".join(lines) + f"\n{a[k]}? twice", f"{b[k]} {c[k]}"


def _literal(rng: random.Random, variables: int) -> tuple[int, bool]:
    return rng.randint(1, variables), rng.random() < 0.5


def clause(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Whether an assignment satisfies a clause, and which literal does."""
    variables = rng.randint(2, 5)
    values = {v: rng.random() < 0.5 for v in range(1, variables + 1)}
    literals = [_literal(rng, variables) for _ in range(rng.randint(1, 3))]
    text = " ∨ ".join(f"{'' if sign else '¬'}x{v}" for v, sign in literals)
    assignment = ", ".join(f"x{v}={value}" for v, value in values.items())
    true = any(values[v] == sign for v, sign in literals)
    return f"{assignment}\n({text})?", str(true)


def units(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Read forced values off clauses of one literal."""
    variables = rng.randint(2, 5)
    values = {v: rng.random() < 0.5 for v in range(1, variables + 1)}
    order = list(values)
    rng.shuffle(order)
    formula = " ∧ ".join(f"({'' if values[v] else '¬'}x{v})" for v in order)
    return formula, ", ".join(f"x{v}={value}" for v, value in values.items())


def arithmetic(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Small sums, differences and products, forwards and backwards."""
    a, b = rng.randint(0, 20), rng.randint(0, 12)
    symbol, result = rng.choice([("+", a + b), ("-", a - b), ("*", a * b)])
    if rng.random() < 0.5 and not (symbol == "*" and b == 0):
        return f"? {symbol} {b} = {result}", str(a)
    return f"{a} {symbol} {b} =", str(result)


def compare(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Which of two numbers is lower, or whether a price fits a limit."""
    a, b = rng.sample(range(100), 2)
    if rng.random() < 0.5:
        return f"lower of {a} and {b}?", str(min(a, b))
    return f"is {a} lower than {b}?", "yes" if a < b else "no"


def spelling(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Spell, reverse, join and repeat words letter by letter."""
    word = rng.choice(words)
    kind = rng.randrange(5)
    if kind == 0:
        return f"spell: {word}", " ".join(word)
    if kind == 1:
        return f"reverse: {word}", word[::-1]
    if kind == 2:
        other = rng.choice(words)
        return f"join: {word} {other}", word + other
    if kind == 3:
        return f"upper: {word}", word.upper()
    return f"first and last: {word}", f"{word[0]} {word[-1]}"


def pick(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Choose the item of a list that shares most words with a wish."""
    count = rng.randint(2, 5)
    adjectives, nouns = rng.sample(words, count), rng.sample(words, 2)
    items = [f"{adjective} {rng.choice(nouns)}" for adjective in adjectives]
    codes = [f"b{n}" for n in rng.sample(range(10, 100), count)]
    k = rng.randrange(count)
    rows = " ; ".join(f"{c} {i}" for c, i in zip(codes, items, strict=True))
    return f"{rows}\nwant: {items[k]}", codes[k]


def recipe(rng: random.Random, words: Sequence[str]) -> Exercise:
    """What a made-up recipe among several needs, and what of it is still missing."""
    count = rng.randint(2, 5)
    nouns = rng.sample(words, 12)
    things = [" ".join(rng.sample(nouns, rng.randint(1, 3))) for _ in range(3 * count)]
    things = list(dict.fromkeys(things))
    rows: list[tuple[str, list[str]]] = []
    for output in things[:count]:
        used = rng.sample([t for t in things if t != output], rng.choice((1, 1, 2, 2, 3)))
        rows.append((output, [f"{rng.randint(1, 9)} {name}" for name in used]))
    lines = "\n".join(f"{rng.randint(1, 6)} {output} from {', '.join(used)}" for output, used in rows)
    output, used = rng.choice(rows)
    held = used[: rng.randint(0, len(used))]
    if held and rng.random() < 0.6:
        return f"{lines}\nhave {', '.join(held)}; {output} needs?", ", ".join(used[len(held) :]) or "nothing"
    return f"{lines}\n{output} needs?", ", ".join(used)


EXERCISES: tuple[tuple[Callable[[random.Random, Sequence[str]], Exercise], float], ...] = (
    (repeat, 1.0),
    (look_up, 2.0),
    (where_is, 1.5),
    (two_links, 1.5),
    (clause, 1.5),
    (units, 0.7),
    (arithmetic, 1.5),
    (compare, 0.7),
    (spelling, 1.5),
    (pick, 1.5),
    (recipe, 2.0),
)


def exercise(rng: random.Random, words: Sequence[str]) -> Exercise:
    """One exercise, kinds drawn by weight."""
    kinds, weights = zip(*EXERCISES, strict=True)
    make: Callable[[random.Random, Sequence[str]], Exercise] = rng.choices(kinds, weights)[0]
    return make(rng, words)


def retrieval_drill(generator: torch.Generator, rows: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Retrieval drills over random tokens: ids and a 0/1 mask of the positions that can be predicted.

    Half of the rows are a sequence of 64 random tokens written twice, half are 32 key-value pairs followed by
    the same pairs in another order (the value is predictable from its key). Shapes [rows, 128].
    """
    first = 3  # special tokens stay out
    length = 64
    half = rows // 2
    once = torch.randint(first, vocabulary, (half, length), generator=generator)
    repeated = torch.cat([once, once], 1)
    repeated_mask = torch.zeros(half, 2 * length)
    repeated_mask[:, length + 1 :] = 1
    rest = rows - half
    keys = torch.stack(
        [torch.randperm(vocabulary - first, generator=generator)[: length // 2] + first for _ in range(rest)]
    )
    values = torch.randint(first, vocabulary, (rest, length // 2), generator=generator)
    order = torch.stack([torch.randperm(length // 2, generator=generator) for _ in range(rest)])
    shown = torch.stack([keys, values], 2).flatten(1)
    asked = torch.stack([keys.gather(1, order), values.gather(1, order)], 2).flatten(1)
    pairs_mask = torch.zeros(rest, 2 * length)
    pairs_mask[:, length + 1 :: 2] = 1
    return torch.cat([repeated, torch.cat([shown, asked], 1)]), torch.cat([repeated_mask, pairs_mask])
