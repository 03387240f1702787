"""The report: what it holds is what the records hold, it needs nothing else, and a browser can read it."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from pareto_episodes import episode
from report_inputs import NOISE, ROOT, make_run

from affine.cli.report import run
from affine.files import FileError, read_records
from affine.report.episodes import BLOCK, pack
from affine.report.figures import padded, ticks
from affine.report.gather import ReportError
from affine.report.graph import mermaid, read_graph
from affine.types import ENVS, Episode, episode_from_json

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with real episodes, and its report."""
    root = make_run(tmp_path_factory.mktemp("run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert run([]) == 0
    return root


def unpack(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def script(html: str, id: str) -> str:
    found = re.search(f'<script type="text/plain" id="{id}">(.*?)</script>', html)
    assert found, id
    return found[1]


def records(root: Path) -> dict[tuple[str, str, int], Episode]:
    return {
        (model, env, e.trajectory.task.id): e
        for model in NOISE
        for env in ENVS
        for e in read_records(root / "evaluations" / model / f"{env}.jsonl", episode_from_json)
    }


def test_page_holds_every_episode_as_recorded(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    index = unpack(script(html, "index"))
    left = records(folder)
    for position, row in enumerate(index["rows"]):
        text = unpack(script(html, f"block{position // index['block']}"))[position % index["block"]]
        for k, model in enumerate(index["models"]):
            trajectory = left.pop((model, index["envs"][row[0]], row[2])).trajectory
            score, solved, stop, turns, tokens = row[5][k]
            assert (score, bool(solved)) == (round(trajectory.score, 4), trajectory.solved)
            assert index["stops"][stop] == trajectory.stop
            assert [m["content"] for m in text["opening"]] == [m.content for m in trajectory.opening]
            played = text["played"][k]["turns"]
            assert [(t[0], t[1]) for t in played] == [(t.text, t.observation) for t in trajectory.turns]
            assert (turns, tokens) == (len(trajectory.turns), sum(len(t.token_ids) for t in trajectory.turns))
    assert not left


def test_numbers_on_the_page_are_those_of_the_metrics(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    metrics = json.loads((folder / "metrics" / "evaluate.json").read_text(encoding="utf-8"))
    body = html.partition('<section id="verdict">')[0]
    for model in NOISE:
        assert f'<h3>{model}</h3><p class="big">{metrics[model]["overall"]:.3f}</p>' in body
        for env in ENVS:
            row = re.search(rf"<tr>\s*<th>{env}</th>(.*?)</tr>", body, re.DOTALL)
            assert row
            assert f"<td>{metrics[model]['env'][env]:.3f} " in row[1]


class Outside(HTMLParser):
    """Collects every address the page would fetch, and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "srcset") and not (v or "").startswith("#")]
        if tag not in ("meta", "input", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_and_fetches_nothing(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    parser = Outside()
    parser.feed(html)
    assert parser.fetched == []
    assert parser.open == []
    assert "@import" not in html
    assert "url(" not in html.replace("url(#tip)", "")


def test_same_input_gives_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run(["--out", "again.html"])
    assert (folder / "again.html").read_bytes() == (folder / "report.html").read_bytes()


def test_markup_in_an_episode_stays_text() -> None:
    """Script text in a reply sits in the compressed block, where no HTML parser sees it."""
    record = episode("sat", 0, model="</script><script>alert(1)</script>")
    packed = pack([("m", record)], ["m"])
    assert "<" not in packed.index + "".join(packed.blocks)


def test_ten_thousand_episodes_stay_small() -> None:
    """Blocks hold BLOCK rows, so that reading one episode opens one block and not the whole run."""
    models = ("base", "sft", "ppo")
    many = [(m, episode(env, id, model=m)) for m in models for env in ENVS for id in range(417)]
    packed = pack(many, models)
    assert packed.episodes == 10_008
    assert packed.rows == 8 * 417
    assert len(packed.blocks) == -(-packed.rows // BLOCK)
    assert len(packed.index) < 300_000
    assert max(len(block) for block in packed.blocks) < 20_000


def test_missing_and_damaged_inputs_are_named(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    monkeypatch.chdir(copy)
    shutil.rmtree(copy / "evaluations")
    run([])
    assert "not on this machine" in (copy / "report.html").read_text(encoding="utf-8")
    (copy / "metrics" / "pareto.json").write_text("{", encoding="utf-8")
    with pytest.raises(FileError, match=r"pareto\.json: not JSON"):
        run([])
    (copy / "metrics" / "evaluate.json").unlink()
    with pytest.raises(ReportError, match=r"evaluate\.json: no such file; .*make all"):
        run([])


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to look at the page")
def test_browser_renders_rows_and_an_episode(folder: Path) -> None:
    """The page's own link to one episode: list, filters and all three models' turns appear."""
    assert CHROMIUM
    key = next(k for k in records(folder) if k[:2] == ("ppo", "textcraft"))
    address = f"{(folder / 'report.html').as_uri()}#episodes/textcraft/0/{key[2]}/0/0"
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", profile, "--virtual-time-budget=5000"]
    done = subprocess.run([*command, "--dump-dom", address], capture_output=True, text=True, timeout=90, check=True)
    dom = done.stdout
    assert f"{3 * len(ENVS)} tasks, {9 * len(ENVS)} episodes</output>" in dom
    assert dom.count('role="option"') >= 10
    assert dom.count('<div class="side">') == 3
    for model in NOISE:
        last = records(folder)[model, "textcraft", key[2]].trajectory.turns[-1]
        assert f"</small>{last.text}</div>" in dom


def test_graph_is_the_one_dvc_sees() -> None:
    """Against DVC's own index of dvc.yaml (which also finds the pipelines that publish and call servers)."""
    stages = Repo(str(ROOT)).index.graph
    expected = {
        tuple(stage.addressing.rpartition(":")[2].partition("@")[0] for stage in (maker, reader))
        for reader, maker in stages.edges
    }
    graph = read_graph(ROOT / "dvc.yaml")
    assert set(graph.edges) == {
        edge for edge in expected if edge[0] != edge[1] and not {"deploy", "endpoint"} & set(edge)
    }
    assert [line.split()[0].partition("[")[0] for line in mermaid(graph).splitlines()[1:]] == [
        node.name for node in graph.nodes
    ]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-93.2, 93.2), (0.00013, 0.00018), (5.0, 5.0)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    low, high = padded(low, high)
    found = ticks(low, high, 5)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    steps = {round(b - a, 12) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1
