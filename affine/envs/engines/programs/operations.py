"""The typed operations that programs above level 0 are chained from, each with its code and an English clause.

Variables have fixed names and types: `s` a word, `n`, `m` whole numbers, `xs` a list of them. `{a}`, `{b}` stand
for drawn numbers and `{w}` for a drawn word. No operation loops for longer than a small constant times its
input's length squared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Operation:
    """One step from the variable `takes` to the variable `gives` (the same name where it changes in place).

    `numbers` are the inclusive ranges of `{a}`, `{b}`; `words` how many words it has. `tier` is 1
    for a single expression, 2 for branches and loops with state, 3 for nested loops, recursion and
    simulated dictionaries, queues and stacks. `also` is a second variable it reads.
    """

    name: str
    takes: str
    gives: str
    code: str
    clause: str
    numbers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tier: int = 1
    also: str = ""
    words: int = 0


_A9, _A5 = {"a": (1, 9)}, {"a": (2, 5)}

_ON_NUMBER: tuple[Operation, ...] = (
    Operation("n_add", "n", "n", "n = n + {a}", "Add {a}.", _A9),
    Operation("n_subtract", "n", "n", "n = n - {a}", "Subtract {a}.", _A9),
    Operation("n_from", "n", "n", "n = {a} - n", "Subtract it from {a}.", {"a": (10, 90)}),
    Operation("n_multiply", "n", "n", "n = n * {a}", "Multiply by {a}.", _A5),
    Operation("n_divide", "n", "n", "n = n // {a}", "Divide by {a}, rounding down.", _A5),
    Operation("n_remainder", "n", "n", "n = n % {a}", "Take the remainder by {a}.", {"a": (7, 29)}),
    Operation("n_square", "n", "n", "n = n * n", "Square it."),
    Operation("n_distance", "n", "n", "n = abs(n - {a})", "Take its distance from {a}.", {"a": (5, 40)}),
    Operation("n_cap", "n", "n", "n = min(n, {a})", "If it is over {a}, use {a} instead.", {"a": (20, 60)}),
    Operation("n_text", "n", "s", "s = str(n)", "Write it as text."),
    Operation("n_binary", "n", "s", "s = bin(abs(n))[2:]", "Write its absolute value in binary, as text."),
    Operation(
        "n_repeat", "n", "s", 's = "{w}" * (n % 4 + 1)', 'Repeat "{w}" its remainder by 4 plus 1 times.', words=1
    ),
    Operation("n_range", "n", "xs", "xs = list(range(1, n % 9 + 3))", "List 1 to its remainder by 9 plus 2."),
    Operation(
        "n_branch",
        "n",
        "n",
        "if n % 2 == 0:\n    n = n // 2 + {a}\nelse:\n    n = 3 * n - {b}",
        "If it is even, halve it and add {a}; else triple it and subtract {b}.",
        {"a": (1, 9), "b": (1, 9)},
        tier=2,
    ),
    Operation(
        "n_digits",
        "n",
        "n",
        "rest, n = abs(n), 0\nwhile rest > 0:\n    n += rest % 10\n    rest //= 10",
        "Take the sum of its digits.",
        tier=2,
    ),
    Operation(
        "n_steps",
        "n",
        "n",
        "k, n = abs(n) % 60 + 1, 0\nwhile k != 1:\n    k = k // 2 if k % 2 == 0 else 3 * k + 1\n    n += 1",
        "Start from its absolute value's remainder by 60 plus 1 and count the steps to reach 1 when an even number is "
        "halved and an odd one tripled plus 1.",
        tier=2,
    ),
    Operation(
        "n_sequence",
        "n",
        "n",
        "p, q = {a}, {b}\nfor _ in range(abs(n) % 12):\n    p, q = q, p + q\nn = p",
        "Start with {a} and {b}; as often as its absolute value's remainder by 12, replace the pair by the second and "
        "the sum of both; take the first.",
        {"a": (0, 4), "b": (1, 5)},
        tier=2,
    ),
    Operation(
        "n_divisors",
        "n",
        "xs",
        "k = abs(n) % 90 + 1\nxs = []\nfor d in range(1, k + 1):\n    if k % d == 0:\n        xs.append(d)",
        "List the divisors of its absolute value's remainder by 90 plus 1, ascending.",
        tier=2,
    ),
    Operation(
        "n_recursion",
        "n",
        "n",
        "def f(k):\n    return {a} if k < 2 else f(k - 1) + {b} * f(k - 2)\nn = f(abs(n) % 11)",
        "Let f(k) be {a} for k < 2, else f(k - 1) + {b} f(k - 2); take f of its absolute value's remainder by 11.",
        {"a": (1, 4), "b": (1, 3)},
        tier=3,
    ),
    Operation(
        "n_gcd",
        "n",
        "n",
        "def g(p, q):\n    return p if q == 0 else g(q, p % q)\nn = g(abs(n), {a})",
        "Take its greatest common divisor with {a}.",
        {"a": (24, 96)},
        tier=3,
    ),
    Operation("n_plus_m", "n", "n", "n = n + m", "Add the second input.", also="m"),
    Operation("n_times_m", "n", "n", "n = n * m", "Multiply by the second input.", also="m"),
)

_ON_WORD: tuple[Operation, ...] = (
    Operation("s_upper", "s", "s", "s = s.upper()", "Put it in capitals."),
    Operation("s_reverse", "s", "s", "s = s[::-1]", "Reverse it."),
    Operation("s_append", "s", "s", 's = s + "{w}"', 'Append "{w}".', words=1),
    Operation("s_prepend", "s", "s", 's = "{w}" + s', 'Put "{w}" in front.', words=1),
    Operation("s_repeat", "s", "s", "s = s * {a}", "Repeat it {a} times.", {"a": (2, 3)}),
    Operation("s_tail", "s", "s", "s = s[1:]", "Drop its first character."),
    Operation(
        "s_rotate", "s", "s", "s = s[{a}:] + s[:{a}]", "Move its first {a} characters to the end.", {"a": (1, 3)}
    ),
    Operation("s_second", "s", "s", "s = s[::2]", "Keep every second character, the first included."),
    Operation("s_sort", "s", "s", 's = "".join(sorted(s))', "Sort its characters."),
    Operation("s_replace", "s", "s", 's = s.replace("o", "{w}")', 'Replace each "o" by "{w}".', words=1),
    Operation("s_length", "s", "n", "n = len(s)", "Take its length."),
    Operation("s_codes", "s", "xs", "xs = [ord(c) % 32 for c in s]", "List each character's code's remainder by 32."),
    Operation(
        "s_vowels",
        "s",
        "n",
        'n = 0\nfor c in s:\n    if c in "aeiou":\n        n += {a}\n    else:\n        n += 1',
        "Count {a} for each small vowel and 1 for each other character.",
        {"a": (2, 9)},
        tier=2,
    ),
    Operation(
        "s_shift",
        "s",
        "s",
        'r = ""\n'
        "for c in s:\n"
        '    if "a" <= c <= "z":\n'
        "        c = chr((ord(c) - 97 + {a}) % 26 + 97)\n"
        "    r += c\n"
        "s = r",
        "Move each small letter {a} places on in the alphabet, cyclically.",
        {"a": (1, 5)},
        tier=2,
    ),
    Operation(
        "s_runs",
        "s",
        "s",
        'r, i = "", 0\n'
        "while i < len(s):\n"
        "    j = i\n"
        "    while j < len(s) and s[j] == s[i]:\n"
        "        j += 1\n"
        "    r += s[i] + str(j - i)\n    i = j\ns = r",
        "Replace each run of equal characters by the character and the run's length.",
        tier=3,
    ),
    Operation(
        "s_counts",
        "s",
        "xs",
        "counts = {{}}\nfor c in s:\n    counts[c] = counts.get(c, 0) + 1\nxs = [counts[c] for c in s]",
        "List for each character how often it occurs.",
        tier=3,
    ),
    Operation(
        "s_fold",
        "s",
        "s",
        "def h(p):\n"
        "    if len(p) < 2:\n"
        "        return p\n"
        "    k = len(p) // 2\n"
        "    return h(p[k:]) + h(p[:k])\n"
        "s = h(s)",
        "Let h be the identity below two characters; else cut at half the length, rounded down, and put h of the "
        "second part before h of the first; apply h.",
        tier=3,
    ),
    Operation(
        "s_times_m",
        "s",
        "s",
        "s = s * (m % 3 + 1)",
        "Repeat it the second input's remainder by 3 plus 1 times.",
        also="m",
    ),
)

_ON_LIST: tuple[Operation, ...] = (
    Operation("xs_add", "xs", "xs", "xs = [x + {a} for x in xs]", "Add {a} to each.", _A9),
    Operation("xs_multiply", "xs", "xs", "xs = [x * {a} for x in xs]", "Multiply each by {a}.", _A5),
    Operation(
        "xs_remainder", "xs", "xs", "xs = [x % {a} for x in xs]", "Take each one's remainder by {a}.", {"a": (3, 11)}
    ),
    Operation("xs_even", "xs", "xs", "xs = [x for x in xs if x % 2 == 0]", "Keep the even ones."),
    Operation("xs_over", "xs", "xs", "xs = [x for x in xs if x > {a}]", "Keep those over {a}.", {"a": (2, 9)}),
    Operation("xs_reverse", "xs", "xs", "xs = xs[::-1]", "Reverse the list."),
    Operation("xs_sort", "xs", "xs", "xs = sorted(xs)", "Sort the list, ascending."),
    Operation("xs_tail", "xs", "xs", "xs = xs[1:]", "Drop the first number."),
    Operation("xs_unique", "xs", "xs", "xs = list(dict.fromkeys(xs))", "Keep the first of equal numbers."),
    Operation("xs_sum", "xs", "n", "n = sum(xs)", "Take the sum."),
    Operation("xs_max", "xs", "n", "n = max(xs)", "Take the largest."),
    Operation("xs_spread", "xs", "n", "n = max(xs) - min(xs)", "Take the largest minus the smallest."),
    Operation("xs_count", "xs", "n", "n = len(xs)", "Count them."),
    Operation(
        "xs_letters",
        "xs",
        "s",
        's = "".join(chr(97 + x % 26) for x in xs)',
        "Write each as the letter of its remainder by 26 (a for 0).",
    ),
    Operation(
        "xs_so_far",
        "xs",
        "xs",
        "total, ys = 0, []\nfor x in xs:\n    total += x\n    ys.append(total)\nxs = ys",
        "Replace each by the sum up to it.",
        tier=2,
    ),
    Operation(
        "xs_branch",
        "xs",
        "xs",
        "ys = []\n"
        "for x in xs:\n"
        "    if x > {a}:\n"
        "        ys.append(x - {a})\n"
        "    elif x % 2 == 0:\n"
        "        ys.append(x // 2)\n"
        "    else:\n        ys.append(x + {b})\nxs = ys",
        "Replace each: over {a}, subtract {a}; else if even, halve; else add {b}.",
        {"a": (4, 12), "b": (1, 9)},
        tier=2,
    ),
    Operation(
        "xs_alternate",
        "xs",
        "n",
        "n, sign = 0, 1\nfor x in xs:\n    n += sign * x\n    sign = -sign",
        "Add the first, subtract the second, add the third and so on.",
        tier=2,
    ),
    Operation(
        "xs_rising",
        "xs",
        "n",
        "n, run = 0, 0\n"
        "for i in range(len(xs)):\n"
        "    run = run + 1 if i > 0 and xs[i] > xs[i - 1] else 1\n"
        "    n = max(n, run)",
        "Take the length of the longest rising run.",
        tier=2,
    ),
    Operation(
        "xs_smaller",
        "xs",
        "xs",
        "ys = []\n"
        "for x in xs:\n"
        "    k = 0\n"
        "    for y in xs:\n"
        "        if y < x:\n"
        "            k += 1\n"
        "    ys.append(k)\n"
        "xs = ys",
        "Replace each by how many are smaller.",
        tier=3,
    ),
    Operation(
        "xs_inversions",
        "xs",
        "n",
        "n = 0\n"
        "for i in range(len(xs)):\n"
        "    for j in range(i + 1, len(xs)):\n"
        "        if xs[i] > xs[j]:\n"
        "            n += 1",
        "Count the pairs in which the earlier is larger.",
        tier=3,
    ),
    Operation(
        "xs_circle",
        "xs",
        "xs",
        "queue, xs = xs, []\n"
        "while queue:\n"
        "    for _ in range({a}):\n"
        "        queue.append(queue.pop(0))\n"
        "    xs.append(queue.pop(0))",
        "Until the queue is empty: {a} times move its first to its end, then take its first out; list them as taken.",
        {"a": (1, 3)},
        tier=3,
    ),
    Operation(
        "xs_stack",
        "xs",
        "xs",
        "stack = []\n"
        "for x in xs:\n"
        "    while stack and stack[-1] > x:\n"
        "        stack.pop()\n"
        "    stack.append(x)\n"
        "xs = stack",
        "Keep a stack: before pushing each number pop the larger ones; take the stack, bottom first.",
        tier=3,
    ),
    Operation(
        "xs_counts",
        "xs",
        "xs",
        "counts = {{}}\nfor x in xs:\n    counts[x] = counts.get(x, 0) + 1\nxs = [counts[x] for x in xs]",
        "Replace each by how often it occurs.",
        tier=3,
    ),
    Operation("xs_plus_m", "xs", "xs", "xs = [x + m for x in xs]", "Add the second input to each.", also="m"),
    Operation(
        "xs_turn_m",
        "xs",
        "xs",
        "k = m % len(xs)\nxs = xs[k:] + xs[:k]",
        "Move as many numbers from the front to the end as the second input says (its remainder by the length).",
        also="m",
    ),
)

OPERATIONS: tuple[Operation, ...] = (*_ON_NUMBER, *_ON_WORD, *_ON_LIST)
"""All operations of the levels above 0."""
