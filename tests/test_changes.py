"""The pull request's report, on a repository with two real commits, and its posting with the real `gh`."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dvc.repo import Repo
from scipy.stats import beta

from affine.__main__ import main
from affine.report.changes import ChangesError, Decision, Score, changes, difference
from affine.report.comment import LIMIT, headline, render
from affine.report.stale import stale_stages
from affine.types import ENVS

ROOT = Path(__file__).parents[1]
PIPELINE = """
stages:
  collect:
    cmd: mkdir -p data && cp params.yaml data/x
    deps: [code.py]
    params: [seed]
    outs: [data]
  pareto:
    cmd: cp data/x evaluations
    deps: [data/x]
    params: [pareto]
    outs: [evaluations]
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def write_scores(folder: Path, points: dict[str, float], fingerprints: dict[str, str]) -> None:
    rows = []
    for model in ("base", "ppo"):
        for env in (*ENVS, "overall"):
            mean = 0.5 + (points.get(env, 0.0) if model == "ppo" else 0.0)
            width = 0.01 if env == "overall" else 0.03
            mark = "" if env == "overall" else fingerprints.get(env, "same")
            rows.append([model, env, mean, round(mean - width, 4), round(mean + width, 4), mark])
    path = folder / "metrics" / "plots" / "scores.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        csv.writer(file).writerows([["model", "env", "score", "low", "high", "fingerprint"], *rows])
    verdict = {"policy": "p", "ppo_vs_base": {"verdict": "ppo does not dominate base: sat blocks"}}
    (folder / "metrics" / "pareto.json").write_text(json.dumps(verdict))
    (folder / "metrics" / "sft.json").write_text(json.dumps({"tokens": 1000 + round(1000 * points.get("sat", 0))}))
    curve = folder / "metrics" / "curves" / "sft" / "train" / "loss.tsv"
    curve.parent.mkdir(parents=True, exist_ok=True)
    curve.write_text("step\tloss\n1\t2.0\n2\t" + str(1 - points.get("sat", 0.0)) + "\n")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """On branch `better`: sat gained, ded lost, babyai is scored otherwise; and `main` has gone on since."""
    git(tmp_path, "init", "-q")
    Repo.init(str(tmp_path))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "code.py").write_text("one\n")
    (tmp_path / ".gitignore").write_text("/data\n/evaluations\n")
    monkeypatch.chdir(tmp_path)

    def commit(message: str) -> None:
        with Repo(str(tmp_path)) as repo:
            repo.reproduce()
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-qm", message)

    write_scores(tmp_path, {}, {})
    commit("start")
    git(tmp_path, "checkout", "-qb", "better")
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0  ", "seed: 7  ", 1))
    write_scores(tmp_path, {"sat": 0.1, "ded": -0.1, "abd": 0.02, "overall": 0.005}, {"babyai": "other"})
    commit("better")
    git(tmp_path, "checkout", "-q", "main")
    write_scores(tmp_path, {"textcraft": 0.4}, {})
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "somebody else's")
    git(tmp_path, "checkout", "-q", "better")
    return tmp_path


def test_the_comment_says_what_changed(repository: Path) -> None:
    found = changes(repository, "main")
    decisions = {effect.env: effect.decision for effect in found.effects}
    assert decisions["sat"] is Decision.BETTER
    assert decisions["ded"] is Decision.WORSE
    assert decisions["abd"] is Decision.NOISE
    assert decisions["babyai"] is decisions["overall"] is Decision.OTHER
    assert decisions["textcraft"] is Decision.NOISE  # gained on main since, which is not this branch's doing
    assert [change.key for change in found.params] == ["seed"]
    assert [(c.key, c.before, c.after) for c in found.metrics] == [("sft.json: tokens", 1000, 1100)]
    assert sorted(change.key for change in found.data) == ["data", "evaluations"]
    assert found.fit.stale == {}
    text = render(found, 0.8)
    assert text.splitlines()[2] == (
        "### `ppo` was scored by another evaluator: better in sat; worse in ded; not comparable in babyai;"
        " noise in the rest"
    )
    assert "| 🟢 | sat | 0.500 (0.47 to 0.53) | 0.600 (0.57 to 0.63) | +10.0 (+5.8 to +14.2) | better |" in text
    assert "| `seed` | 0 | 7 |" in text
    assert "| `sft.json: tokens` | 1,000 | 1,100 | +100 |" in text
    assert "no stage is stale" in text


def test_identical_input_gives_an_identical_report(repository: Path) -> None:
    made = set()
    for seed in ("0", "1"):
        out = repository / f"report{seed}.md"
        subprocess.run(
            [sys.executable, "-m", "affine", "report", "--base", "main", "--out", str(out), "--figures", f"f{seed}"],
            cwd=repository, check=True, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        )  # fmt: skip
        pictures = tuple((repository / f"f{seed}" / name).read_bytes() for name in ("curves.png", "scores.png"))
        assert all(picture.startswith(b"\x89PNG") and len(picture) > 5000 for picture in pictures)
        made.add((out.read_bytes(), *pictures))
        out.unlink()
    assert len(made) == 1


def test_stale_stages_are_named_without_any_data(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(repository / "data")
    (repository / "evaluations").unlink()
    shutil.rmtree(repository / ".dvc" / "cache")
    assert stale_stages(repository) == {}
    (repository / "code.py").write_text("two\n")
    params = repository / "params.yaml"
    params.write_text("# a comment\n" + params.read_text().replace("confidence: 0.8", "confidence: 0.9"))
    assert stale_stages(repository) == {"collect": ["code.py"], "pareto": ["pareto"]}
    assert main(["report", "--base", "main", "--stale-is-error"]) == 1
    assert "stale: collect (code.py)" in capsys.readouterr().out
    assert "> - `pareto` (`pareto`)" in (repository / "report.md").read_text()


def test_nothing_changed_and_nothing_to_compare(repository: Path) -> None:
    assert headline(changes(repository, "HEAD")) == "`ppo` scores as before"
    (repository / "metrics" / "plots" / "scores.csv").unlink()
    assert headline(changes(repository, "main")).startswith("Nothing to compare")


@pytest.mark.parametrize("base", ["nowhere", "0" * 40])
def test_an_unknown_base_is_named(repository: Path, base: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--base", base]) == 1
    assert "fetch-depth: 0" in capsys.readouterr().err
    assert not (repository / "report.md").exists()


def test_histories_without_a_common_commit(repository: Path) -> None:
    git(repository, "checkout", "-q", "--orphan", "alone")
    git(repository, "commit", "-qm", "alone")
    with pytest.raises(ChangesError, match="no common commit"):
        changes(repository, "main")


FOOT = "No data or model was needed for this.</sub>\n"


def test_a_comment_fits_githubs_limit(repository: Path) -> None:
    """Metrics give way; whatever else is cut, the last lines stay and nothing is closed that was not opened."""
    many = {f"key{k}": k for k in range(9000)}
    dataset = repository / "metrics" / "dataset.json"
    dataset.write_text(json.dumps(many))
    text = render(changes(repository, "main"), 0.8, ["curves.png"], "https://example.org/run/1")
    assert LIMIT * 0.8 < len(text) <= LIMIT
    assert text.count("<details>") == text.count("</details>") == 1
    assert "<summary>9001 metrics changed, " in text
    assert "Cut at GitHub's limit" in text
    assert text.endswith(FOOT)
    assert "| `seed` | 0 | 7 |" in text
    assert "curves.png, in the artifact `report` of [this run](https://example.org/run/1)." in text
    params = repository / "params.yaml"
    params.write_text(params.read_text() + "more:\n" + "".join(f"  {key}: 1\n" for key in many))
    text = render(changes(repository, "main"), 0.8)
    assert LIMIT * 0.8 < len(text) <= LIMIT
    assert "details>" not in text
    assert "better in sat" in text
    assert text.endswith(FOOT)


def test_curves_are_drawn_without_scores(repository: Path) -> None:
    (repository / "metrics" / "plots" / "scores.csv").unlink()
    url = "https://example.org/run/1"
    assert main(["report", "--base", "main", "--out", "r.md", "--figures", "pictures", "--run-url", url]) == 0
    assert [path.name for path in (repository / "pictures").iterdir()] == ["curves.png"]
    text = (repository / "r.md").read_text()
    assert f"pictures: curves.png, in the artifact `report` of [this run]({url})." in text
    (repository / "metrics" / "curves" / "sft" / "train" / "loss.tsv").unlink()
    assert main(["report", "--base", "main", "--out", "r.md", "--figures", "none"]) == 0
    assert list((repository / "none").iterdir()) == []
    assert "pictures" not in (repository / "r.md").read_text()


def test_the_interval_of_a_difference_covers_as_it_says() -> None:
    """Against simulation: two binomial scores with Jeffreys intervals at 80 %, 200 tasks each."""
    rng = random.Random("mover")
    numpy = np.random.default_rng(rng.randrange(2**32))
    truth = (0.62, 0.70)
    hits = 0
    for _ in range(400):
        scores = []
        for p in truth:
            solved = numpy.binomial(200, p)
            low, high = beta.ppf([0.1, 0.9], solved + 0.5, 200 - solved + 0.5)
            scores.append(Score(solved / 200, low, high))
        mean, low, high = difference(*scores)
        assert low <= mean <= high
        hits += low <= truth[1] - truth[0] <= high
    assert 0.74 < hits / 400 < 0.86  # 80 % within three standard errors
    mean, low, high = difference(Score(0.5, 0.4, 0.7), Score(0.6, 0.5, 0.8))
    assert (low, high) == pytest.approx((0.1 - math.hypot(0.1, 0.2), 0.1 + math.hypot(0.2, 0.1)))


# ---- posting


class GitHub(BaseHTTPRequestHandler):
    """GitHub's comment endpoints, as far as scripts/comment.sh uses them."""

    comments: list[dict[str, Any]]
    head = "a" * 40

    def _answer(self, data: Any, code: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> str:
        return str(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"])

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != "token not-a-real-token":
            self._answer({"message": "Bad credentials"}, 401)
        elif self.path == "/api/v3/repos/o/r/pulls/5":
            self._answer({"head": {"sha": self.head}})
        else:
            assert self.path == "/api/v3/repos/o/r/issues/5/comments?per_page=100"
            self._answer(self.comments)

    def do_POST(self) -> None:
        assert self.path == "/api/v3/repos/o/r/issues/5/comments"
        self.comments.append({"id": 77, "body": self._body(), "user": {"login": "github-actions[bot]"}})
        self._answer(self.comments[-1], 201)

    def do_PATCH(self) -> None:
        [comment] = [c for c in self.comments if self.path == f"/api/v3/repos/o/r/issues/comments/{c['id']}"]
        comment["body"] = self._body()
        self._answer(comment)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def github(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The server, with a certificate of its own as `gh` insists on TLS; yields the environment for `gh`."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    other = {"id": 1, "body": "<!-- affine report -->\nforged", "user": {"login": "mallory"}}
    GitHub.comments = [other, {"id": 2, "body": "nice", "user": {"login": "github-actions[bot]"}}]
    server = ThreadingHTTPServer(("127.0.0.1", 0), GitHub)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"localhost:{server.server_address[1]}"
    yield {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "SSL_CERT_FILE": str(certificate),
        "GH_HOST": host, "GH_ENTERPRISE_TOKEN": "not-a-real-token", "GITHUB_REPOSITORY": "o/r",
    }  # fmt: skip
    server.shutdown()


@pytest.mark.skipif(not shutil.which("gh"), reason="GitHub's command gh is not installed (its runners have it)")
def test_one_comment_is_posted_and_then_updated(tmp_path: Path, github: dict[str, str]) -> None:
    report = tmp_path / "report.md"

    def post(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        report.write_text(text)
        script = str(ROOT / "scripts" / "comment.sh")
        return subprocess.run(
            [script, str(report), *arguments], env=github, capture_output=True, text=True, check=False
        )

    first = post("<!-- affine report -->\n### first: @odd `text` $HOME\n", "5", GitHub.head)
    assert (first.returncode, first.stdout) == (0, "commented on #5\n"), first.stderr
    assert post("<!-- affine report -->\n### second\n", "5").stdout == "updated comment 77 on #5\n"
    assert [comment["body"] for comment in GitHub.comments] == [
        "<!-- affine report -->\nforged",
        "nice",
        "<!-- affine report -->\n### second\n",
    ]
    late = post("<!-- affine report -->\n### of an older commit\n", "5", "b" * 40)
    assert "nothing posted" in late.stdout + late.stderr
    assert post("<!-- affine report -->\n", "5; rm -rf /").returncode == 1
    assert post("something else\n", "5").returncode == 1
    assert GitHub.comments[-1]["body"].endswith("### second\n")
    assert "not-a-real-token" not in first.stdout + first.stderr


def test_workflows_call_what_there_is() -> None:
    """Every command of ours in the workflows exists, and only the one that never runs a fork's code may write."""
    from affine.cli import COMMANDS

    texts = {path.name: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    makefile = (ROOT / "Makefile").read_text()
    for text in texts.values():
        for line in text.splitlines():
            if "-m affine " in line:
                assert line.split("-m affine ")[1].split()[0] in COMMANDS
            if "run: make " in line:
                assert f"\n{line.split('run: make ')[1].split()[0]}:" in makefile
    assert "secrets." not in "".join(texts.values())
    assert [name for name, text in texts.items() if "write" in text.replace("may write", "")] == ["comment.yml"]
    assert "pull_request_target" not in "".join(texts.values())
