"""Drawing tokens: the frequencies are the distribution's, and a row depends on its own stream alone."""

from __future__ import annotations

import math
import random
from itertools import accumulate

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from affine.rollout.sampling import Sampling, draw

DRAWS = 20_000
LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -1.5, -2.0])


def softmax(logits: list[float], temperature: float) -> list[float]:
    weights = [math.exp(x / temperature) for x in logits]
    return [weight / sum(weights) for weight in weights]


def nucleus(probabilities: list[float], top_p: float) -> list[float]:
    """The definition: the smallest set of most probable tokens with at least `top_p`, renormalised."""
    kept: list[int] = []
    for token in sorted(range(len(probabilities)), key=lambda k: -probabilities[k]):
        kept.append(token)
        if sum(probabilities[k] for k in kept) >= top_p:
            break
    mass = sum(probabilities[k] for k in kept)
    return [p / mass if k in kept else 0.0 for k, p in enumerate(probabilities)]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.5, 1.0), (1.0, 0.75), (0.7, 0.9)])
def test_frequencies_and_logprobs_are_the_distributions(temperature: float, top_p: float) -> None:
    expected = nucleus(softmax(LOGITS.tolist(), temperature), top_p)
    stream = random.Random(1)
    tokens, logprobs = draw(LOGITS.expand(DRAWS, -1), [stream] * DRAWS, Sampling(temperature, top_p))
    counts = [tokens.count(k) for k in range(len(expected))]
    assert [count > 0 for count in counts] == [p > 0 for p in expected]
    seen = [(c, p * DRAWS) for c, p in zip(counts, expected, strict=True) if p > 0]
    assert chisquare([c for c, _ in seen], [e for _, e in seen]).pvalue > 0.001
    for token, logprob in zip(tokens[:200], logprobs[:200], strict=True):
        assert logprob == pytest.approx(math.log(expected[token]), abs=1e-5)


def test_a_wrong_distribution_would_be_noticed() -> None:
    tokens, _ = draw(LOGITS.expand(DRAWS, -1), [random.Random(1)] * DRAWS, Sampling(1.1))
    expected = [p * DRAWS for p in softmax(LOGITS.tolist(), 1.0)]
    assert chisquare([tokens.count(k) for k in range(len(expected))], expected).pvalue < 0.001


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-30, 30), min_size=2, max_size=20, unique=True), st.floats(0.05, 0.99))
def test_top_p_keeps_the_smallest_set(quarters: list[int], top_p: float) -> None:
    logits = [q / 4 for q in quarters]
    ranked = sorted(softmax(logits, 1.0), reverse=True)
    assume(all(abs(mass - top_p) > 1e-4 for mass in accumulate(ranked)))  # on an edge rounding may decide
    expected = nucleus(softmax(logits, 1.0), top_p)
    streams = [random.Random(k) for k in range(200)]
    tokens, logprobs = draw(torch.tensor([logits] * 200), streams, Sampling(1.0, top_p))
    for token, logprob in zip(tokens, logprobs, strict=True):
        assert expected[token] > 0
        assert logprob == pytest.approx(math.log(expected[token]), abs=1e-4)


def test_greedy_takes_the_most_probable_and_uses_no_randomness() -> None:
    stream = random.Random(3)
    before = stream.getstate()
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 1.0, 2.0]])
    tokens, logprobs = draw(logits, [stream, stream], Sampling(0.0, 0.5))
    assert tokens == [1, 0]
    assert stream.getstate() == before
    assert logprobs == pytest.approx(
        [math.log(softmax(row.tolist(), 1.0)[k]) for row, k in zip(logits, (1, 0), strict=True)]
    )


def test_a_row_does_not_depend_on_the_others() -> None:
    logits = torch.randn(16, 50, generator=torch.Generator().manual_seed(0))
    together = draw(logits, [random.Random(k) for k in range(16)], Sampling(0.9, 0.95))
    for k in random.Random(0).sample(range(16), 16):
        alone = draw(logits[k : k + 1], [random.Random(k)], Sampling(0.9, 0.95))
        assert (alone[0][0], alone[1][0]) == (together[0][k], pytest.approx(together[1][k], abs=1e-6))


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.full((2000, 6), -math.inf)
    logits[:, 2] = 0.0
    logits[:, 4] = 0.0
    tokens, _ = draw(logits, [random.Random(k) for k in range(2000)], Sampling())
    assert set(tokens) == {2, 4}


class _Fixed(random.Random):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize("vocabulary", [3, 2048, 151_936])
def test_the_ends_of_the_uniform_numbers_draw_the_ends_of_the_distribution(vocabulary: int) -> None:
    logits = torch.zeros(1, vocabulary)
    assert draw(logits, [_Fixed(0.0)], Sampling())[0] == [0]
    assert draw(logits, [_Fixed(1 - 2**-53)], Sampling())[0] == [vocabulary - 1]
