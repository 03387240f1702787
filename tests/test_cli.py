"""The command line: found by name, cheap to ask, short about mistakes; and each command against a second source."""

from __future__ import annotations

import errno
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import yaml
from pareto_episodes import write_evaluations
from release_inputs import make_inputs, release_params

from affine.__main__ import INTERRUPTED, main
from affine.cli import COMMANDS
from affine.cli.grid import picture
from affine.cli.play import find_task
from affine.cli.pretrain import with_overrides
from affine.envs.env import REGISTRY, env_class, make
from affine.errors import AffineError
from affine.files import write_json
from affine.params import Params, load_params
from affine.pareto.power import episodes_for, rule_power
from affine.pareto.run import run_pareto
from affine.release.release import make_release
from affine.tasks import draw_tasks
from affine.types import ENVS, Split, Task

ROOT = Path(__file__).parents[1]


@pytest.fixture
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")


def play(monkeypatch: pytest.MonkeyPatch, lines: str, *arguments: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return main(["play", *arguments])


# ---- finding and asking


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from affine.__main__ import main; main(['--help'])\n"
        "print(sorted({'torch', 'rich', 'numpy', 'yaml', 'pydantic'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    *text, loaded = output.splitlines()
    assert loaded == "[]"
    for name, (_, summary) in COMMANDS.items():
        assert any(re.fullmatch(rf"  {name} +{re.escape(summary)}", line) for line in text)
    assert max(map(len, text)) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: python -m affine {name}" in capsys.readouterr().out


def test_no_command_and_a_misspelt_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["docter"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith("affine: no command 'docter' (did you mean 'doctor'?)\n")


# ---- mistakes


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (AffineError("sat: no such level\ntake another"), 1, "affine boom: sat: no such level\ntake another\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "affine boom: No space left on device (x)\n"),
        (ModuleNotFoundError("no", name="tantivy.lib"), 1, "tantivy.lib is missing here; `make all` installs"),
        (KeyboardInterrupt(), INTERRUPTED, "affine boom: interrupted\n"),
    ],
)
def test_what_a_person_can_mend_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    def run(arguments: list[str]) -> int:
        raise error

    module = types.ModuleType("boom")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "boom", module)
    monkeypatch.setitem(COMMANDS, "boom", ("boom:run", ""))
    assert main(["boom"]) == code
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("ours"), ModuleNotFoundError("ours", name="affine.gone")])
def test_our_own_defects_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def run(arguments: list[str]) -> int:
        raise error

    module = types.ModuleType("boom")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "boom", module)
    monkeypatch.setitem(COMMANDS, "boom", ("boom:run", ""))
    with pytest.raises(type(error)):
        main(["boom"])


def test_ctrl_c_and_a_reader_who_leaves() -> None:
    command = [sys.executable, "-m", "affine", "play", "textcraft"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as game:
        assert game.stdout is not None
        assert game.stderr is not None
        assert "textcraft" in game.stdout.readline()
        time.sleep(0.2)
        game.send_signal(signal.SIGINT)
        assert game.wait(20) == INTERRUPTED
        assert game.stderr.read() == "affine play: interrupted\n"
    shell = f"{sys.executable} -m affine params | head -n 1"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "seed: 0\n", "")


# ---- playing


@pytest.mark.parametrize("env", ENVS)
def test_playing_the_experts_moves_solves_a_test_task(
    env: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = env_class(env).levels[0].turn_limit
    assert play(monkeypatch, "?\n!\n" * limit, env, "--task", "1", "--split", "test") == 0
    shown = capsys.readouterr().out
    assert "the expert: " in shown
    assert re.fullmatch(rf"solved: score [01]\.\d\d after \d+ of {limit} turns", shown.splitlines()[-1])


def test_asking_changes_nothing_and_the_typed_action_is_what_is_played(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env = make("textcraft")
    task = find_task(env, 0, 5, 0, None)
    env.reset(task)
    observation = env.step("Action: inventory").observation
    play(monkeypatch, "inventory\n\nq\nget 1 coal\n", "textcraft", "--task", "5")
    plain = capsys.readouterr().out
    assert observation in plain
    assert plain.endswith("stopped: score 0.00 after 1 of 6 turns\n")
    play(monkeypatch, "?\n?\nAction: inventory\n?\n", "textcraft", "--task", "5")
    asked = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(("the expert", "  because"))]
    assert asked == plain.splitlines()


def test_turn_limit_invalid_moves_and_replies_of_several_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch, "fly\n" * 9, "babyai")
    shown = capsys.readouterr().out
    assert "turn 4 of 4, no valid action" in shown
    assert shown.endswith("turn limit reached: score 0.00 after 4 of 4 turns\n")
    play(monkeypatch, "a\\\nb\n", "abd", "--task", "1")
    assert "<INPUT>\na\nb\n</INPUT>" in capsys.readouterr().out


def test_a_place_in_a_split_is_the_task_that_the_stage_draws() -> None:
    env = make("sat")
    for split in Split:
        drawn = draw_tasks(env, 0, 3, {split: 3})
        assert [find_task(env, 0, place, 3, split) for place in range(3)] == drawn
        assert find_task(env, 0, drawn[2].id, 3, None) == drawn[2]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sat", "--level", "99"], "sat: no level 99 (levels: 0"),
        (["babyai", "--level", "4", "--task", "4000"], "no task 4000 at level 4 (ids 0 to 3999)"),
        (["sat", "--task", "-1"], "no task -1"),
        (["sat", "--split", "test", "--task", "-1"], "places count from 0"),
        (["sat", "--prompts", "nowhere.yaml"], "neither one of brief, full nor a file"),
    ],
)
def test_tasks_that_do_not_exist(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", *arguments]) == 1
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["play", "chess"])
    assert stopped.value.code == 2


def test_babyais_picture_shows_what_minigrids_own_does() -> None:
    env = make("babyai")
    ours_by_type = {"W": "█", "K": "K", "A": "O", "B": "B", "D": "D", "L": "L", "_": "/", " ": "·"}
    for id in range(12):
        env.reset(Task("babyai", 0, id, 0, Split.TRAIN))
        env.step("Action: turn left")
        theirs = env.world.pprint_grid().splitlines()  # type: ignore[attr-defined]
        ours = picture(env).plain.splitlines()
        for row, own in zip(theirs, ours, strict=False):
            for x in range(0, len(row), 2):
                if row[x] == row[x + 1] and row[x] in "><^Vv":
                    assert own[x] == row[x].lower()
                else:
                    assert own[x] == ours_by_type[row[x]], (row, own)
        assert ours[-1].startswith("> you")
        assert len(ours) == len(theirs) + 1


# ---- environments


def test_envs_lists_all_levels_with_the_measured_rates(in_repository: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The rates of benchmarks/results/experts.json, read here as it stands in the file."""
    recorded = json.loads((ROOT / "benchmarks/results/experts.json").read_text(encoding="utf-8"))
    assert main(["envs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [next(i for i, line in enumerate(lines) if f"│ {env}  " in line) for env in REGISTRY]
    assert starts == sorted(starts)
    for env, start in zip(REGISTRY, starts, strict=True):
        for number, level in env_class(env).levels.items():
            measured = recorded[env].get(str(number))
            rate = (
                f"{measured['solved'] / measured['tasks']:.0%} of {measured['tasks']}" if measured else "not measured"
            )
            rate += " *" if measured and measured["privileged"] else ""
            row = next(line for line in lines[start:] if re.match(rf"│ {number} +│", line))
            cells = [cell.strip() for cell in row.strip("│").split("│")]
            assert cells == [str(number), level.summary, str(level.turn_limit), rate]


def test_envs_shows_recorded_speed_and_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the files of the folder; ScienceWorld's own splits are counted by its table of variations."""
    rates = {"steps_per_s": 51234.0, "episodes_per_s": 8000.0}
    about = {"machine": {"processor": "Some CPU"}, "date": "2025-10-29", "level": 0}
    write_json(tmp_path / "benchmarks/results/envs.json", {**about, "envs": {"sciworld": {"expert": rates}}})
    made = {split: {"tasks": 7} for split in ("train", "validation", "test")}
    write_json(tmp_path / "metrics/tasks/sciworld.json", made)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["envs", "sciworld"]) == 0
    shown = capsys.readouterr().out
    assert "recorded at level 0: 51,234 steps/s, 8,000 episodes/s (Some CPU, 2025-10-29)" in shown
    assert "tasks: 7 train, 7 validation, 7 test" in shown
    assert "upstream's splits, level 3, 4: 3,592 train, 1,796 validation, 1,819 test" in shown
    assert "not measured" in shown
    assert main(["envs", "sat"]) == 0
    assert "recorded" not in capsys.readouterr().out


def test_one_environment_with_its_speed(in_repository: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "textcraft", "--speed", "--seconds", "0.05"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"[\d,]+ episodes/s, [\d,]+ steps/s with the expert", shown)
    for heading in ("Description", "Task", "Observation", "Actions", "Reward", "Episode end", "Expert", "Upstream"):
        assert f"\n{heading}\n" in shown
    assert "babyai" not in shown


# ---- params, pretrain, statistics, release


def test_params_prints_every_value_in_force(in_repository: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params"]) == 0
    assert Params.model_validate(yaml.safe_load(capsys.readouterr().out)) == load_params()
    assert main(["params", "--check"]) == 0
    assert capsys.readouterr().out == "params.yaml: valid\n"


def test_a_wrong_parameter_file_is_named_with_its_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text((ROOT / "params.yaml").read_text().replace("kl: 0.01", "kll: 0.01"))
    assert main(["params", "--check", str(file)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"{file}: unknown key ppo.kll" in shown.err


def test_pretrain_changes_only_what_is_given() -> None:
    params = load_params(ROOT / "params.yaml")
    assert with_overrides(params, seed=None, steps=None, episodes=None) == params
    changed = with_overrides(params, seed=7, steps=11, episodes=None)
    assert (changed.seed, changed.base.pretrain.steps) == (7, 11)
    assert changed.base.pretrain.episodes == params.base.pretrain.episodes
    assert changed.model_copy(update={"seed": params.seed, "base": params.base}) == params


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--episodes", "-1"], ["--seed", "-1"], ["--steps", "x"]])
def test_pretrain_refuses_impossible_numbers(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", *arguments])
    assert stopped.value.code == 2


def test_the_verdict_is_made_from_the_records(
    in_repository: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evaluations(tmp_path, tasks=60)
    assert main(["verdict", str(tmp_path), "--policy", "affine-2026-07-24"]) == 0
    shown = capsys.readouterr().out
    assert "ppo dominates base under affine-2026-07-24" in shown
    records = (tmp_path / "base" / "sat.jsonl").read_text().splitlines()
    mean = sum('"score":1.0' in line for line in records) / len(records)
    row = next(line for line in shown.splitlines() if line.startswith("│ sat"))
    assert f"│ {mean:.3f} [" in row
    assert main(["verdict", str(tmp_path), "--short"]) == 0
    assert "│" not in capsys.readouterr().out
    assert main(["verdict", str(tmp_path / "none")]) == 1
    assert "no evaluations" in capsys.readouterr().err


def test_a_verdict_is_recomputed_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    write_evaluations(tmp_path / "evaluations", tasks=20)
    run_pareto(load_params(tmp_path / "params.yaml"), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["verdict", "evaluations/", "--check"]) == 0
    assert capsys.readouterr().out.count("same bytes") == 8
    pareto = tmp_path / "metrics" / "pareto.json"
    pareto.write_text(pareto.read_text().replace('"wins": 0', '"wins": 8', 1))
    assert main(["verdict", "--check", "metrics"]) == 1
    assert "metrics/pareto.json: differs" in capsys.readouterr().out
    assert main(["verdict", "--short", "--write", "again"]) == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert len(written) == 8
    assert written["scores.png"] == (tmp_path / "metrics" / "plots" / "scores.png").read_bytes()


def test_an_evaluation_becomes_an_incumbent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    write_evaluations(tmp_path / "evaluations", tasks=20, rates={"sft": 0.5, "endpoint": 0.8})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["incumbents", "--add", "endpoint", "--as", "rival", "--block", "7"]) == 0
    assert "incumbents/rival.json: written" in capsys.readouterr().out
    assert json.loads((tmp_path / "incumbents" / "rival.json").read_text())["first_block"] == 7
    assert main(["incumbents"]) == 0
    records = (tmp_path / "evaluations" / "endpoint" / "ded.jsonl").read_text().splitlines()
    mean = sum('"score":1.0' in line for line in records) / len(records)
    assert f"{mean:.3f} (20 tasks)" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "evaluations" / "endpoint")
    assert main(["verdict", "--short"]) == 0
    assert "sft does not dominate rival" in capsys.readouterr().out
    assert main(["incumbents", "--add", "endpoint"]) == 1
    assert "no such file" in capsys.readouterr().err
    assert main(["plan", "10", "--against", "rival"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "ded" in line)
    needed = episodes_for(lambda n: rule_power(n, mean, mean + 0.1, 0.8), 0.8)
    assert [cell.strip() for cell in row.split("│")][2:4] == [f"{mean:.3f}", str(needed)]
    assert main(["plan", "--against", "nobody"]) == 1
    assert "known: rival" in capsys.readouterr().err


def test_policies_are_named_in_full(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["policies"]) == 0
    shown = capsys.readouterr().out
    header = shown.splitlines()[2]
    for name in ("affine-2025-10-22", "affine-2025-11-01", "affine-2026-07-24"):
        assert name in header
    assert "…" not in shown


def test_plan_gives_the_number_at_which_power_is_reached(
    in_repository: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "20", "--incumbent", "0.3", "--power", "0.9"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│         20.0"))
    needed = int(row.split("│")[2])
    assert needed == episodes_for(lambda n: rule_power(n, 0.3, 0.5, 0.8), 0.9)
    assert rule_power(needed, 0.3, 0.5, 0.8) >= 0.9
    with pytest.raises(SystemExit):
        main(["plan", "--incumbent", "1.5"])


def test_check_fails_where_a_requirement_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["check"]) == 1
    assert "no such folder" in capsys.readouterr().err
    make_release(release_params(), make_inputs(tmp_path))
    assert main(["check", "release", "--profile", "affine-2025", "--no-probes"]) == 0
    shown = capsys.readouterr().out
    assert "FAIL" not in shown
    passed, failed, unknown = map(int, re.findall(r"(\d+) (?:pass|fail|cannot)", shown))
    marks = [line.split()[0] for line in shown.splitlines() if line and not line[0].isspace()]
    assert (marks.count("pass"), failed, marks.count("?")) == (passed, 0, unknown)
    assert main(["check", "release/", "--profile", "affine-2026", "--no-probes"]) == 1
    assert "only Qwen3.6-35B-A3B is admitted" in capsys.readouterr().out
