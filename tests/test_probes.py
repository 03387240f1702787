"""Answer formats: a release plays a few test tasks of each environment, exactly as evaluation would have."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from tiny import make_tiny_base

from affine.__main__ import main
from affine.envs.env import make
from affine.evaluation import evaluate
from affine.files import read_records, write_records
from affine.models.checkpoint import read_json, write_sums
from affine.params import Params, load_params
from affine.release.lines import Tally
from affine.release.probes import EPISODES, probe_formats
from affine.tasks import draw_tasks
from affine.types import ENVS, Split, Task, episode_from_json

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "pretrained" / "nano"


def draw(env: str, count: int) -> list[Task]:
    found = make(env)
    try:
        return draw_tasks(found, 0, 0, {Split.TEST: count})
    finally:
        found.close()


@pytest.fixture(scope="module")
def tasks() -> dict[str, list[Task]]:
    return {env: draw(env, EPISODES) for env in ENVS}


def params(**rollout: int) -> Params:
    found = load_params(ROOT / "params.yaml")
    settings = {"workers": 1, "slots": 16, **rollout}
    return found.model_copy(update={"rollout": found.rollout.model_copy(update=settings)})


def test_probes_are_the_first_episodes_of_the_evaluation(tmp_path: Path, tasks: dict[str, list[Task]]) -> None:
    """Counted anew from the episodes that the stage `evaluate` keeps of the same model, and the same where the test
    tasks had to be drawn."""
    for env, members in tasks.items():
        write_records(tmp_path / "data" / "tasks" / env / "test.jsonl", members)
    shutil.copytree(SHIPPED, tmp_path / "models" / "base")
    evaluate(params(), "base", tmp_path)
    ends = {token["content"]: token["id"] for token in read_json(SHIPPED / "tokenizer.json")["added_tokens"]}
    counts = {}
    for env in ENVS:
        played = read_records(tmp_path / "evaluations" / "base" / f"{env}.jsonl", episode_from_json)
        turns = [turn for episode in played for turn in episode.trajectory.turns]
        whole = [turn for turn in turns if ends["<|im_end|>"] in turn.token_ids]
        usable = Counter(turn.valid for turn in turns)[True]
        counts[env] = Tally(len(turns), usable, sum(turn.text == "" for turn in turns), len(turns) - len(whole))
    write_records(tmp_path / "data" / "tasks" / "sat" / "test.jsonl", draw("sat", EPISODES + 2))  # no more are played
    for root in (tmp_path, tmp_path / "empty"):
        found = probe_formats(params(), SHIPPED, root)
        assert found == counts
        # The shipped model knows every format, and is not always right.
        assert all(tally.usable for tally in found.values())
        assert any(tally.usable < tally.turns for tally in found.values())


def test_a_model_that_knows_no_format_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_base(tmp_path / "release")
    write_sums(tmp_path / "release")
    text = (ROOT / "params.yaml").read_text().replace("context: 768", "context: 300").replace("reply: 48", "reply: 8")
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["check"]) == 1
    shown = capsys.readouterr()
    assert "letting the model play" in shown.err
    (line,) = [line for line in shown.out.splitlines() if "too few usable actions in" in line]
    assert all(f"{env} 0/" in line for env in ENVS)
    assert "demonstrate the format in SFT" in line
    before = shown.out.splitlines()[shown.out.splitlines().index(line) - 1]
    assert before.startswith("FAIL")
    assert "answers keep the environments' formats" in before
    assert not (tmp_path / "data").exists()


def test_probes_that_cannot_be_played_say_nothing_about_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of wordings that is not there: an engine's fault, which is said, and no line fails for it."""
    make_tiny_base(tmp_path / "release")
    write_sums(tmp_path / "release")
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("prompts: brief", "prompts: nowhere.yaml"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    main(["check"])
    shown = capsys.readouterr()
    assert "check: the probes were not finished: " in shown.err
    assert "nowhere.yaml" in shown.err
    assert "not probed" in shown.out
    assert "too few usable actions" not in shown.out
