"""The words and the one-line statements that level-0 programs are made of.

Variables have fixed names and types: `s`, `t` words, `n`, `m` whole numbers. `{a}` stands for a drawn number,
`{w}`, `{v}` for drawn words; a reason also names the variables read and `{out}`, the printed line.
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

    `weight` is its share of the tasks. Shares are chosen so that a random answer is right in about one
    abduction task of six (conditions, remainders and lengths have many right inputs).
    """

    name: str
    reads: tuple[str, ...]
    code: str
    clause: str
    reason: str
    weight: int
    numbers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    words: int = 0


_A9, _A15, _A5 = {"a": (1, 9)}, {"a": (3, 16)}, {"a": (2, 5)}

STATEMENTS: tuple[Statement, ...] = (
    Statement("after", ("s",), 'print(s, "{w}")', "Print it, then {w}.", "{s} stands before {w}.", 10, words=1),
    Statement("before", ("s",), 'print("{w}", s)', "Print {w}, then it.", "{s} stands after {w}.", 10, words=1),
    Statement(
        "around",
        ("s",),
        'print("{w}", s, "{v}")',
        "Print {w}, then it, then {v}.",
        "{s} stands between {w} and {v}.",
        8,
        words=2,
    ),
    Statement("twice", ("s",), "print(s, s)", "Print it twice.", "{s} stands there twice.", 3),
    Statement("swap", ("s", "t"), "print(t, s)", "Print the second, then the first.", "{t} came second, {s} first.", 4),
    Statement(
        "join",
        ("s", "t"),
        'print(s, "{w}", t)',
        "Print the first, {w}, the second.",
        "{w} parts {s} and {t}.",
        7,
        words=1,
    ),
    Statement("label", ("n",), 'print("{w}", n)', "Print {w}, then it.", "{n} stands after {w}.", 6, words=1),
    Statement("add", ("n",), "print(n + {a})", "Print it plus {a}.", "{out} - {a} = {n}.", 6, numbers=_A9),
    Statement("subtract", ("n",), "print(n - {a})", "Print it minus {a}.", "{out} + {a} = {n}.", 5, numbers=_A9),
    Statement(
        "multiply", ("n",), "print(n * {a})", "Print it times {a}.", "{out} / {a} = {n}.", 3, numbers={"a": (2, 3)}
    ),
    Statement(
        "remainder", ("n",), "print(n % {a})", "Print its remainder by {a}.", "{n} % {a} = {out}.", 5, numbers=_A5
    ),
    Statement(
        "over",
        ("n",),
        'print("{w}" if n > {a} else "{v}")',
        "Print {w} if it is over {a}, else {v}.",
        "{n} compared with {a} gives {out}.",
        9,
        numbers=_A15,
        words=2,
    ),
    Statement(
        "even",
        ("n",),
        'print("{w}" if n % 2 == 0 else "{v}")',
        "Print {w} if it is even, else {v}.",
        "{n} halved decides: {out}.",
        5,
        words=2,
    ),
    Statement(
        "same",
        ("s", "t"),
        'print("{w}" if s == t else "{v}")',
        "Print {w} if they are equal, else {v}.",
        "{s} compared with {t} gives {out}.",
        4,
        words=2,
    ),
    Statement(
        "rename",
        ("s",),
        'print("{w}" if s == "{v}" else s)',
        "Print {w} if it is {v}, else print it.",
        "{s} gives {out}.",
        4,
        words=2,
    ),
    Statement("sum", ("n", "m"), "print(n + m)", "Print their sum.", "{n} + {m} = {out}.", 3),
    Statement("larger", ("n", "m"), "print(max(n, m))", "Print the larger.", "{out} is the larger.", 3),
    Statement("length", ("s",), "print(len(s))", "Print its length.", "{s} has {out} letters.", 3),
    Statement("first", ("s",), "print(s[0])", "Print its first letter.", "{s} begins with {out}.", 3),
    Statement("last", ("s",), "print(s[-1])", "Print its last letter.", "{s} ends with {out}.", 2),
    Statement("upper", ("s",), "print(s.upper())", "Print it in capitals.", "{out} is {s} in capitals.", 1),
    Statement("reverse", ("s",), "print(s[::-1])", "Print it backwards.", "{out} backwards is {s}.", 1),
)
