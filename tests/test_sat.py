"""SAT: generators against brute force, the checker against a solver, the expert, determinism, fuzz."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affine.collect.play import play
from affine.envs.engines.sat.formula import (
    Formula,
    chained,
    formula_key,
    formula_text,
    planted,
    propagate,
    solve,
    structure_key,
    uniform,
)
from affine.envs.env import EnvError, EnvSettings, Mode
from affine.envs.sat import Sat, answer_line, assignments, falsified
from affine.envs.sat_expert import SUCCESS
from affine.types import Split, Task


def task(level: int, id: int, seed: int = 0) -> Task:
    return Task("sat", level, id, seed, Split.TRAIN)


def holds(formula: Formula, values: tuple[bool, ...]) -> bool:
    """The definition: every clause has a literal whose variable has its sign."""
    return all(any(values[abs(literal) - 1] == (literal > 0) for literal in clause) for clause in formula)


def solutions(formula: Formula, variables: int) -> int:
    return sum(holds(formula, values) for values in itertools.product((False, True), repeat=variables))


class TestFormulas:
    def test_the_validators_formulas(self) -> None:
        """The text of upstream's 500 task ids, as its own generator wrote them (recorded once)."""
        text = "\n".join(formula_text(planted(random.Random(id), 15, 10)) for id in range(500))
        recorded = "7daee930e3339086c8fe8d41ec9ad940e67a3742baf5813465a3aa4c004bad33"
        assert hashlib.sha256(text.encode()).hexdigest() == recorded

    def test_the_last_level_is_the_validators(self) -> None:
        env = Sat()
        last = max(Sat.levels)
        for id in (0, 7, 499):
            env.reset(task(last, id, seed=id + 3))
            assert env.formula == planted(random.Random(id), 15, 10), "the seed plays no part"
        assert len(env.formula) == 63
        assert all(len({abs(literal) for literal in clause}) == 10 for clause in env.formula)

    def test_random_assignments_pass_upstream_but_not_the_honest_levels(self) -> None:
        rng = random.Random(0)

        def pass_rate(formulas: list[Formula], variables: int) -> float:
            passed = [
                holds(f, tuple(rng.random() < 0.5 for _ in range(variables))) for f in formulas for _ in range(20)
            ]
            return sum(passed) / len(passed)

        upstream = pass_rate([planted(random.Random(id), 15, 10) for id in range(100)], 15)
        assert upstream == pytest.approx((1 - 2**-10) ** 63, abs=0.02)
        assert pass_rate([uniform(random.Random(id), 20, 3) for id in range(20)], 20) < 0.01

    @pytest.mark.parametrize("seed", range(30))
    def test_uniform_is_3sat_at_the_threshold(self, seed: int) -> None:
        formula = uniform(random.Random(seed), 10, 3)
        assert len(formula) == 42
        assert len({frozenset(clause) for clause in formula}) == 42
        assert all(len({abs(literal) for literal in clause}) == 3 for clause in formula)
        assert solutions(formula, 10) > 0

    def test_uniform_signs_are_fair(self) -> None:
        """Not planted: literals have no tendency towards any solution's signs beyond chance of rejection."""
        literals = [lit for seed in range(60) for clause in uniform(random.Random(seed), 20, 3) for lit in clause]
        assert sum(literal > 0 for literal in literals) / len(literals) == pytest.approx(0.5, abs=0.02)

    @pytest.mark.parametrize("seed", range(60))
    def test_chained_is_solved_by_propagation(self, seed: int) -> None:
        rng = random.Random(seed)
        variables, premises = rng.randint(3, 7), rng.randint(1, 2)
        determined = rng.randint(2, variables)
        formula = chained(rng, variables, determined, rng.randint(3, 9), premises)
        deduced = [literal for literal, _ in propagate(formula)]
        assert len(deduced) == determined
        assert all(set(clause) & set(deduced) for clause in formula), "what is deduced makes every clause true"
        assert solutions(formula, variables) == 2 ** (variables - determined)
        assert any(len(clause) > 1 for _, clause in propagate(formula)), "units alone don't do"

    @pytest.mark.parametrize("seed", range(20))
    def test_propagation_deduces_only_what_follows(self, seed: int) -> None:
        formula = uniform(random.Random(seed), 12, 3)
        model = solve(formula)
        assert model is not None
        known = model[:4]
        for literal, clause in propagate(formula, known):
            assert literal in clause
            assert solve(formula, [*known, -literal]) is None

    @pytest.mark.parametrize("seed", range(20))
    def test_solver_agrees_with_brute_force(self, seed: int) -> None:
        rng = random.Random(seed)
        formula = tuple(tuple(v * rng.choice((1, -1)) for v in rng.sample(range(1, 7), 2)) for _ in range(13))
        model = solve(formula)
        assert (model is not None) == (solutions(formula, 6) > 0)
        if model is not None:
            assert falsified(formula, {abs(literal): literal > 0 for literal in model}) is None


class TestHashes:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10**6), st.randoms(use_true_random=False))
    def test_group_ignores_names_and_signs_and_key_does_not(self, seed: int, rng: random.Random) -> None:
        formula = uniform(random.Random(seed), 8, 3)
        shuffled = tuple(tuple(rng.sample(clause, 3)) for clause in rng.sample(formula, len(formula)))
        assert formula_key(shuffled) == formula_key(formula)
        names = rng.sample(range(1, 9), 8)
        signs = [rng.choice((1, -1)) for _ in names]
        renamed = tuple(
            tuple(names[abs(lit) - 1] * signs[abs(lit) - 1] * (1 if lit > 0 else -1) for lit in clause)
            for clause in shuffled
        )
        assert structure_key(renamed) == structure_key(formula)

    def test_different_structures_differ(self) -> None:
        keys = {structure_key(uniform(random.Random(seed), 8, 3)) for seed in range(100)}
        assert len(keys) == 100
        assert structure_key(((1,), (1, 2))) != structure_key(((1,), (-1, 2)))

    def test_level_zero_has_thousands_of_formulas(self) -> None:
        env = Sat()
        contents = [env.content(0, id, 0) for id in range(4000)]
        assert len({content.key for content in contents if content}) > 3000
        groups = {content.group for content in contents if content}
        assert len(groups) > 600
        in_test = {content.key for content in contents if content and int(content.group[:4], 16) % 10 < 3}
        assert len(in_test) > 500, "a split by groups leaves hundreds of tasks"
        assert env.content(0, -1, 0) is None


class TestChecker:
    def make(self, mode: Mode = "fixed") -> Sat:
        env = Sat(EnvSettings(mode=mode))
        env.reset(task(0, 0))
        env.formula = ((1, 2), (-1, 3))
        return env

    @pytest.mark.parametrize(
        ("reply", "score"),
        [
            ("x1=True, x2=False, x3=True", 1.0),
            ("x1=1,x3=1", 1.0),  # x2 is missing, both clauses hold
            ("x2=True, x1=False", 1.0),
            ("x2=True", 0.0),  # x1 is unassigned, so ¬x1 is not true
            ("x1=True, x3=True, x1=False", 0.0),  # overridden
            ("x1=False, x1=True, x3=True", 1.0),
            ("x1 = True, x3 = True", 0.0),
            ("x1=true, x3=true", 0.0),
            ("X1=True, X3=True", 0.0),
            ("x01=True, x3=True, x99=False", 1.0),
            ("UNSAT", 0.0),
            ("", 0.0),
        ],
    )
    @pytest.mark.parametrize("mode", ["fixed", "upstream"])
    def test_verdicts(self, reply: str, score: float, mode: Mode) -> None:
        env = self.make(mode)
        result = env.step(reply)
        assert (result.reward, env.score(), env.solved(), result.done) == (score, score, score == 1.0, True)

    @pytest.mark.parametrize(
        ("reply", "fixed", "upstream"),
        [
            ("If x3=True and x1=True both hold.\nSo: x2=False", 0.0, 1.0),  # the thought fills in what is missing
            ("x1=True, x3=True\n<think>or x1=False?</think>", 1.0, 0.0),  # the thought overrides
            ("<think>x1=False\n</think>x1=True, x3=True", 1.0, 1.0),
            ("<think>x1=True, x3=True", 1.0, 1.0),  # not closed: not removed
            ("x1=False\nx1=True, x3=True\nDone.", 1.0, 1.0),
        ],
    )
    def test_what_counts_differs_by_mode(self, reply: str, fixed: float, upstream: float) -> None:
        assert self.make("fixed").step(reply).reward == fixed
        assert self.make("upstream").step(reply).reward == upstream

    def test_only_one_answer(self) -> None:
        env = self.make()
        env.step("x1=False")
        again = env.step("x1=True, x3=True")
        assert (again.reward, again.done, again.valid, env.score()) == (0.0, True, False, 0.0)

    @settings(max_examples=150, deadline=None)
    @given(
        st.one_of(
            st.text(st.characters(exclude_categories=())),
            st.from_regex(r"(x[0-9]{1,3}=(True|False|1|0)[, \n]*){1,9}"),
            st.sampled_from(
                ["<think>" * 50_000, "x" + "9" * 50_000 + "=True", "\ud800x1=True", "x٣=True", "\0", "Action: x1=1"]
            ),
        )
    )
    def test_any_reply_gets_the_definitions_verdict(self, reply: str) -> None:
        for mode in ("fixed", "upstream"):
            env = self.make(mode)
            read = assignments(reply if mode == "upstream" else answer_line(reply))
            true = {number if value else -number for number, value in read.items()}
            assert env.step(reply).reward == float(all(true & set(clause) for clause in env.formula))


class TestEpisodes:
    def test_prompts(self, tmp_path: Path) -> None:
        for wording in ("brief", "full"):
            env = Sat(EnvSettings(prompts=wording))
            (message,) = env.reset(task(7, 3))
            assert message.content.endswith("\n" + formula_text(env.formula))
        assert "x1 to x15" in message.content
        own = tmp_path / "prompts.yaml"
        own.write_text("sat: {instruction: 'Solve {formula} over {variables} variables.'}")
        env = Sat(EnvSettings(prompts=str(own)))
        (message,) = env.reset(task(7, 3))
        assert message.content == f"Solve {formula_text(env.formula)} over 15 variables."

    def test_tasks_that_do_not_exist(self) -> None:
        with pytest.raises(EnvError, match="no level 8"):
            Sat().reset(task(8, 0))
        with pytest.raises(EnvError, match="without end"):
            Sat().reset(task(0, -1))

    @pytest.mark.parametrize("mode", ["fixed", "upstream"])
    @pytest.mark.parametrize("level", sorted(Sat.levels))
    def test_expert_solves(self, level: int, mode: Mode) -> None:
        env = Sat(EnvSettings(mode=mode))
        for style in ("action", "thought"):
            played = [play(env, task(level, id), random.Random(id), style=style) for id in range(20)]  # type: ignore[arg-type]
            assert sum(episode.solved for episode in played) / 20 >= SUCCESS[level]
        longest = max(len(episode.turns[0].text.partition("\n")[0].split()) for episode in played)
        assert longest <= (12 if level == 0 else 20)

    def test_expert_writes_each_value_after_its_reasons(self) -> None:
        env = Sat()
        for id in range(50):
            played = play(env, task(1, id), random.Random(0))
            answer = list(assignments(played.turns[0].text).items())
            forced = {abs(literal): clause for literal, clause in propagate(env.formula)}
            seen: set[int] = set()
            for variable, _ in answer:
                if variable in forced:
                    assert {abs(literal) for literal in forced[variable]} - {variable} <= seen
                seen.add(variable)
            assert seen == set(env.variables)

    def test_guessing_scores_between_nothing_and_everything(self) -> None:
        env = Sat()
        scores = [play(env, task(0, id), random.Random(id), noise=1.0).score for id in range(400)]
        assert 0.12 < sum(scores) / 400 < 0.3

    def test_same_bytes_in_any_process(self) -> None:
        code = (
            "import random\n"
            "from affine.collect.play import play\n"
            "from affine.envs.env import make\n"
            "from affine.types import Split, Task, to_json\n"
            "env = make('sat')\n"
            "for level in env.levels:\n"
            "    task = Task('sat', level, 11, 1, Split.TRAIN)\n"
            "    played = play(env, task, random.Random(5), style='thought', noise=0.3)\n"
            "    print(env.content(level, 11, 1), to_json(played))\n"
        )
        outputs = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
                text=True,
            ).stdout
            for seed in ("0", "4242")
        }
        assert len(outputs) == 1
