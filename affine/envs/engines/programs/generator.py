"""Generates the programs of ABD (program abduction) and DED (program deduction).

A program reads its input, applies operations one after the other, and prints. It comes with an English
specification. Level 0 is a single print statement (`program_statements`); above, `Scale` says how many
operations (`program_operations`) of which tiers are chained. Programs that fail on an input, print too
much, or print nearly always the same are refused and another one is drawn from the same random stream.

Our own programs are evaluated in this process (`evaluate`): they are made of the table's code only, so
nothing untrusted runs; a test shows that the sandbox gives the same.
"""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import CodeType

from affine.envs.engines.programs.operations import OPERATIONS, Operation
from affine.envs.engines.programs.statements import STATEMENTS, WORDS
from affine.envs.env import digest

_READ = {
    "s": "s = input()",
    "t": "t = input()",
    "n": "n = int(input())",
    "m": "m = int(input())",
    "xs": "xs = list(map(int, input().split()))",
}
_READ_CLAUSE = {
    ("s",): "Read a word.",
    ("n",): "Read a number.",
    ("xs",): "Read numbers on one line.",
    ("s", "t"): "Read two words.",
    ("n", "m"): "Read two numbers.",
    ("s", "m"): "Read a word, then a number on the next line.",
    ("xs", "m"): "Read numbers on one line, then a number on the next.",
}
_PRINT = {"s": "print(s)", "n": "print(n)", "xs": "print(*xs)"}
_TRIES, _PROBES, _LONGEST_OUTPUT = 400, 12, 400


@dataclass(frozen=True, slots=True)
class Scale:
    """How hard programs are. `operations` is their smallest and largest number, 0 for a level-0 statement; at
    least `hard` of them are of tier `tier`, none above it. `reads` lists the types the first variable may
    have, `inputs` is the number of input lines. Of 12 random inputs at least `distinct` must differ in
    their output; numbers are drawn from 0 to `largest`."""

    operations: tuple[int, int] = (0, 0)
    reads: tuple[str, ...] = ("s", "n")
    tier: int = 1
    hard: int = 0
    inputs: int = 1
    distinct: int = 2
    largest: int = 20


@dataclass(frozen=True, slots=True)
class Program:
    """A generated program.

    `structure` names its operations, `parameters` are what was drawn into them, `steps` its code by
    operation (reading first, printing last) and `gives` the variable each operation leaves its result in.
    `reason` is a level-0 statement's template of why an input gives an output.
    """

    reads: tuple[str, ...]
    steps: tuple[str, ...]
    gives: tuple[str, ...]
    spec: str
    structure: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    scale: Scale
    reason: str = ""

    @property
    def source(self) -> str:
        """The Python source, without a final newline."""
        return "\n".join(self.steps)

    @property
    def group(self) -> str:
        """The hash that must not be shared between splits, the same for ABD and DED: the operations' names;
        at level 0, where these are few, their parameters as well."""
        unseen = self.parameters if not self.scale.operations[1] else ()
        return digest("program", self.reads, self.structure, unseen)

    def draw_input(self, rng: random.Random) -> str:
        """A random standard input: one line per variable, with a final newline.

        One number in three lies beside a constant of the program, and one second word in two equals the
        first, so that both sides of a condition are met.
        """
        constants = [int(value) for name, value in self.parameters if name in ("a", "b")]
        lines: list[str] = []
        for variable in self.reads:
            if variable == "xs":
                lines.append(" ".join(str(rng.randint(0, self.scale.largest)) for _ in range(rng.randint(3, 7))))
            elif variable in ("n", "m"):
                near = constants and rng.random() < 1 / 3
                number = rng.choice(constants) + rng.randint(-1, 1) if near else rng.randint(0, self.scale.largest)
                lines.append(str(max(0, number)))
            elif variable == "t" and rng.random() < 1 / 2 and "same" in self.structure:
                lines.append(lines[-1])
            else:
                named = [value for name, value in self.parameters if name == "v"]
                mentioned = named and "rename" in self.structure and rng.random() < 1 / 3
                lines.append(named[0] if mentioned else rng.choice(WORDS))
        return "\n".join(lines) + "\n"

    def trace(self, stdin: str) -> list[str]:
        """The value after each operation, as `print` shows it."""
        lines = iter(stdin.splitlines())
        names: dict[str, object] = {"input": lambda: next(lines)}
        values = []
        for step, variable in zip(self.steps, ("", *self.gives), strict=False):
            exec(_compiled(step), names)  # noqa: S102 - the table's own code
            if variable:
                value = names[variable]
                values.append(" ".join(map(str, value)) if isinstance(value, list) else str(value))
        return values


@functools.lru_cache(maxsize=4096)
def _compiled(source: str) -> CodeType:
    return compile(source, "program.py", "exec")


def evaluate(program: Program, stdin: str) -> str:
    """What `program` prints for `stdin`, run in this process. Raises whatever the program raises."""
    lines = iter(stdin.splitlines())
    out = io.StringIO()

    def read() -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    names = {"input": read, "print": functools.partial(print, file=out)}
    exec(_compiled(program.source), names)  # noqa: S102 - the table's own code
    return out.getvalue()


def generate(scale: Scale, rng: random.Random) -> Program | None:
    """A program of `scale`; None where none was found within a fixed number of tries."""
    for _ in range(_TRIES):
        program = _statement(scale, rng) if not scale.operations[1] else _chain(scale, rng)
        if program is not None and _varied(program, rng):
            return program
    return None


def guess(program: Program, rng: random.Random) -> Program | None:
    """A random program of the same scale that reads the same input; at level 0 with constants that the
    specification mentions, as far as there are enough. None where none was found."""
    if program.scale.operations[1]:
        drawn = (generate(program.scale, rng) for _ in range(20))
        return next((other for other in drawn if other is not None and other.reads == program.reads), None)
    fitting = [name for name, statement in STATEMENTS.items() if statement.reads == program.reads]
    name = rng.choices(fitting, [STATEMENTS[name].weight for name in fitting])[0]
    constants = _draw(STATEMENTS[name].numbers, STATEMENTS[name].words, rng)
    mentioned = dict(program.parameters)
    words = [mentioned[letter] for letter in ("w", "v") if letter in mentioned]
    if STATEMENTS[name].words <= len(words):
        constants.update(zip(("w", "v"), rng.sample(words, STATEMENTS[name].words), strict=False))
    if "a" in constants and "a" in mentioned:
        constants["a"] = mentioned["a"]
    return _stated(name, constants, program.scale)


def draw_case(program: Program, rng: random.Random) -> tuple[str, str]:
    """A random input on which `program` does not fail, and what it prints."""
    while True:  # ends: `generate` saw twelve such inputs in a row
        stdin = program.draw_input(rng)
        output = output_of(program, stdin)
        if output is not None:
            return stdin, output


def hit_rate(program: Program, output: str, rng: random.Random, samples: int = 10_000) -> float:
    """The share of random inputs whose output is `output`: how easily abduction is solved by guessing."""
    return sum(output_of(program, program.draw_input(rng)) == output for _ in range(samples)) / samples


def output_of(program: Program, stdin: str) -> str | None:
    """What `program` prints for `stdin`; None where it fails on it."""
    try:
        return evaluate(program, stdin)
    except (ValueError, IndexError, ZeroDivisionError):  # the largest of an empty list and the like
        return None


def _varied(program: Program, rng: random.Random) -> bool:
    outputs: set[str] = set()
    for _ in range(_PROBES):
        output = output_of(program, program.draw_input(rng))
        if output is None or not output.strip() or len(output) > _LONGEST_OUTPUT:
            return False
        outputs.add(output)
    return len(outputs) >= program.scale.distinct


def _draw(numbers: Mapping[str, tuple[int, int]], words: int, rng: random.Random) -> dict[str, str]:
    drawn = {name: str(rng.randint(*bounds)) for name, bounds in numbers.items()}
    return {**drawn, **dict(zip(("w", "v"), rng.sample(WORDS, words), strict=False))}


def _statement(scale: Scale, rng: random.Random) -> Program:
    name = rng.choices(list(STATEMENTS), [s.weight for s in STATEMENTS.values()])[0]
    return _stated(name, _draw(STATEMENTS[name].numbers, STATEMENTS[name].words, rng), scale)


def _stated(name: str, drawn: Mapping[str, str], scale: Scale) -> Program:
    """The level-0 program of statement `name` with the constants `drawn`."""
    statement = STATEMENTS[name]
    reason = statement.reason
    for constant, value in drawn.items():
        reason = reason.replace(f"{{{constant}}}", value)
    return Program(
        reads=statement.reads,
        steps=("\n".join(_READ[variable] for variable in statement.reads), statement.code.format(**drawn)),
        gives=(),
        spec=f"{_READ_CLAUSE[statement.reads]} {statement.clause.format(**drawn)}",
        structure=(name,),
        parameters=tuple(drawn.items()),
        scale=scale,
        reason=reason,
    )


def _chain(scale: Scale, rng: random.Random) -> Program | None:
    """Operations drawn one after the other along their types; None where the draw breaks `scale`."""
    first = rng.choice(scale.reads)
    reads = (first, "m") if scale.inputs == 2 else (first,)
    chosen: list[Operation] = []
    variable = first
    for _ in range(rng.randint(*scale.operations)):
        fitting = [
            o for o in OPERATIONS if o.takes == variable and o.tier <= scale.tier and (not o.also or o.also in reads)
        ]
        operation = rng.choice([o for o in fitting if not chosen or o.name != chosen[-1].name])
        chosen.append(operation)
        variable = operation.gives
    if sum(o.tier == scale.tier for o in chosen) < scale.hard or (len(reads) == 2 and not any(o.also for o in chosen)):
        return None
    drawn = [_draw(o.numbers, o.words, rng) for o in chosen]
    codes = [o.code.format(**values) for o, values in zip(chosen, drawn, strict=True)]
    clauses = [o.clause.format(**values) for o, values in zip(chosen, drawn, strict=True)]
    ending = "Print the list, separated by spaces." if variable == "xs" else "Print the result."
    return Program(
        reads=reads,
        steps=("\n".join(_READ[name] for name in reads), *codes, _PRINT[variable]),
        gives=tuple(o.gives for o in chosen),
        spec=" ".join([_READ_CLAUSE[reads], *clauses, ending]),
        structure=tuple(o.name for o in chosen),
        parameters=_flat(drawn),
        scale=scale,
    )


def _flat(drawn: Sequence[Mapping[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(item for values in drawn for item in values.items())
