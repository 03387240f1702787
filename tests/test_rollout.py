"""The rollout engine against a plain forward of the whole text, the trainer's log-probabilities, and death."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import OUT_OF_MEMORY, make_tiny_adapter, make_tiny_base
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from affine.collect.play import play
from affine.envs.env import EnvError, EnvSettings, make
from affine.models.chat import Renderer
from affine.models.lora import base_digest, load_adapter, load_base
from affine.rollout.episodes import EnvPool, Limits, Ticket, play_episodes
from affine.rollout.generator import CachedGenerator, make_generator
from affine.rollout.pool import Players, RolloutError, RolloutPool
from affine.rollout.ragged import SHARED, RaggedGenerator
from affine.rollout.sampling import Sampling
from affine.rollout.weights import NO_ADAPTER, AdapterWeights, Folded, read_adapter
from affine.tasks import draw_tasks
from affine.training.ppo import Policy, Sample, pad, to_sample
from affine.types import Split, StopReason, Task, Trajectory

CONTEXT = 400
SETTINGS = EnvSettings()
LIMITS = Limits(CONTEXT, 12)
Engine = type[CachedGenerator] | type[RaggedGenerator]
PLAYED = ("sat", "textcraft", "babyai", "alfworld")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("rollout") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return make_tiny_adapter(base, base.parent / "adapter")


@pytest.fixture(scope="module")
def renderer(base: Path) -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(base))


@pytest.fixture(scope="module")
def tasks() -> dict[str, list[Task]]:
    drawn = {}
    for name in PLAYED:
        env = make(name, SETTINGS)
        drawn[name] = draw_tasks(env, 0, 0, {Split.TRAIN: 4})
        env.close()
    return drawn


@pytest.fixture(scope="module")
def tickets(tasks: dict[str, list[Task]]) -> list[Ticket]:
    return [Ticket(task, sample, 5) for sample in range(2) for row in zip(*tasks.values(), strict=True) for task in row]


def load(base: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa").eval()


def episodes(
    base: Path, tickets: Sequence[Ticket], slots: int, limits: Limits = LIMITS, weights: AdapterWeights = NO_ADAPTER
) -> list[Trajectory]:
    model = load(base)
    Folded(model).load(weights)
    envs = EnvPool(SETTINGS)
    try:
        return play_episodes(
            tickets,
            generator=make_generator(model, slots, limits.context),
            renderer=Renderer(AutoTokenizer.from_pretrained(base)),
            envs=envs,
            sampling=Sampling(),
            limits=limits,
        )
    finally:
        envs.close()


# --- the generator -----------------------------------------------------------------------------------------


engines = pytest.mark.parametrize("engine", [CachedGenerator, RaggedGenerator])


def test_the_engine_suits_the_model(base: Path) -> None:
    model = load(base)
    assert isinstance(make_generator(model, 1, 8), RaggedGenerator)
    assert isinstance(make_generator(model.to(torch.bfloat16), 1, 8), CachedGenerator)
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    assert isinstance(make_generator(LlamaForCausalLM(config), 1, 8), CachedGenerator)


@engines
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_logits_are_those_of_a_plain_forward(base: Path, engine: Engine, seed: int) -> None:
    """Random schedules: ragged chunks, slots in any order, slots freed and used again, some with the beginning of
    another's text."""
    rng = random.Random(seed)
    model = load(base)
    vocabulary = model.config.vocab_size
    stem = [rng.randrange(vocabulary) for _ in range(2 * SHARED)]
    generator = engine(model, slots=4, context=96)
    texts: dict[int, list[int]] = {slot: [] for slot in range(4)}
    for _ in range(8):
        chosen = rng.sample(range(4), rng.randint(1, 4))
        longest = rng.choice((1, 12))
        chunks = []
        for slot in chosen:
            if rng.random() < 0.2 or len(texts[slot]) > 50:
                generator.free(slot)
                texts[slot] = []
            begun = stem[: rng.randint(0, len(stem))] if not texts[slot] and rng.random() < 0.7 else []
            chunks.append([*begun, *(rng.randrange(vocabulary) for _ in range(rng.randint(1, longest)))])
            texts[slot] += chunks[-1]
        logits = generator.extend(chosen, chunks)
        for row, slot in zip(logits, chosen, strict=True):
            with torch.inference_mode():
                expected = model(torch.tensor([texts[slot]])).logits[0, -1]
            torch.testing.assert_close(row, expected, atol=2e-5, rtol=1e-4)


@engines
def test_what_other_slots_hold_changes_nothing(base: Path, engine: Engine) -> None:
    model = load(base)
    seen = []
    for junk in (7, 99):
        generator = engine(model, slots=3, context=32)
        generator.extend([0, 1, 2], [[junk] * 9, [5, 6, 7], [junk, junk]])
        seen.append(generator.extend([1, 0], [[8, 9], [junk] * 4])[0])
    assert torch.equal(seen[0], seen[1])


@engines
def test_a_freed_slot_remembers_nothing(base: Path, engine: Engine) -> None:
    generator = engine(load(base), slots=1, context=32)
    fresh = generator.extend([0], [[5, 6, 7]])
    generator.extend([0], [[50] * 20])
    generator.free(0)
    assert torch.equal(generator.extend([0], [[5, 6, 7]]), fresh)


@engines
def test_a_slot_cannot_outgrow_the_context(base: Path, engine: Engine) -> None:
    generator = engine(load(base), slots=2, context=8)
    generator.extend([0], [[1] * 8])
    with pytest.raises(ValueError, match="9 tokens does not fit into a context of 8"):
        generator.extend([0], [[1]])
    generator.extend([1], [[1] * 8])


@engines
def test_changed_weights_count_from_the_next_pass_on(base: Path, adapter: Path, engine: Engine) -> None:
    text = list(range(3, 3 + 2 * SHARED))
    model = load(base)
    generator = engine(model, slots=2, context=64)
    before = generator.extend([0], [text])
    Folded(model).load(read_adapter(adapter))
    generator.reset()
    after = generator.extend([1], [text])
    with torch.inference_mode():
        expected = model(torch.tensor([text])).logits[0, -1:]
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(after, expected, atol=2e-5, rtol=1e-4)


def test_a_beginning_that_is_known_is_not_computed_again(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten openings with the same instruction one computes it; so does nobody who comes later."""
    generator = RaggedGenerator(load(base), slots=12, context=128)
    computed: list[int] = []
    forward = generator._forward

    def counting(chunks: object, tokens: list[int]) -> torch.Tensor:
        computed.append(len(tokens))
        return forward(chunks, tokens)

    monkeypatch.setattr(generator, "_forward", counting)
    stem = list(range(3, 3 + 40))
    generator.extend(list(range(10)), [[*stem, 50 + k, 60, 61] for k in range(10)])
    assert computed == [43, 9 * 3]
    generator.free(4)
    generator.extend([10, 4], [[*stem, 70], stem])
    assert computed[2:] == [1 + 1]  # of a text that is known whole the last token is computed, for its logits


def test_bfloat16_products_are_near(base: Path) -> None:
    model = load(base)
    text = [[k % 90 + 3 for k in range(start, start + 30)] for start in (0, 40)]
    near = RaggedGenerator(model, 2, 64, torch.bfloat16).extend([0, 1], text).log_softmax(-1)
    exact = RaggedGenerator(model, 2, 64).extend([0, 1], text).log_softmax(-1)
    assert 0 < (near - exact).abs().max() < 0.05


# --- folded adapters ---------------------------------------------------------------------------------------


def test_a_folded_adapter_is_pefts_forward(base: Path, adapter: Path) -> None:
    ids = torch.randint(3, 200, (3, 20), generator=torch.Generator().manual_seed(0))
    plain = load(base)
    before = {name: weight.clone() for name, weight in plain.state_dict().items()}
    with torch.inference_mode():
        alone = plain(ids).logits
        folded = Folded(plain)
        folded.load(read_adapter(adapter))
        ours = plain(ids).logits
    peft = load_adapter(
        load_base(base, attention="sdpa", dtype=torch.float32, device=torch.device("cpu")), adapter, base_digest(base)
    )
    with torch.inference_mode():
        theirs = peft(ids).logits
    assert (ours - alone).abs().max() > 0.1  # the adapter is not nothing
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    folded.load(NO_ADAPTER)
    assert all(torch.equal(weight, before[name]) for name, weight in plain.state_dict().items())


def test_loading_again_does_not_add_up(base: Path, adapter: Path) -> None:
    model = load(base)
    folded = Folded(model)
    folded.load(read_adapter(adapter))
    once = {name: weight.clone() for name, weight in model.state_dict().items()}
    for _ in range(3):
        folded.load(read_adapter(adapter))
    assert all(torch.equal(weight, once[name]) for name, weight in model.state_dict().items())


# --- episodes ----------------------------------------------------------------------------------------------


def test_batch_composition_does_not_matter(base: Path, tickets: list[Ticket]) -> None:
    """One episode at a time, a few, or all at once, in another order: the same tokens."""
    alone = episodes(base, tickets, slots=1)
    assert len({t.turns[0].token_ids for t in alone}) > len(tickets) // 2  # streams differ
    for slots, order in ((5, tickets), (len(tickets), tickets), (3, tickets[::-1])):
        together = episodes(base, order, slots=slots)
        if order is not tickets:
            together = together[::-1]
        for one, other in zip(alone, together, strict=True):
            assert (one.task, one.stop, one.score) == (other.task, other.stop, other.score)
            for a, b in zip(one.turns, other.turns, strict=True):
                assert (a.token_ids, a.text, a.observation) == (b.token_ids, b.text, b.observation)
                assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_episodes_grow_by_prefixes_and_masks_are_the_sampled_tokens(
    base: Path, tickets: list[Ticket], renderer: Renderer
) -> None:
    for trajectory in episodes(base, tickets, slots=8):
        whole = renderer.trajectory(trajectory)
        sampled = [token for turn in trajectory.turns for token in turn.token_ids]
        assert [t for t, m in zip(whole.ids, whole.action_mask, strict=True) if m] == sampled
        assert len(whole.ids) <= CONTEXT + 1
        for k in range(1, len(trajectory.turns)):
            part = Trajectory(
                trajectory.task, trajectory.opening, trajectory.turns[:k], 0.0, False, StopReason.TURN_LIMIT
            )
            ids = renderer.trajectory(part).ids
            assert whole.ids[: len(ids)] == ids


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_and_trainer_agree(
    base: Path, adapter: Path, tickets: list[Ticket], renderer: Renderer, temperature: float
) -> None:
    """The folded, cached sampler's log-probabilities are the trainer's, to 1e-4."""
    model = load(base)
    Folded(model).load(read_adapter(adapter))
    envs = EnvPool(SETTINGS)
    played = play_episodes(
        tickets[:8],
        generator=make_generator(model, 8, CONTEXT),
        renderer=renderer,
        envs=envs,
        sampling=Sampling(temperature),
        limits=LIMITS,
    )
    envs.close()
    peft = load_adapter(
        load_base(base, attention="sdpa", dtype=torch.float32, device=torch.device("cpu")), adapter, base_digest(base)
    )
    samples = [to_sample(trajectory, renderer) for trajectory in played]
    with torch.no_grad():
        logprobs, _, _ = Policy(peft, temperature).forward(*pad(samples, torch.device("cpu")))
    expected = torch.tensor([x for sample in samples for x in sample.sampled])
    assert len(expected) > 50
    torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)


class Scripted:
    """A generator whose greedy tokens are given replies, so that an expert plays through the episode loop."""

    slots = 1
    context = CONTEXT

    def __init__(self, tokens: list[int], vocabulary: int) -> None:
        self._script = iter(tokens)
        self._vocabulary = vocabulary

    def extend(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        logits = torch.zeros(1, self._vocabulary)
        logits[0, next(self._script)] = 20.0
        return logits

    def free(self, slot: int) -> None:
        return None

    def reset(self) -> None:
        return None


def scripted(task: Task, tokens: list[int], renderer: Renderer, vocabulary: int, limits: Limits) -> Trajectory:
    envs = EnvPool(SETTINGS)
    [trajectory] = play_episodes(
        [Ticket(task, 0, 0)],
        generator=Scripted(tokens, vocabulary),
        renderer=renderer,
        envs=envs,
        sampling=Sampling(0.0),
        limits=limits,
    )
    envs.close()
    return trajectory


@pytest.mark.parametrize("name", PLAYED)
def test_an_expert_through_the_loop_is_the_expert(
    name: str, base: Path, tasks: dict[str, list[Task]], renderer: Renderer
) -> None:
    vocabulary = load(base).config.vocab_size
    env = make(name, SETTINGS)
    for task in tasks[name]:
        expert = play(env, task, random.Random(0))
        tokens = [token for turn in expert.turns for token in renderer.reply(turn.text)]
        ours = scripted(task, tokens, renderer, vocabulary, Limits(4000, 200))
        assert (ours.opening, ours.score, ours.solved, ours.stop) == (
            expert.opening,
            expert.score,
            expert.solved,
            expert.stop,
        )
        assert [(t.text, t.observation, t.reward, t.valid) for t in ours.turns] == [
            (t.text, t.observation, t.reward, t.valid) for t in expert.turns
        ]
        assert renderer.trajectory(ours).ids == renderer.trajectory(expert).ids
    env.close()


# --- stop reasons ------------------------------------------------------------------------------------------


def test_the_reply_limit_closes_the_turn(base: Path, tasks: dict[str, list[Task]], renderer: Renderer) -> None:
    task = tasks["textcraft"][0]
    word = renderer.reply("wood")[0]
    tokens = [word] * 9 + [renderer.end_of_turn] * 100
    trajectory = scripted(task, tokens, renderer, load(base).config.vocab_size, Limits(4000, 4))
    assert [len(turn.token_ids) for turn in trajectory.turns[:4]] == [4, 4, 2, 1]
    assert trajectory.turns[2].token_ids[-1] == renderer.end_of_turn
    # The engine closes a cut turn: its end-of-turn token stands in the text, without loss.
    whole = renderer.trajectory(trajectory)
    start = len(renderer.opening(trajectory.opening))
    assert whole.ids[start : start + 5] == [word] * 4 + [renderer.end_of_turn]
    assert whole.action_mask[start : start + 5] == [1, 1, 1, 1, 0]


def test_the_turn_limit_ends_an_episode(base: Path, tasks: dict[str, list[Task]], renderer: Renderer) -> None:
    task = tasks["textcraft"][0]
    env = make("textcraft", SETTINGS)
    env.reset(task)
    limit = env.turn_limit
    env.close()
    trajectory = scripted(task, [renderer.end_of_turn] * 1000, renderer, load(base).config.vocab_size, LIMITS)
    assert trajectory.stop is StopReason.TURN_LIMIT
    assert len(trajectory.turns) == limit
    assert trajectory.turns[-1].observation == ""
    assert (trajectory.score, trajectory.solved) == (0.0, False)


@pytest.mark.parametrize("spare", [1, 2, 3, 7, 12, 13, 14, 30, 60])
def test_the_context_limit_ends_an_episode(
    base: Path, tasks: dict[str, list[Task]], renderer: Renderer, spare: int
) -> None:
    """A context with `spare` tokens after the opening: never more are used, and as many as fit."""
    task = tasks["textcraft"][0]
    env = make("textcraft", SETTINGS)
    opening = len(renderer.opening(env.reset(task)))
    env.close()
    [trajectory] = episodes(base, [Ticket(task, 0, 1)], 1, Limits(opening + spare, 12))
    whole = renderer.trajectory(trajectory)
    assert opening < len(whole.ids) <= opening + spare
    assert trajectory.stop is StopReason.CONTEXT_LIMIT
    assert all(turn.token_ids for turn in trajectory.turns)
    if len(trajectory.turns) == 1 and spare <= 12:
        first = episodes(base, [Ticket(task, 0, 1)], 1, LIMITS)[0].turns[0].token_ids
        assert trajectory.turns[0].token_ids == first[:spare]


def test_an_opening_that_does_not_fit_gives_an_empty_episode(base: Path, tickets: list[Ticket]) -> None:
    played = episodes(base, tickets[:5], 2, Limits(10, 5))
    assert [(t.turns, t.stop, t.solved) for t in played] == [((), StopReason.CONTEXT_LIMIT, False)] * 5


def test_no_tickets_no_episodes(base: Path) -> None:
    assert episodes(base, [], 2) == []


# --- errors ------------------------------------------------------------------------------------------------


def test_an_environment_that_cannot_step_names_the_task(
    base: Path, tickets: list[Ticket], monkeypatch: pytest.MonkeyPatch
) -> None:
    from affine.envs.textcraft import TextCraft

    closed: list[TextCraft] = []

    def step(self: TextCraft, reply: str) -> None:
        raise EnvError("the engine is gone")

    def close(self: TextCraft) -> None:
        closed.append(self)

    monkeypatch.setattr(TextCraft, "step", step)
    monkeypatch.setattr(TextCraft, "close", close)
    first = next(ticket.task for ticket in tickets if ticket.task.env == "textcraft")
    with pytest.raises(EnvError, match=f"textcraft, level 0, task {first.id}: the engine is gone"):
        episodes(base, tickets, len(tickets))
    assert len(closed) == sum(ticket.task.env == "textcraft" for ticket in tickets)  # also those still playing


# --- worker processes --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool(base: Path) -> Iterator[RolloutPool]:
    with RolloutPool(Players(base, SETTINGS, LIMITS, slots=4), workers=2) as running:
        yield running


def children(parent: int) -> list[int]:
    """Living processes (no zombies) whose parent is `parent`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(owner) == parent and state != "Z":
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: Sequence[int]) -> list[int]:
    deadline = time.monotonic() + 20
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def test_workers_play_what_one_process_plays(
    pool: RolloutPool, base: Path, adapter: Path, tickets: list[Ticket]
) -> None:
    told: list[Trajectory] = []
    weights = read_adapter(adapter)
    for change in (NO_ADAPTER, weights, None):  # None: what was loaded before stays
        if change is not None:
            pool.load(change)
        told.clear()
        played = pool.play(tickets, Sampling(), told.append)
        expected = episodes(base, tickets, 4, weights=weights if change is None else change)
        assert [(t.task, t.stop, t.score) for t in played] == [(t.task, t.stop, t.score) for t in expected]
        for a, b in zip(played, expected, strict=True):
            assert [turn.token_ids for turn in a.turns] == [turn.token_ids for turn in b.turns]
        assert sorted(map(repr, told)) == sorted(map(repr, played))
    assert pool.play(tickets[:1], Sampling()) == pool.play(tickets[:1], Sampling())  # fewer than workers


def test_a_killed_worker_is_an_error_and_leaves_nothing(pool: RolloutPool, tickets: list[Ticket]) -> None:
    workers = [process.pid for process in pool._processes]
    killed = []

    def kill_once(trajectory: Trajectory) -> None:
        if not killed:
            os.kill(workers[1], signal.SIGKILL)
            killed.append(workers[1])

    with pytest.raises(RolloutError, match=r"worker 1 died \(exit code -9\)"):
        pool.play(tickets * 20, Sampling(), kill_once)
    pool.close()
    assert wait_until_gone(workers) == []


def test_an_error_in_a_worker_names_the_task(
    base: Path, tickets: list[Ticket], capfd: pytest.CaptureFixture[str]
) -> None:
    bad = Ticket(Task("sat", 0, -3, 0, Split.TEST), 0, 0)
    with RolloutPool(Players(base, SETTINGS, LIMITS, slots=4), workers=1) as one:
        workers = [process.pid for process in one._processes]
        with pytest.raises(EnvError, match=r"sat, level 0, task -3: .*no task -3 at level 0"):
            one.play([*tickets[:2], bad], Sampling())
    assert wait_until_gone(workers) == []
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("where", OUT_OF_MEMORY)
def test_a_worker_out_of_memory_names_what_to_lower(
    base: Path, tickets: list[Ticket], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """In the middle of play: forked workers, for they inherit what stands in for the forward pass."""
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: forked)
    monkeypatch.setattr(RaggedGenerator, "extend", OUT_OF_MEMORY[where])
    with RolloutPool(Players(base, SETTINGS, LIMITS, slots=4), workers=1) as one:
        workers = [process.pid for process in one._processes]
        with pytest.raises(RolloutError, match=r"^rollout worker 0: out of memory; each of 1 workers") as raised:
            one.play(tickets, Sampling())
    text = str(raised.value)
    assert f"rollout.slots 4 of rollout.context {CONTEXT}" in text
    assert text.endswith("lower rollout.slots, rollout.context or rollout.workers")
    need, weights, half = (float(number) for number in re.findall(r"([\d.e+-]+) GB", text))
    assert 0 < weights < half < need
    assert wait_until_gone(workers) == []


def test_a_cache_that_does_not_fit_names_what_to_lower(base: Path, tickets: list[Ticket]) -> None:
    """A real one, of more than there are addresses. The worker may be gone before it is asked anything."""
    advice = r"^rollout worker 0.* memory.* lower rollout\.slots, rollout\.context or rollout\.workers$"
    with (
        RolloutPool(Players(base, SETTINGS, Limits(2**44, 12), slots=4), workers=1) as one,
        pytest.raises(RolloutError, match=advice),
    ):
        one.play(tickets, Sampling())


def test_killing_the_parent_leaves_no_process(base: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from affine.envs.env import EnvSettings
        from affine.rollout.episodes import Limits, Ticket
        from affine.rollout.pool import Players, RolloutPool
        from affine.rollout.sampling import Sampling
        from affine.types import Split, Task

        if __name__ == "__main__":
            pool = RolloutPool(Players(Path(sys.argv[1]), EnvSettings(), Limits(300, 12), 2), workers=1)
            tickets = [Ticket(Task("ded", 0, k, 0, Split.TRAIN), 0, 0) for k in range(100_000)]
            pool.play(tickets, Sampling(), lambda trajectory: print("playing", flush=True))
        """
    )
    path = base.parent / "parent.py"
    path.write_text(script)
    parent = subprocess.Popen(
        [sys.executable, str(path), str(base)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "playing\n"
    family = [pid for child in children(parent.pid) for pid in (child, *children(child))]
    assert len(family) >= 2  # a worker and multiprocessing's tracker at least
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until_gone(family) == []


def test_a_sample_is_the_sampled_tokens(base: Path, tickets: list[Ticket], renderer: Renderer) -> None:
    for trajectory in episodes(base, tickets[:6], 6):
        sample: Sample = to_sample(trajectory, renderer)
        assert sum(sample.mask) == sum(sample.turn_lengths) == len(sample.sampled)
        assert sample.sampled == [x for turn in trajectory.turns for x in turn.logprobs]
