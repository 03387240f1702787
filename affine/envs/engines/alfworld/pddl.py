"""PDDL problems of ALFWorld's domain `alfred`: parsing, and goals turned into sets of facts to wait for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from affine.errors import AffineError

Fact = tuple[str, ...]
"""A ground atom: predicate, then identifiers, all lower case."""
Node = str | list["Node"]

_TOKEN = re.compile(r"[()]|[^\s()]+")
_COMMENT = re.compile(r";[^\n]*")
CHANGING = frozenset(
    {"atlocation", "objectatlocation", "inreceptacle", "opened", "holds"}
    | {"isclean", "ishot", "iscool", "issliced", "istoggled"}
)
"""Predicates that actions change and goals ask for."""


class ProblemError(AffineError):
    """A PDDL problem that this engine cannot play; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Block:
    """One `exists` of the goal, nested ones flattened: typed variables and the atoms that must hold."""

    variables: tuple[tuple[str, str], ...]
    atoms: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """A parsed problem: identifiers by type, initial facts, goal."""

    objects: Mapping[str, tuple[str, ...]]
    facts: tuple[Fact, ...]
    goal: tuple[Block, ...]


def parse_problem(text: str) -> Problem:
    """The problem in `text`. Raises ProblemError where it is no PDDL problem or its goal is not conjunctive."""
    stack: list[list[Node]] = [[]]
    for word in _TOKEN.findall(_COMMENT.sub("", text).lower()):
        if word == "(":
            stack.append([])
        elif word == ")":
            if len(stack) == 1:
                raise ProblemError("PDDL problem: one ')' too many")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(word)
    if len(stack) != 1 or not stack[0] or not isinstance(stack[0][0], list):
        raise ProblemError("PDDL problem: parentheses do not match")
    sections = {str(node[0]): node[1:] for node in stack[0][0] if isinstance(node, list) and node}
    if not {":objects", ":init", ":goal"} <= sections.keys():
        raise ProblemError("PDDL problem: needs :objects, :init and :goal")
    objects: dict[str, list[str]] = {}
    for name, kind in _typed([str(node) for node in sections[":objects"]]):
        objects.setdefault(kind, []).append(name)
    facts = tuple(tuple(map(str, node)) for node in sections[":init"] if isinstance(node, list) and node[0] != "=")
    return Problem({kind: tuple(names) for kind, names in objects.items()}, facts, tuple(_blocks(sections[":goal"][0])))


def _typed(tokens: list[str]) -> Iterator[tuple[str, str]]:
    """(name, type) pairs of a PDDL typed list such as `?a ?b - object ?l - location`."""
    names: list[str] = []
    words = iter(tokens)
    for word in words:
        if word == "-":
            kind = next(words)
            yield from ((name, kind) for name in names)
            names = []
        else:
            names.append(word)


def _blocks(node: Node) -> Iterator[Block]:
    """The existential blocks of a goal."""
    if isinstance(node, list) and node[0] == "and":
        for child in node[1:]:
            yield from _blocks(child)
    else:
        variables: list[tuple[str, str]] = []
        atoms: list[Fact] = []
        _flatten(node, variables, atoms)
        yield Block(tuple(variables), tuple(atoms))


def _flatten(node: Node, variables: list[tuple[str, str]], atoms: list[Fact]) -> None:
    match node:
        case ["exists", [*declared], body]:
            variables.extend(_typed([str(word) for word in declared]))
            _flatten(body, variables, atoms)
        case ["and", *children]:
            for child in children:
                _flatten(child, variables, atoms)
        case ["not", ["=", str(first), str(second)]]:
            atoms.append(("differ", first, second))
        case [str(name), *arguments] if name not in ("or", "not", "forall", "imply", "when"):
            atoms.append((name, *(str(argument) for argument in arguments)))
        case _:
            raise ProblemError(f"PDDL goal: {node!r} is not a conjunction of atoms under `exists`")


def alternatives(block: Block, problem: Problem, static: frozenset[Fact]) -> list[tuple[Fact, ...]]:
    """Every way to satisfy `block`, as the changing facts that must hold together.

    Variables are bound one by one; a binding that contradicts a fact that no action changes is dropped at once.
    """
    bindings: list[dict[str, str]] = [{}]
    for variable, kind in block.variables:
        checks = [atom for atom in block.atoms if variable in atom and (atom[0] == "differ" or atom[0] not in CHANGING)]
        extended = []
        for binding in bindings:
            for value in problem.objects.get(kind, ()):
                bound = {**binding, variable: value}
                ground = [_ground(atom, bound) for atom in checks if _is_bound(atom, bound)]
                if all(fact[1] != fact[2] if fact[0] == "differ" else fact in static for fact in ground):
                    extended.append(bound)
        bindings = extended
    return [tuple(_ground(atom, binding) for atom in block.atoms if atom[0] in CHANGING) for binding in bindings]


def _is_bound(atom: Fact, binding: Mapping[str, str]) -> bool:
    return all(not word.startswith("?") or word in binding for word in atom[1:])


def _ground(atom: Fact, binding: Mapping[str, str]) -> Fact:
    return tuple(binding.get(word, word) for word in atom)
