"""The guide's loop of experiments, command by command as it stands there: a run here, a sweep in two workers, the
table, the difference, taking one over, making one a branch."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from affine.cli.experiments import experiments
from tests import queue_workers, small_graph

GUIDE = (small_graph.ROOT / "TRAINING_GUIDE.md").read_text(encoding="utf-8")
BEGINS = "dvc exp run -n softer"


def commands() -> list[str]:
    """The block of the guide, without its comments."""
    [block] = [text for text in re.findall(r"^```\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE) if BEGINS in text]
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = small_graph.make(tmp_path / "repository")
    small_graph.enter(folder, monkeypatch)
    subprocess.run(["dvc", "repro", "-q"], check=True)
    small_graph.git(folder, "add", "-A")
    small_graph.git(folder, "commit", "-qm", "the default")
    yield folder
    queue_workers.end(folder)


def run(command: str, output: Path) -> str:
    """What it says. Through a file, because workers hold on to a pipe for as long as they live."""
    with output.open("w") as file:
        subprocess.run(shlex.split(command), stdout=file, stderr=subprocess.STDOUT, check=True)
    return output.read_text()


def test_the_guides_loop_of_experiments(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores against the closed form of tests/small_graph.py, which the small graph's training computes."""
    monkeypatch.setenv("COLUMNS", "80")
    said = {}
    for command in commands():
        said[command] = run(command, repository.parent / "said")
        if command.startswith("dvc queue start"):
            queue_workers.wait_for(repository, 3)
    here, queued, started, table, difference, _, _ = said.values()
    assert "Ran experiment(s): softer" in here
    names = re.findall(r"Queued experiment '([\w-]+)'", queued)
    assert len(names) == 3
    assert "Started '2' new experiments task queue workers" in started
    expected = {kl: 0.9 - abs(math.log10(0.003) + 3) / 10 - kl for kl in (0.003, 0.01, 0.03, 0.1)}
    rows = {row.name: row for row in experiments(repository) if row.child}
    assert set(rows) == {"softer", *names}
    assert rows["softer"].seconds is not None  # it ran here, in no copy
    found = {row.params["ppo.kl"]: row.scores["ppo"]["overall"] for row in rows.values()}
    assert found == pytest.approx(expected)
    heads = [line for line in table.splitlines() if line.startswith("experiment ")]
    assert [line.rstrip() for line in heads] == re.findall(r"^experiment  .*$", GUIDE, re.MULTILINE)  # what is pasted
    shown = [line.split() for line in table.splitlines()]
    for name, row in rows.items():
        [line] = [words for words in shown if words[:1] == [name]]
        assert line[1] == f"{100 * expected[row.params['ppo.kl']]:.1f}±5.0"
    [kl] = [line.split() for line in difference.splitlines() if "ppo.kl" in line]
    assert kl == ["params.yaml", "ppo.kl", "0.01", "0.003", "-0.007"]
    assert small_graph.evaluate(repository)["ppo"]["overall"] == pytest.approx(expected[0.003])
    branched = json.loads(small_graph.git(repository, "show", "try-softer:metrics/evaluate.json"))
    assert branched["ppo"]["overall"] == pytest.approx(expected[0.003])
    for name in names:  # the copies are gone, their logs are not; the default's result came from DVC's run cache
        kl = rows[name].params["ppo.kl"]
        assert (rows[name].seconds is not None) is (kl != 0.01)
        log = repository / "logs" / name / "ppo.log"
        assert log.is_file() is (kl != 0.01)
        assert not log.is_file() or f"\nkl {kl}\n" in log.read_text()
