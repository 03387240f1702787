"""The words and the one-line statements that level-0 programs are made of.

Variables have fixed names and types: `s`, `t` words, `n`, `m` whole numbers. `{a}` stands for a drawn number,
`{w}`, `{v}` for drawn words. Each statement has a word in it, so that each has many programs and every kind of
statement is met in every split with other constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

WORDS: tuple[str, ...] = tuple(
    """ant bag bat bed bee bell bird boat book box cake cat chair clock cow cup dog door duck egg fish flag flower
    fox frog game gate girl goat gold hand hat hill home horse house king lake leaf lion milk moon mouse paper pig
    queen rain ring road rock rose salt ship shoe snow star stone sun tree wolf""".split()  # noqa: SIM905 - a word list
)
"""The closed list of words that programs, inputs and answers are made of."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A whole level-0 program after its reading lines: one print, and why an input gives the output.

    `reason` may name the constants, the variables read, `{out}` (the printed line) and `{tail}` (its last
    word). `numbers` are the inclusive ranges of `{a}`, `words` is how many of `{w}`, `{v}` it has. `weight` is
    its share of the tasks; shares are chosen so that a random input is right in about one abduction task
    of six (conditions, remainders and lengths have many right inputs).
    """

    reads: tuple[str, ...]
    code: str
    clause: str
    reason: str
    weight: int
    words: int = 1
    numbers: Mapping[str, tuple[int, int]] = field(default_factory=dict)


_S, _N, _ST, _NM = ("s",), ("n",), ("s", "t"), ("n", "m")
_A9, _A5, _A3, _A16 = {"a": (1, 9)}, {"a": (2, 5)}, {"a": (2, 3)}, {"a": (3, 16)}

# fmt: off
STATEMENTS: Mapping[str, Statement] = {
    "after": Statement(_S, 'print(s, "{w}")', "Print it, then {w}.", "{s} stands before {w}.", 10),
    "before": Statement(_S, 'print("{w}", s)', "Print {w}, then it.", "{s} stands after {w}.", 10),
    "around": Statement(
        _S, 'print("{w}", s, "{v}")', "Print {w}, it, {v}.", "{s} stands between {w} and {v}.", 7, words=2
    ),
    "twice": Statement(_S, 'print(s, "{w}", s)', "Print it, {w}, it again.", "{s} stands around {w}.", 4),
    "join": Statement(
        _ST, 'print(s, "{w}", t)', "Print the first, {w}, the second.", "{w} parts {s} and {t}.", 7
    ),
    "swap": Statement(
        _ST, 'print(t, "{w}", s)', "Print the second, {w}, the first.", "{s} came first, {t} second.", 6
    ),
    "label": Statement(_N, 'print("{w}", n)', "Print {w}, then it.", "{n} stands after {w}.", 6),
    "add": Statement(
        _N, 'print("{w}", n + {a})', "Print {w}, then it plus {a}.", "{tail} - {a} = {n}.", 6, numbers=_A9
    ),
    "subtract": Statement(
        _N, 'print("{w}", n - {a})', "Print {w}, then it minus {a}.", "{tail} + {a} = {n}.", 5, numbers=_A9
    ),
    "multiply": Statement(
        _N, 'print("{w}", n * {a})', "Print {w}, then it times {a}.", "{tail} / {a} = {n}.", 3, numbers=_A3
    ),
    "remainder": Statement(
        _N, 'print("{w}", n % {a})', "Print {w}, then its remainder by {a}.", "{n} % {a} = {tail}.", 5, numbers=_A5
    ),
    "over": Statement(
        _N,
        'print("{w}" if n > {a} else "{v}")',
        "Print {w} if it is over {a}, else {v}.",
        "{n} compared with {a} gives {out}.",
        9,
        words=2,
        numbers=_A16,
    ),
    "even": Statement(
        _N,
        'print("{w}" if n % 2 == 0 else "{v}")',
        "Print {w} if it is even, else {v}.",
        "{n} by 2 decides: {out}.",
        5,
        words=2,
    ),
    "same": Statement(
        _ST,
        'print("{w}" if s == t else "{v}")',
        "Print {w} if they are equal, else {v}.",
        "{s} compared with {t} gives {out}.",
        4,
        words=2,
    ),
    "rename": Statement(
        _S,
        'print("{w}" if s == "{v}" else s)',
        "Print {w} if it is {v}, else print it.",
        "{s} gives {out}.",
        3,
        words=2,
    ),
    "sum": Statement(_NM, 'print("{w}", n + m)', "Print {w}, then their sum.", "{n} + {m} = {tail}.", 3),
    "larger": Statement(
        _NM, 'print("{w}", max(n, m))', "Print {w}, then the larger.", "{tail} is the larger of {n} and {m}.", 3
    ),
    "smaller": Statement(
        _NM, 'print("{w}", min(n, m))', "Print {w}, then the smaller.", "{tail} is the smaller of {n} and {m}.", 3
    ),
    "length": Statement(_S, 'print("{w}", len(s))', "Print {w}, then its length.", "{s} has {tail} letters.", 3),
    "first": Statement(_S, 'print("{w}", s[0])', "Print {w}, then its first letter.", "{s} begins with {tail}.", 3),
    "last": Statement(_S, 'print("{w}", s[-1])', "Print {w}, then its last letter.", "{s} ends with {tail}.", 2),
    "upper": Statement(
        _S, 'print("{w}", s.upper())', "Print {w}, then it in capitals.", "{tail} is {s} in capitals.", 1
    ),
    "reverse": Statement(_S, 'print("{w}", s[::-1])', "Print {w}, then it backwards.", "{tail} backwards is {s}.", 1),
}
# fmt: on
"""Name -> statement."""
