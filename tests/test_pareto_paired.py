"""Paired posteriors and joint statements against closed forms, enumeration and simulation."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pareto_episodes import episode
from scipy import stats

from affine.fingerprint import fingerprint
from affine.pareto.evidence import EnvEffect, accumulate, effect, weigh
from affine.pareto.joint import holm, joint, probability
from affine.pareto.paired import Pairs, clusters, first_tasks, pair, posterior
from affine.pareto.power import discordance, paired_power
from affine.pareto.summary import EnvResult, EvaluationError, summarise
from affine.types import Episode, to_json


def _pairs(differences: list[float], groups: list[str] | None = None, env: str = "sat") -> Pairs:
    return Pairs(env, tuple(differences), tuple(groups or [""] * len(differences)), 0, 0)


def _result(model: str, episodes: list[Episode]) -> EnvResult:
    return summarise([to_json(e) for e in episodes], f"{model}.jsonl", model, "sat")


@pytest.mark.parametrize(("won", "lost", "tied"), [(12, 5, 83), (0, 0, 40), (3, 9, 0), (30, 2, 200)])
def test_zero_one_posterior_is_the_jeffreys_dirichlet(won: int, lost: int, tied: int) -> None:
    drawn = posterior(_pairs([1.0] * won + [-1.0] * lost + [0.0] * tied), 200_000, "test")
    exact = stats.beta(0.5 + won, 0.5 + lost).sf(0.5)
    assert np.mean(drawn > 0) == pytest.approx(exact, abs=0.005)
    alpha = np.array([0.5 + won, 0.5 + lost, 0.5 + tied])
    share = alpha / alpha.sum()
    assert drawn.mean() == pytest.approx(share[0] - share[1], abs=0.001)
    variance = (share[0] + share[1] - (share[0] - share[1]) ** 2) / (alpha.sum() + 1)
    assert drawn.var() == pytest.approx(variance, rel=0.03)


def test_fractions_have_the_bootstraps_moments() -> None:
    rng = np.random.default_rng(0)
    differences = list(np.round(rng.normal(0.1, 0.3, 150).clip(-1, 1), 3))
    drawn = posterior(_pairs(differences), 100_000, "test")
    values = np.array([*differences, 1.0, 0.0, -1.0])
    weights = np.array([1.0] * 150 + [0.5] * 3)
    mean = np.average(values, weights=weights)
    assert drawn.mean() == pytest.approx(mean, abs=0.001)
    variance = np.average((values - mean) ** 2, weights=weights) / (weights.sum() + 1)
    assert drawn.var() == pytest.approx(variance, rel=0.03)


def test_order_of_tasks_does_not_matter_and_groups_do() -> None:
    differences = [1.0] * 20 + [0.0] * 60 + [-1.0] * 10
    groups = [f"g{i // 9}" for i in range(90)]
    drawn = posterior(_pairs(differences, groups), 5000, "test")
    order = list(range(90))
    random.Random(0).shuffle(order)
    shuffled = _pairs([differences[i] for i in order], [groups[i] for i in order])
    assert np.array_equal(drawn, posterior(shuffled, 5000, "test"))
    assert drawn.std() > 1.5 * posterior(_pairs(differences), 5000, "test").std()


def test_one_common_group_counts_as_no_group() -> None:
    differences = [1.0, 0.0, -1.0, 1.0, 0.0]
    assert np.array_equal(
        posterior(_pairs(differences, ["g"] * 5), 1000, "test"), posterior(_pairs(differences), 1000, "test")
    )
    sums, sizes = clusters(_pairs(differences, ["a", "a", "b", "", ""]))
    assert sorted(zip(sums, sizes, strict=True)) == [(-1.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 2.0)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=40))
def test_swapping_sides_mirrors_the_posterior(differences: list[float]) -> None:
    ahead = posterior(_pairs(differences), 20_000, "a")
    behind = posterior(_pairs([-d for d in differences]), 20_000, "b")
    assert np.mean(ahead > 0) == pytest.approx(1 - np.mean(behind > 0), abs=0.025)
    assert np.all(np.abs(ahead) <= 1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 5))
def test_one_more_win_raises_p_better(won: int, lost: int, more: int) -> None:
    few = posterior(_pairs([1.0] * won + [-1.0] * lost + [0.0] * more), 20_000, "a")
    many = posterior(_pairs([1.0] * (won + more) + [-1.0] * lost), 20_000, "a")
    assert np.mean(many > 0) >= np.mean(few > 0) - 0.02


@pytest.mark.parametrize(("clusters_", "size"), [(200, 1), (20, 8)])
def test_calibration_at_no_difference(clusters_: int, size: int) -> None:
    """With no true difference 80 % intervals hold 0, and 3.5 % are called better; Monte Carlo error ~1.5 %, 0.8 %."""
    rng = np.random.default_rng(4)
    held = better = worse = 0
    runs = 600
    for run in range(runs):
        lean = np.repeat(rng.normal(0, 0.15 if size > 1 else 0.0, clusters_), size)
        luck = rng.random(clusters_ * size)
        differences = np.where(luck < 0.15 + lean, 1.0, np.where(luck > 0.85 + lean, -1.0, 0.0))
        groups = [f"g{i // size}" for i in range(len(luck))]
        found = effect(posterior(_pairs(list(differences), groups), 1000, str(run)), 0.0, 0.8, 0.02, 0.035)
        held += found.difference.low <= 0 <= found.difference.high
        better += found.decision == "better"
        worse += found.decision == "worse"
    assert held / runs == pytest.approx(0.8, abs=0.05)
    assert (better + worse) / (2 * runs) == pytest.approx(0.035, abs=0.018)


@pytest.mark.parametrize("lift", [0.05, 0.1, 0.2])
def test_calibration_at_known_differences(lift: float) -> None:
    """80 % intervals hold the true difference, and the better model is found as often as enumeration says."""
    rng = np.random.default_rng(6)
    won, lost = discordance(0.5, 0.5 + lift, 0.5)
    held = better = 0
    runs = 500
    for run in range(runs):
        luck = rng.random(200)
        differences = (luck < won) * 1.0 - (luck > 1 - lost)
        found = effect(posterior(_pairs(list(differences)), 1000, f"{lift}/{run}"), 0.0, 0.8, 0.02, 0.035)
        held += found.difference.low <= lift <= found.difference.high
        better += found.decision == "better"
    assert held / runs == pytest.approx(0.8, abs=0.055)  # three Monte Carlo errors
    assert better / runs == pytest.approx(paired_power(200, 0.5, 0.5 + lift, 0.5), abs=0.075)


def test_what_types_as_clusters_answer() -> None:
    """Six types of 50 tasks with effects of their own. The 80 % interval over tasks holds the mean over these six
    types; over types it holds the mean of all types they could have been drawn from, and is needlessly wide for these
    six. Monte Carlo error 2 %."""
    rng = np.random.default_rng(11)
    held = dict.fromkeys(("these, tasks", "these, types", "any, tasks", "any, types"), 0)
    runs, types = 400, [f"t{i // 50}" for i in range(300)]
    for run in range(runs):
        lean = rng.normal(0.1, 0.12, 6).clip(-0.3, 0.5)
        luck = rng.random(300)
        each = np.repeat(lean, 50)
        differences = np.where(luck < 0.25 + each / 2, 1.0, np.where(luck > 0.75 + each / 2, -1.0, 0.0))
        for how, groups in (("tasks", None), ("types", types)):
            drawn = posterior(_pairs(list(differences), groups), 1000, f"{how}/{run}")
            low, high = np.quantile(drawn, [0.1, 0.9])
            held[f"these, {how}"] += low <= lean.mean() <= high
            held[f"any, {how}"] += low <= 0.1 <= high
    share = {what: count / runs for what, count in held.items()}
    assert share["these, tasks"] == pytest.approx(0.8, abs=0.06)
    assert share["any, types"] == pytest.approx(0.8, abs=0.06)
    assert share["any, tasks"] < 0.7
    assert share["these, types"] > 0.9


def test_types_are_weighed_beside_the_groups() -> None:
    """Better in five of six types, worse in one: certain for these tasks, not for types like these."""

    def records(model: str, kinds: int) -> EnvResult:
        solved = [model == "ppo" if i % kinds else model == "sft" for i in range(120)]
        episodes = [episode(id=i, score=float(s), model=model) for i, s in enumerate(solved)]
        return _result(model, [replace(e, task_type=f"t{i % kinds}") for i, e in enumerate(episodes)])

    def weighed(kinds: int) -> tuple[Pairs, EnvEffect]:
        pairs = pair(records("ppo", kinds), records("sft", kinds))
        evidence = weigh({"sat": pairs}, "s", level=0.8, margin=0.02, error=0.035, draws=20_000)
        return pairs, evidence.env["sat"]

    pairs, found = weighed(6)
    assert found.effect.p_better > 0.999
    assert (found.groups, len(set(pairs.types))) == (120, 6)
    # Beside it a t test of the six types' means, which is what six clusters of equal size come to.
    means = [np.mean(np.array(pairs.differences)[np.array(pairs.types) == f"0/t{k}"]) for k in range(6)]
    by_hand = 1 - stats.ttest_1samp(means, 0, alternative="greater").pvalue
    assert found.p_better_types == pytest.approx(by_hand, abs=0.03)
    assert weighed(4)[1].p_better_types is None
    early = first_tasks(pairs, 30)
    assert [name == "0/t0" for name in early.types] == [d < 0 for d in early.differences]


def test_pairs_are_made_by_task_and_overlap_is_reported() -> None:
    ours = _result("ppo", [episode(id=i, score=1.0, model="ppo") for i in range(0, 8)])
    theirs = _result("sft", [episode(id=i, score=float(i % 2), model="sft") for i in range(9, 1, -1)])
    found = pair(ours, theirs)
    assert found.differences == (1.0, 0.0, 1.0, 0.0, 1.0, 0.0)
    assert (found.only_challenger, found.only_incumbent) == (2, 2)
    assert pair(theirs, ours).differences == tuple(-d for d in found.differences)


def test_samples_of_one_task_are_averaged() -> None:
    ours = _result("ppo", [episode(score=s, sample=k) for k, s in enumerate((1.0, 0.0, 1.0, 1.0))])
    theirs = _result("sft", [episode(score=s, sample=k, model="sft") for k, s in enumerate((0.0, 1.0))])
    assert pair(ours, theirs).differences == (0.25,)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (episode(fingerprint="beef", model="sft"), r"sat: ppo and sft .*different evaluators \(f00d, beef\)"),
        (episode(id=5, model="sft"), "no task in common"),
        (episode(key="other", model="sft"), r"task 0 of level 0 is not the same for ppo and sft \(sat-0 and other\)"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(theirs: Episode, said: str) -> None:
    with pytest.raises(EvaluationError, match=said) as caught:
        pair(_result("ppo", [episode()]), _result("sft", [theirs]))
    assert len(str(caught.value).splitlines()) <= 2


def _described(model: str, **evaluator: object) -> EnvResult:
    result = _result(model, [episode(id=i, model=model) for i in range(3)])
    return replace(result, fingerprint=fingerprint(evaluator), evaluator=evaluator)


def test_a_refusal_names_what_differs_and_what_may_differ_is_kept() -> None:
    ours = _described("ppo", rendering="by the server", sampling={"temperature": 0.0, "top_p": 1.0}, context=768)
    theirs = _described("sft", rendering="chatml-1", sampling={"temperature": 0.7, "top_p": 1.0}, context=768)
    with pytest.raises(EvaluationError) as caught:
        pair(ours, theirs)
    assert "rendering 'by the server' and 'chatml-1'; sampling.temperature 0.0 and 0.7" in str(caught.value)
    assert "context" not in str(caught.value)
    assert "top_p" not in str(caught.value)
    with pytest.raises(EvaluationError, match=r"\(.*: sampling\.temperature 0\.0 and 0\.7\)"):
        pair(ours, theirs, may_differ=["rendering"])
    found = pair(ours, theirs, may_differ=["sampling", "rendering"])
    assert found.differing == ("rendering", "sampling")
    assert len(found.differences) == 3
    unknown = replace(theirs, evaluator={})
    with pytest.raises(EvaluationError, match="different evaluators"):  # what is not known may not differ
        pair(ours, unknown, may_differ=["sampling", "rendering"])


def test_joint_is_the_product_and_enumerates() -> None:
    rng = np.random.default_rng(0)
    draws = {env: rng.normal(shift, 0.05, 40_000) for env, shift in zip("abcd", (0.1, 0.05, 0.02, 0.0), strict=True)}
    found = joint(draws, 0.02)
    each = [stats.norm(shift, 0.05).sf(0) for shift in (0.1, 0.05, 0.02, 0.0)]
    assert found.all_better.value == pytest.approx(np.prod(each), abs=4 * found.all_better.error)
    assert found.expected_better == pytest.approx(sum(each), abs=0.02)
    parts = [stats.norm(s, 0.05).cdf([-0.02, 0.02]) for s in (0.1, 0.05, 0.02, 0.0)]
    exact = sum(
        np.prod([(high - low) if level == 0 else 1 - high for (low, high), level in zip(parts, levels, strict=True)])
        for levels in itertools.product((0, 1), repeat=4)
        if any(levels)
    )
    assert found.some_better_none_worse.value == pytest.approx(exact, abs=4 * found.some_better_none_worse.error)
    assert sum(found.share.values()) == pytest.approx(1)
    assert max(found.share, key=lambda env: found.share[env]) == "d"
    order = [found.share[env] for env in "abcd"]
    assert order == sorted(order)


def test_monte_carlo_error_is_never_zero() -> None:
    for hits in (np.zeros(100, dtype=bool), np.ones(100, dtype=bool)):
        assert 0 < probability(hits).error < 0.02
    assert probability(np.arange(100) < 50).error == pytest.approx(0.05, rel=0.01)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.001, 0.5))
def test_holm_is_the_closed_bonferroni_test(p_values: list[float], error: float) -> None:
    """By definition: a hypothesis falls iff Bonferroni rejects every set of hypotheses that holds it."""
    adjusted = holm(p_values)
    for i, value in enumerate(adjusted):
        others = [j for j in range(len(p_values)) if j != i]
        sets = [(i, *rest) for k in range(len(p_values)) for rest in itertools.combinations(others, k)]
        closed = max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets)
        assert value == pytest.approx(closed)


def test_evidence_needs_no_luck_with_order_and_repeats_exactly() -> None:
    pairs = {env: _pairs([1.0] * 40 + [0.0] * 50 + [-1.0] * 10, env=env) for env in ("sat", "ded")}
    first, again = (weigh(pairs, "a/b", level=0.8, margin=0.02, error=0.035, draws=2000) for _ in range(2))
    assert first == again
    assert first.env["sat"].effect != first.env["ded"].effect  # each environment has its own stream
    assert first.overall.decision == "better"
    assert first.overall.difference.mean == pytest.approx(0.3)
    assert first.overall.spread < first.env["sat"].effect.spread
    assert not first.env["sat"].worse_holm


def test_accumulated_evidence_ends_with_all_tasks() -> None:
    pairs = {env: _pairs([1.0] * 40 + [0.0] * 50 + [-1.0] * 10, env=env) for env in ("sat", "ded")}
    steps = accumulate(pairs, "a/b", margin=0.02, draws=2000)
    assert [step.tasks for step in steps] == list(range(10, 101, 10))
    assert steps[-1].p_all_better > 0.95
    part = first_tasks(pairs["sat"], 30)
    assert len(part.differences) == 30
    assert first_tasks(pairs["sat"], 100).differences == pairs["sat"].differences
