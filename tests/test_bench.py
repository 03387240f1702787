"""The benchmarks run, measure the same play on both sides, and write what the README reads. No time is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pareto_episodes import write_evaluations
from report_inputs import make_run
from safetensors.torch import load_file
from tiny import make_tiny_base
from transformers import AutoTokenizer

from affine.cli.bench import BenchError, run
from affine.collect.play import play
from affine.envs.env import make, task_rng
from affine.files import write_json
from affine.models.chat import Renderer
from affine.models.lora import base_digest, check_adapter
from affine.readme.sections import SECTIONS
from affine.tasks import draw_tasks, load_tasks
from affine.training.ppo import Trainer
from affine.types import ENVS, Split

ROOT = Path(__file__).parents[1]


def test_http_server_gives_what_play_in_process_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from env_server import serving

    env = make("textcraft")
    with serving("textcraft") as client:
        for task in draw_tasks(env, 0, 0, {Split.TRAIN: 3}):
            trajectory = play(env, task, task_rng("textcraft", 0, task.id, 0), noise=0.5)
            assert [m["content"] for m in client.reset(task)] == [m.content for m in trajectory.opening]
            for k, turn in enumerate(trajectory.turns):
                answer = client.step(turn.text)
                assert (answer["reward"], answer["valid"]) == (turn.reward, turn.valid)
                last = k + 1 == len(trajectory.turns)
                assert answer["observation"] == turn.observation or last
            assert answer["score"] == trajectory.score


def test_benchmarks_write_results_that_the_guides_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "benchmarks" / "results"
    monkeypatch.chdir(ROOT)
    small = ["--envs", "sat", "ded", "textcraft", "--episodes", "3", "--reference-episodes", "2", "--out", str(out)]
    assert run(["envs", *small, "--quick"]) == 0
    assert run(["rollout", "--episodes", "3", "--slots", "2", "--out", str(out)]) == 0
    assert run(["sft", "--steps", "3", "--methods", "ours", "trl-packed", "--out", str(out)]) == 0
    names = ("envs", "rollout", "sft")
    envs, rollout, sft = (json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in names)
    for result in (envs, rollout, sft):
        assert result["machine"]["cores"] >= 1
        assert result["versions"]["torch"]
        assert set(result) >= {"commit", "date"}
    for row in envs["envs"].values():
        assert row["pool"]["steps_per_s"] > 0
        assert row["python_mb"] > 10
        for player in ("expert", "random"):
            assert row[player]["ratio"] == pytest.approx(
                row[player]["steps_per_s"] / row[player]["http_steps_per_s"], rel=1e-2
            )
    assert [rollout[side]["episodes"] for side in ("engine", "generate", "paged")] == [3, 3, 3]
    assert 0 < rollout["engine"]["environment"] < 1
    rates = {name: row["tokens_per_s"] for name, row in sft["methods"].items()}
    assert sft["ratio"]["trl-packed"] == pytest.approx(rates["ours"] / rates["trl-packed"], rel=1e-2)
    assert envs["sandbox"]["level"]
    assert "collect_s" not in envs
    targets = {row["name"]: row for row in envs["targets"]}
    for env in ("sat", "textcraft"):
        row = targets[f"{env} in process beside HTTP"]
        assert row["measured"] == min(envs["envs"][env][player]["ratio"] for player in ("expert", "random"))
        assert row["met"] == (row["measured"] >= 100)
    assert targets["webshop's search over 1,000,000 products"]["met"] is None
    text = SECTIONS["speed"](tmp_path, "")
    assert "| textcraft |" in text
    assert "| webshop's search over 1,000,000 products | at most 25 ms |  | not measured |" in text
    assert "| this engine |" in text
    assert "| stage `sft` |" in text


def made_up(**changes: object) -> dict[str, object]:
    """A result of bench_envs in which every target is just met."""
    both = {"expert": {"ratio": 100.0}, "random": {"ratio": 250.0}}
    result: dict[str, object] = {
        "envs": dict.fromkeys(("textcraft", "sat", "alfworld"), both),
        "references": {
            "ScienceWorld's stock `env.step`, level 3": {"ratio": 5.0},
            "ALFWorld's real TextWorld engine, level 4": {"ratio": 300.0},
        },
        "search": [{"products": 10_000, "mean_ms": 0.5}, {"products": 1_000_000, "mean_ms": 25.0}],
        "sandbox": {"programs_per_s": 200.0},
        "collect_s": dict.fromkeys(ENVS, 15.0),
    }
    return result | changes


def test_each_target_is_met_at_its_bound_and_missed_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from env_targets import compared

    assert [row["met"] for row in compared(made_up())] == [True] * 9
    slow = {"expert": {"ratio": 300.0}, "random": {"ratio": 99.9}}
    worse = made_up(
        envs=dict.fromkeys(("textcraft", "sat", "alfworld"), slow),
        references={
            "ScienceWorld's stock `env.step`, level 3": {"ratio": 4.9},
            "ALFWorld's real TextWorld engine, level 4": {"ratio": 299.0},
        },
        search=[{"products": 10_000, "mean_ms": 0.51}, {"products": 1_000_000, "mean_ms": 25.1}],
        sandbox={"programs_per_s": 199.0},
        collect_s=dict.fromkeys(ENVS, 15.1),
    )
    assert [row["met"] for row in compared(worse)] == [False] * 9
    missing = {"ALFWorld's real TextWorld engine, level 4": {"missing": "pip install x"}}
    unmeasured = made_up(envs={}, references=missing, search=[], sandbox={}, collect_s={"sat": 3.0})
    assert {(row["measured"], row["met"]) for row in compared(unmeasured)} == {(None, None)}


def test_everything_is_measured_unless_quick_and_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parts that take minutes are stand-ins that say how many cores they may use."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bench_envs
    import env_engines

    asked: dict[str, list[object]] = {"search": [], "collect": []}

    def search(level: int) -> dict[str, float]:
        asked["search"].append((level, len(os.sched_getaffinity(0))))
        return {"products": {4: 10_000, 6: 1_000_000}[level], "mean_ms": 0.2, "median_ms": 0.2, "p95_ms": 0.3}

    def collection(envs: list[str]) -> dict[str, float]:
        asked["collect"].append((tuple(envs), len(os.sched_getaffinity(0))))
        return dict.fromkeys(envs, 1.5)

    monkeypatch.setattr(bench_envs, "measure", lambda *_: ROW)
    monkeypatch.setattr(bench_envs, "search", search)
    monkeypatch.setattr(bench_envs, "collection", collection)
    monkeypatch.setattr(env_engines.importlib.util, "find_spec", lambda name: None)
    before = os.sched_getaffinity(0)
    arguments = ["--envs", "webshop", "alfworld", "--out", str(tmp_path / "benchmarks/results")]
    bench_envs.main(arguments)
    assert asked == {"search": [(4, 1), (6, 1)], "collect": [(("webshop", "alfworld"), min(2, len(before)))]}
    assert os.sched_getaffinity(0) == before
    shown = capsys.readouterr().out
    assert "not installed: pip install 'affine[alfworld]'" in shown
    assert "met" in shown
    assert "`pip install 'affine[alfworld]'" in SECTIONS["speed"](tmp_path, "")
    bench_envs.main([*arguments, "--quick"])
    assert asked["search"][2:] == [(4, 1)]
    assert len(asked["collect"]) == 1


RATES = {"steps_per_s": 2.0, "http_steps_per_s": 1.0, "episodes_per_s": 1.0, "reset_ms": 1.0, "ratio": 200.0}
ROW = {
    "expert": RATES,
    "random": RATES,
    "pool": {"processes": 2, "steps_per_s": 3.0, "episodes_per_s": 1.0},
    "start_s": 0.1,
    "python_mb": 40.0,
    "engines_mb": 0.0,
    "expert_ms_per_turn": 0.1,
}


def test_verdict_benchmark_reads_as_many_episodes_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stored task under other seeds: no two alike among those of one model and environment."""
    out = tmp_path / "benchmarks" / "results"
    monkeypatch.chdir(ROOT)
    write_evaluations(tmp_path / "evaluations", tasks=7)
    where = ["--evaluations", str(tmp_path / "evaluations"), "--out", str(out)]
    assert run(["verdict", "--models", "9", "--episodes", "1000", "--samples", "5", *where]) == 0
    result = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
    assert (result["field"]["models"], result["field"]["subsets"]) == (9, 255)
    # 1,000 over 24 files: 41 each, 42 in the first 16; in fives, nine tasks each.
    assert [(row["samples"], row["episodes"], row["tasks"]) for row in result["episodes"]] == [
        (1, 1000, 1000),
        (5, 1000, 24 * 9),
    ]
    text = SECTIONS["speed"](tmp_path, "")
    assert "| 9 models, 255 subsets of environments, `affine-2025-10-22` |" in text
    assert "| 1,000 stored episodes of 216 tasks read," in text
    with pytest.raises(BenchError, match="failed"):
        run(["verdict", "--episodes", "24", "--evaluations", str(tmp_path / "nowhere"), "--out", str(out)])


def test_the_graph_benchmark_changes_what_is_there_and_reports_on_records_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bench_graph

    for path, old, _ in bench_graph.CHANGES.values():
        assert (ROOT / path).read_text().count(old) == 1, (path, old)
    write_evaluations(tmp_path / "evaluations", 2)
    monkeypatch.setattr(bench_graph, "ROOT", tmp_path)
    monkeypatch.setattr(bench_graph, "clone", lambda folder, cache: make_run(folder))

    def here(folder: Path, *command: str) -> None:
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)

    monkeypatch.setattr(bench_graph, "run", here)
    found = bench_graph.report(tmp_path / "work", 200)
    assert found["episodes"] == 200
    assert found["bytes"] == (tmp_path / "work" / "report.html").stat().st_size
    lines = [
        line for file in (tmp_path / "work" / "evaluations").rglob("*.jsonl") for line in file.read_text().splitlines()
    ]
    assert len(lines) == len(set(lines)) == 200


def test_trl_plays_what_the_engine_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens on both sides, every reply a call, and no call after the end. TRL itself is not run: minutes."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from bench_grpo import OVER, TEMPLATE, Seat, openings, parser
    from trl.chat_template_utils import is_chat_template_prefix_preserving, supports_tool_calling

    tokenizer = AutoTokenizer.from_pretrained(make_tiny_base(tmp_path / "base"))
    tokenizer.chat_template = TEMPLATE
    assert supports_tool_calling(tokenizer)
    assert is_chat_template_prefix_preserving(tokenizer)
    renderer = Renderer(tokenizer)
    env = make("textcraft")
    tasks = draw_tasks(env, 0, 0, {Split.TRAIN: 3})
    parse, turns = parser(renderer), [0]
    seat = Seat(tasks, turns)
    for number, (task, opening) in enumerate(zip(tasks, openings(tasks), strict=True)):
        messages = [{"role": m.role, "content": m.content} for m in opening]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        assert ids == renderer.opening(opening)
        trajectory = play(env, task, task_rng("textcraft", 0, task.id, 0))
        seat.reset(number=number, prompt=messages)
        turns[0] = 0
        for turn in trajectory.turns:
            reply = renderer.reply(turn.text)
            (call,) = parse(reply, prefix=ids)["tool_calls"]
            observation = seat.act(**call["function"]["arguments"])
            last = turn is trajectory.turns[-1]
            assert observation == (OVER if last else turn.observation)
            messages += [{"role": "assistant", "content": turn.text}, {"role": "tool", "content": observation}]
            ids = [*ids, *reply, *renderer.observation(observation)]
            assert ids == tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        assert "tool_calls" not in parse(renderer.reply("Thanks"), prefix=ids)
        assert seat.get_reward() == trajectory.score
        assert turns == [len(trajectory.turns)]


def test_ppo_benchmark_has_the_smoke_presets_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from bench_ppo import prepare, settings, summary

    params = settings(tmp_path, ("sat", "textcraft"), 0)
    assert (params.ppo.episodes, params.ppo.group, params.rollout.slots) == (16, 2, 16)
    assert (params.ppo.weights.sat, params.ppo.weights.abd) == (1.0, 0.0)
    assert settings(tmp_path, ("sat",), 6).ppo.episodes == 6
    base = make_tiny_base(tmp_path / "base")
    prepare(params, tmp_path / "root", base)
    check_adapter(tmp_path / "root" / "models" / "sft", base_digest(base))
    assert Trainer(params, tmp_path / "root").iteration == 0  # all that it reads is there
    counts = {env: len(load_tasks(tmp_path / "root", env, Split.TRAIN)) for env in ("sat", "textcraft", "abd")}
    assert counts == {"sat": 24, "textcraft": 24, "abd": 0}
    spent = summary({"generate": 3.0, "environment": 1.0, "annotate": 2.0, "update": 4.0}, 2)
    assert spent["iteration_s"] == 5
    assert spent["share"] == {"generate": 0.3, "environment": 0.1, "annotate": 0.2, "update": 0.4}


def test_merge_benchmark_merges_what_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from bench_merge import measure
    from bench_shape import SHAPES, build

    took = measure(SHAPES["nano"], 4, tmp_path)
    model = build(SHAPES["nano"], torch.device("cpu"), torch.bfloat16, "sdpa")
    expected = {name: weight.shape for name, weight in model.named_parameters()}
    assert took["base_gb"] == pytest.approx(2e-9 * sum(size.numel() for size in expected.values()), rel=0.01)
    assert 0 < took["peak_before_gb"] <= took["peak_gb"]
    base, out, adapter = (
        {k: v for file in sorted((tmp_path / folder).glob("*.safetensors")) for k, v in load_file(file).items()}
        for folder in ("base", "out", "adapter")
    )
    assert {name: tensor.shape for name, tensor in out.items()} == expected
    layer = "model.layers.1.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
    wanted = base[f"{layer}.weight"].float() + 2 * b @ a
    torch.testing.assert_close(out[f"{layer}.weight"], wanted.bfloat16())


def test_training_benchmarks_are_in_the_guides(tmp_path: Path) -> None:
    where = {"machine": {"processor": "a CPU", "cores": 2, "load": 0.1, "python": "3.11"}, "commit": "abc"}
    rates = {"tokens_per_s": 4000.0, "episodes_per_s": 40.0, "episodes": 128}
    slower = {"tokens_per_s": 1000.0, "episodes_per_s": 8.0, "episodes": 128}
    ratio = {"tokens_per_s": 4.0, "episodes_per_s": 5.0}
    out = tmp_path / "benchmarks" / "results"
    rollouts = {"engine": rates, "grpo": slower, "ratio": ratio, "group": 8, "model": "models/base"}
    write_json(out / "grpo.json", where | rollouts)
    parts = {"generate": 3.0, "environment": 1.0, "annotate": 2.0, "update": 4.0}
    split = {"seconds": parts, "share": {part: s / 10 for part, s in parts.items()}, "informative": 0.5}
    split |= {"iterations": 4, "episodes": 16, "envs": ["sat"], "workers": 2, "model": "models/base", "device": "cpu"}
    write_json(out / "ppo.json", where | split)
    text = SECTIONS["speed"](tmp_path, "")
    assert "| TRL's `GRPOTrainer` with `environment_factory` | 1,000 | 8.0 | 5.0 x |" in text
    assert "128 episodes, 8 of each task, models/base." in text
    assert "| environments | 1.00 | 10.0% |" in text
    assert "4 iterations of 16 episodes in 1 environments, 2 rollout workers, models/base, on cpu; 50% of" in text


def test_failures_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchError, match="run from the repository's root"):
        run(["envs"])
    monkeypatch.chdir(ROOT)
    with pytest.raises(BenchError, match="failed with exit code 2"):
        run(["envs", "--episodes", "many"])


def test_a_server_process_does_not_outlive_its_client() -> None:
    code = (
        "import sys; sys.path.insert(0, 'benchmarks')\n"
        "from env_server import serving\n"
        "import multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    with serving('sat'):\n"
        "        assert multiprocessing.active_children()\n"
        "    assert not multiprocessing.active_children()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
