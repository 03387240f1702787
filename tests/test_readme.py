"""The guides: generated parts are as the code makes them, and what they say about the repository is so."""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pareto_episodes import write_evaluations
from report_inputs import NOISE, ROOT

from affine.__main__ import main
from affine.cli.readme import run
from affine.collect.play import play
from affine.dataset.report import report as dataset_report
from affine.envs.env import REGISTRY, make
from affine.files import write_json
from affine.params import load_params
from affine.pareto.run import run_pareto
from affine.readme.parameters import effects, parameters
from affine.readme.rewrite import FILES, ReadmeError, rewritten
from affine.readme.sections import NOT_MEASURED, SECTIONS
from affine.tasks import draw_tasks
from affine.types import ENVS, Split

GUIDES = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}


def test_guides_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails: `python -m affine readme`."""
    monkeypatch.chdir(ROOT)
    assert run(["--check"]) == 0


def test_check_changes_nothing_and_names_what_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*FILES, "params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    guide = tmp_path / "QUICKSTART.md"
    guide.write_text(GUIDES["QUICKSTART.md"].replace("score 1, solved", "score 2, solved"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    before = guide.read_bytes()
    with pytest.raises(ReadmeError, match="QUICKSTART"):
        run(["--check"])
    assert guide.read_bytes() == before
    run([])
    assert "score 1, solved" in guide.read_text(encoding="utf-8")
    assert run(["--check"]) == 0


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<!-- generated: nothing -->\n<!-- end -->\n", "line 1: no section 'nothing'"),
        ("<!-- generated: policies -->\n", "has no <!-- end -->"),
        ("x\n<!-- end -->\n", "line 2: <!-- end --> without"),
        ("<!-- generated: policies -->\n<!-- generated: policies -->\n<!-- end -->\n", "line 2: a section begins"),
        ("<!-- generated: parameters nowhere -->\n<!-- end -->\n", "no section 'nowhere' in params.yaml"),
    ],
)
def test_wrong_markers_are_named(text: str, error: str) -> None:
    with pytest.raises(ReadmeError, match=re.escape(error)):
        rewritten(text, "X.md", ROOT, SECTIONS)


def test_text_outside_the_markers_is_kept() -> None:
    text = "before\n<!-- generated: graph -->\nold\n<!-- end -->\nafter\n"
    new = rewritten(text, "X.md", ROOT, SECTIONS)
    assert new.startswith("before\n<!-- generated: graph -->\n\n```mermaid")
    assert new.endswith("<!-- end -->\nafter\n")
    assert "old" not in new
    assert rewritten(new, "X.md", ROOT, SECTIONS) == new


# Results ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the metrics of made-up episodes, judged by the real statistics."""
    root = tmp_path_factory.mktemp("measured")
    (root / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    write_evaluations(root / "evaluations", tasks=40)
    run_pareto(load_params(root / "params.yaml"), root)
    for env in ENVS:
        write_json(root / f"metrics/collect/{env}.json", {"played": 40, "success": 0.975, "turns_mean": 2.25})
    write_json(root / "metrics/dataset.json", dataset_report({env: ([], [], {"too_long": 0}) for env in ENVS}))
    return root


def test_without_metrics_the_guides_say_so(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    for name in ("results", "models", "demonstrations"):
        assert SECTIONS[name](tmp_path, "") == NOT_MEASURED
    assert "make bench" in SECTIONS["speed"](tmp_path, "")


def test_result_table_holds_the_metrics(measured: Path) -> None:
    """Every cell against metrics/evaluate.json and metrics/pareto.json, which the table isn't made from."""
    text = SECTIONS["results"](measured, "")
    rows = {r[1].strip("* "): r for r in (line.split("|") for line in text.splitlines()) if len(r) > 2}
    evaluate = json.loads((measured / "metrics/evaluate.json").read_text(encoding="utf-8"))
    pareto = json.loads((measured / "metrics/pareto.json").read_text(encoding="utf-8"))
    for env in ENVS:
        means = [f"{evaluate[model]['env'][env]:.2f}" for model in NOISE]
        assert [cell.split()[0] for cell in rows[env][2:5]] == means
        shown = [cell.split()[0].strip("*") for cell in rows[env][5:7]]
        gained = [100 * pareto[pair]["difference"][env] for pair in ("ppo_vs_sft", "ppo_vs_base")]
        assert shown == [f"{points:+.1f}" for points in gained]
        assert ("**" in rows[env][6]) == (env in pareto["ppo_vs_base"]["better"].split(", "))
    overall = [f"{evaluate[m]['overall']:.2f} ({evaluate[m]['low']:.2f} to {evaluate[m]['high']:.2f})" for m in NOISE]
    assert [cell.strip() for cell in rows["overall"][2:5]] == overall
    assert "80%" in text
    assert pareto["ppo_vs_base"]["verdict"] in text


def test_demonstrations_table(measured: Path) -> None:
    text = SECTIONS["demonstrations"](measured, "")
    assert all(f"| {env} | 40 | 97.5% | 0 | 2.2 | 0 / 0 |" in text for env in ENVS)


def test_speed_section_shows_both_benchmarks(tmp_path: Path) -> None:
    about = {"machine": {"processor": "Some CPU", "cores": 2, "load": 0.1, "python": "3.11.7"}, "commit": "abc"}
    expert = {"steps_per_s": 80000.0, "http_steps_per_s": 400.0, "ratio": 200.0, "episodes_per_s": 9000.0}
    pool = {"processes": 2, "steps_per_s": 150000.0, "episodes_per_s": 17000.0}
    env = {"sat": {"expert": expert, "start_s": 0.2, "pool": pool, "python_mb": 40.0, "engines_mb": 2.0}}
    behind = {
        "search": [{"products": 10000, "median_ms": 0.0625, "p95_ms": 0.31}],
        "sandbox": {"level": "landlock", "programs_per_s": 250.0},
        "collect_s": {"sat": 10.0, "abd": 20.0},
    }
    stock = {"real engine": {"ours": 6000.0, "theirs": 12.5, "ratio": 480.0}}
    write_json(tmp_path / "benchmarks/results/envs.json", {**about, "envs": env, "references": stock, **behind})
    rate = {"tokens_per_s": 5000.0, "episodes_per_s": 20.0, "episodes": 64, "turns": 7.9, "environment": 0.08}
    slow = {"tokens_per_s": 1000.0, "episodes_per_s": 4.0, "episodes": 64, "turns": 8.0}
    ratio = {"tokens_per_s": 5.0, "episodes_per_s": 5.0}
    result = {**about, "model": "nano", "engine": rate, "generate": slow, "ratio": {"generate": ratio}}
    write_json(tmp_path / "benchmarks/results/rollout.json", result)
    text = SECTIONS["speed"](tmp_path, "")
    assert "| sat | 80,000 | 400 | 200 x | 150,000 | 9,000.0 | 0.2 | 42 |" in text
    assert "search over 10,000 products: 0.06 ms a query (median; 95 % under 0.31 ms)." in text
    assert "The sandbox (landlock) runs 250 small programs a second." in text
    assert "demonstrations of 2 environments takes 30 s." in text
    assert "| real engine | 6,000 | 12.5 (its own) | 480 x |" in text
    assert "| `model.generate`, every turn encoded anew | 1,000 | 4.0 | 5.0 x |" in text
    assert "64 episodes of 7.9 turns" in text
    assert "the environments took 8.0%" in text
    assert "SFT" not in text
    methods = {
        "ours": {"tokens_per_s": 9000.0, "peak_gb": 1.5},
        "trl-default": {"tokens_per_s": 3000.0, "peak_gb": 2.5},
    }
    sft = {**about, "model": "nano", "device": "cpu", "methods": methods, "ratio": {"trl-default": 3.0}}
    write_json(tmp_path / "benchmarks/results/sft.json", sft)
    text = SECTIONS["speed"](tmp_path, "")
    assert "| stage `sft` | 9,000 | 1.50 GB |  |" in text
    assert "| SFTTrainer, defaults | 3,000 | 2.50 GB | 3.0 x |" in text


def test_experts_section_names_types_and_failures(tmp_path: Path) -> None:
    assert "python -m affine experts" in SECTIONS["experts"](tmp_path, "")
    failures = [{"id": k, "kind": "KeyInBox-v0", "why": "turns ran out"} for k in (25, 65)]
    kinds = {"KeyInBox-v0": {"tasks": 2, "solved": 0}, "Open-v0": {"tasks": 3, "solved": 3}}
    row = {"tasks": 5, "solved": 3, "luck": 0.2, "privileged": True, "kinds": kinds, "failures": failures}
    guessed = {"tasks": 50, "solved": 50, "luck": 0.04, "chance": 0.0123, "kinds": {}, "failures": []}
    write_json(tmp_path / "benchmarks/results/experts.json", {"babyai": {"4": row}, "abd": {"1": guessed}})
    text = SECTIONS["experts"](tmp_path, "")
    assert "| babyai | 4 | the engine | 3 of 5 | 20% | KeyInBox-v0 0/2 (25, 65); Open-v0 3/3 |" in text
    assert "| abd | 1 | what is shown | 50 of 50 | 4% (1.23% of inputs) |  |" in text
    levels = SECTIONS["levels"](tmp_path, "").splitlines()
    assert any(line.startswith("| `babyai` | 4 |") and line.endswith("| 60% of 5 | 20% |") for line in levels)
    assert any(line.startswith("| `babyai` | 3 |") and line.endswith("| not measured |  |") for line in levels)
    assert any(line.startswith("| `abd` | 6 |") and line.endswith("| needs upstream's data |  |") for line in levels)


# Parameters ------------------------------------------------------------------------------------------------------


def test_every_parameter_is_explained_once_and_shown() -> None:
    keys = [parameter.key for parameter in parameters(load_params(ROOT / "params.yaml"))]
    assert sorted(effects()) == sorted(keys)
    assert len(keys) == len(set(keys))
    assert all(text[0].isupper() or text[0] in "`GO" for text in effects().values())
    for key in keys:
        assert f"| `{key}` |" in GUIDES["TRAINING_GUIDE.md"]


def _leaves(data: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path, data


def test_defaults_in_the_table_are_those_of_params_yaml() -> None:
    """Read a second way: the YAML itself, flattened."""
    shown = {p.key: p.default for p in parameters(load_params(ROOT / "params.yaml"))}
    for path, value in _leaves(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))):
        key = ".".join("ENV" if part in ENVS else part for part in path)
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value) or "(empty)"
        if isinstance(value, bool):
            text = text.lower()
        text = text or "(empty)"
        env = next((part for part in path if part in ENVS), "")
        exception = re.search(rf"{env} ([^;)]+)", shown[key]) if env else None
        found = exception[1] if exception else shown[key].partition(" (")[0]
        assert found == text or (not isinstance(value, str | bool | list) and float(found) == float(str(value))), key


# What the guides say about the repository ------------------------------------------------------------------------


def test_every_path_in_the_tree_exists() -> None:
    tree = re.search(r"## What is where\n\n```\n(.*?)```", GUIDES["README.md"], re.DOTALL)
    assert tree
    lines = tree[1].splitlines()
    assert len(lines) > 20
    for line in lines:
        inner = line.startswith("  ")
        text = line.strip()
        names = text.split() if "  " in text and text.endswith("Makefile") else [re.split(r"\s{2,}", text)[0]]
        for name in names:
            path = ROOT / ("affine" if inner else "") / name
            assert path.exists(), line
            assert path.is_dir() == name.endswith("/"), line


def test_tree_names_every_folder_that_git_keeps() -> None:
    listed = subprocess.run(["git", "ls-files", "*/*"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.partition("/")[0] for line in listed.splitlines()}
    inner = {line.split("/")[1] for line in listed.splitlines() if re.match(r"affine/\w+/", line)}
    for name in sorted(folders - {".dvc", ".ci", ".github"}) + sorted(inner):
        assert re.search(rf"^ *{re.escape(name)}/", GUIDES["README.md"], re.MULTILINE), name


def test_links_lead_somewhere() -> None:
    for name, text in GUIDES.items():
        for target in re.findall(r"\]\(([^)]+)\)", text):
            file, _, anchor = target.partition("#")
            if target.startswith("http"):
                continue
            page = ROOT / (file or name)
            assert page.is_file(), (name, target)
            if anchor:
                titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {title.lower().replace(" ", "-") for title in titles}, (name, target)


def test_ninth_environment_of_the_guide_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file exactly as printed, and the one line in the registry."""
    blocks = re.findall(r"```python\n# affine/envs/(\w+)\.py\n(.*?)```", GUIDES["TRAINING_GUIDE.md"], re.DOTALL)
    assert [name for name, _ in blocks] == ["guess"]
    for name, code in blocks:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    package = sys.modules["affine.envs"]
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    line = '"guess": "affine.envs.guess:Guess",'
    assert line in GUIDES["TRAINING_GUIDE.md"]
    monkeypatch.setitem(REGISTRY, "guess", yaml.safe_load("{" + line + "}")["guess"])
    env = make("guess")
    for level in env.levels:
        tasks = draw_tasks(env, level, 0, {Split.TRAIN: 20, Split.TEST: 20})
        assert not {t.group for t in tasks if t.split == Split.TRAIN} & {
            t.group for t in tasks if t.split == Split.TEST
        }
        for task in tasks:
            clean, noisy = (play(env, task, random.Random(task.id), noise=noise) for noise in (0.0, 0.3))
            assert clean.solved
            assert clean.score == 1.0
            assert clean == play(env, task, random.Random(task.id))
            assert noisy.opening == clean.opening
    for reply in ("", "Action: \x00", "Action: 5\nAction: ", "Action: " + "9" * 5000, "Action: -1", "five \ud800"):
        assert not env.step(reply).valid
    monkeypatch.setattr("sys.stdin", io.StringIO("500\n" + "!\n" * 10))
    capsys.readouterr()
    assert main(["play", "guess"]) == 0
    assert "Guess the number between 1 and 1000" in (said := capsys.readouterr().out)
    assert "solved: score 1.00" in said
    for name in [name for name in sys.modules if name.startswith("affine.envs.guess")]:
        monkeypatch.delitem(sys.modules, name)
