"""Formulas in conjunctive normal form: generators, text, unit propagation, structural hash.

A literal is a nonzero integer, v for x_v and -v for its negation (as in DIMACS); a clause is a tuple of
literals over distinct variables; a formula is a tuple of clauses.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from pysat.solvers import Minisat22

from affine.envs.env import digest

Clause = tuple[int, ...]
Formula = tuple[Clause, ...]

RATIO = 4.26
"""Clauses per variable at which random 3-SAT is satisfiable with probability 1/2 (and hardest)."""


def literal_text(literal: int) -> str:
    return f"{'¬' if literal < 0 else ''}x{abs(literal)}"


def clause_text(clause: Clause) -> str:
    return f"({' ∨ '.join(literal_text(literal) for literal in clause)})"


def formula_text(formula: Formula) -> str:
    """The formula on one line, as the validators wrote it."""
    return " ∧ ".join(clause_text(clause) for clause in formula)


def assignment_text(literals: Iterable[int]) -> str:
    """The literals as an answer: "x1=True, x3=False"."""
    return ", ".join(f"x{abs(literal)}={literal > 0}" for literal in literals)


def solve(formula: Formula, assumptions: Sequence[int] = ()) -> list[int] | None:
    """A satisfying assignment as literals by variable number (MiniSat 2.2); None where there is none."""
    with Minisat22(bootstrap_with=formula) as solver:
        if not solver.solve(assumptions=list(assumptions)):
            return None
        model: list[int] = solver.get_model()
        return model


def propagate(formula: Formula, known: Iterable[int] = ()) -> list[tuple[int, Clause]]:
    """Unit propagation from the true literals `known`: each deduced literal with the clause that forces it.

    In rounds: first what the clauses and `known` say by themselves, in the order of the clauses, then what
    follows from that, and so on. Conflicts are not looked for; the formula and `known` are satisfiable together.
    """
    true = set(known)
    steps: dict[int, Clause] = {}
    while True:
        found: dict[int, Clause] = {}
        for clause in formula:
            if not any(literal in true for literal in clause):
                free = [literal for literal in clause if -literal not in true]
                if len(free) == 1:
                    found.setdefault(free[0], clause)
        if not found:
            return list(steps.items())
        true.update(found)
        steps |= found


def planted(rng: random.Random, variables: int, width: int) -> Formula:
    """The validators' instance: RATIO clauses per variable of `width` literals, true under a hidden assignment.

    One literal of each clause agrees with the hidden assignment, the other signs are fair coins. The
    order of the draws is part of the contract: with `random.Random(task_id)` the formulas are
    the very ones that the validators posed (affinetes, environments/affine/sat.py, November 2025).
    """
    numbers = list(range(1, variables + 1))
    hidden = {variable: rng.choice((True, False)) for variable in numbers}
    formula = []
    for _ in range(int(RATIO * variables)):
        chosen = rng.sample(numbers, width)
        agreeing = rng.choice(chosen)
        signs = [hidden[v] if v == agreeing else rng.choice((True, False)) for v in chosen]
        formula.append(tuple(v if sign else -v for v, sign in zip(chosen, signs, strict=True)))
    return tuple(formula)


def uniform(rng: random.Random, variables: int, width: int) -> Formula:
    """RATIO clauses per variable drawn uniformly without repetition, given that the formula is satisfiable.

    Nothing is planted: formulas are drawn until one has a solution (about every second, so hard ones stay in).
    """
    while True:
        drawn: dict[Clause, None] = {}
        while len(drawn) < int(RATIO * variables):
            chosen = sorted(rng.sample(range(1, variables + 1), width))
            drawn[tuple(v if rng.random() < 0.5 else -v for v in chosen)] = None
        formula = tuple(drawn)
        if solve(formula) is not None:
            return formula


def chained(rng: random.Random, variables: int, determined: int, clauses: int, premises: int) -> Formula:
    """A formula whose solution can be read off by unit propagation.

    `determined` variables are forced, the first by a unit clause, the others by a unit clause or by an
    implication from up to `premises` variables forced before it (at least one is implied). Each further
    clause is true by a forced literal, so the other variables are free: exactly
    2^(variables - determined) assignments are solutions.
    """
    order = rng.sample(range(1, variables + 1), variables)
    forced = [v if rng.random() < 0.5 else -v for v in order[:determined]]
    implied = rng.randrange(1, determined)
    formula: dict[Clause, None] = {}

    def add(literals: Iterable[int]) -> None:
        clause = tuple(sorted(literals, key=abs))
        formula[clause] = None

    for i, literal in enumerate(forced):
        if i > 0 and (i == implied or rng.random() < 0.5):
            reasons = rng.sample(forced[:i], rng.randint(1, min(i, premises)))
            add([literal, *(-reason for reason in reasons)])
        else:
            add([literal])
    loose = list(order[determined:])
    while len(formula) < clauses or loose:
        first = rng.choice(forced)
        others = [loose.pop()] if loose else []
        width = rng.randint(2, min(premises + 2, variables))
        pool = [v for v in order if v != abs(first) and v not in others]
        others += rng.sample(pool, width - 1 - len(others))
        add([first, *(v if rng.random() < 0.5 else -v for v in others)])
    result = [tuple(rng.sample(clause, len(clause))) for clause in formula]
    rng.shuffle(result)
    return tuple(result)


def formula_key(formula: Formula) -> str:
    """A hash of the formula that ignores the order of clauses and of literals."""
    return digest(*sorted(tuple(sorted(clause, key=abs)) for clause in formula))


def structure_key(formula: Formula, rounds: int = 4) -> str:
    """A hash of the formula that also ignores the names and signs of variables.

    Colour refinement (Weisfeiler and Leman) on the graph of literals and clauses, in which each literal
    is joined to its negation: formulas that are equal up to renaming and flipping variables have equal
    hashes. The converse can fail for highly regular formulas, which then share a group; that is harmless.
    """
    occurrences: dict[int, list[int]] = {}
    for index, clause in enumerate(formula):
        for literal in clause:
            occurrences.setdefault(literal, []).append(index)
            occurrences.setdefault(-literal, [])
    colour = dict.fromkeys(sorted(occurrences), 0)
    history: list[object] = []
    for _ in range(rounds):
        clause_signs = [tuple(sorted(colour[literal] for literal in clause)) for clause in formula]
        signs = {
            literal: (
                colour[literal],
                colour[-literal],
                tuple(sorted(clause_signs[i] for i in occurrences[literal])),
                tuple(sorted(clause_signs[i] for i in occurrences[-literal])),
            )
            for literal in colour
        }
        rank = {sign: number for number, sign in enumerate(sorted(set(signs.values())))}
        history.append((sorted(clause_signs), sorted(signs.values())))
        colour = {literal: rank[sign] for literal, sign in signs.items()}
    return digest(*history)
