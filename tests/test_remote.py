"""A DVC remote on a real S3 server: what works, what fails and how, and what `remote-check` sees that DVC does not."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from dvc.cli import main as dvc_main
from dvc.repo import Repo

from affine.cli.remote_check import run as remote_check
from affine.remote import Object, RemoteError, State, _look, check_remote
from tests.loopback_s3 import KEY, S3, SECRET

ROOT = Path(__file__).parents[1]
PIPELINE = """
stages:
  data:
    cmd: mkdir -p data && for i in 1 2 3 4; do echo ${size} $i > data/$i; done
    params: [size]
    outs: [data]
  model:
    cmd: cat data/1 data/2 > model && echo '{"score":${size}}' > score.json
    deps: [data]
    params: [size]
    outs: [model]
    metrics: [{score.json: {cache: false}}]
"""


class Project:
    """A repository with a small pipeline, and what DVC and git say in it."""

    def __init__(self, folder: Path, s3: S3) -> None:
        self.folder = folder
        self.s3 = s3
        names = ("AUTHOR", "COMMITTER")
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
            **{f"GIT_{name}_NAME": "t" for name in names}, **{f"GIT_{name}_EMAIL": "t@example.org" for name in names},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **s3.environment,
        }  # fmt: skip

    def run(self, *command: str, check: bool = True, **environment: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment | environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        assert SECRET not in done.stdout + done.stderr
        self.code = done.returncode
        return done.stdout + done.stderr

    def dvc(self, *arguments: str, check: bool = True) -> str:
        """As `run("dvc", ...)`, in this process, which is much quicker."""
        said = io.StringIO()
        handler = logging.StreamHandler(said)
        logger = logging.getLogger("dvc")
        before = Path.cwd()
        os.chdir(self.folder)
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
            for key in [key for key in os.environ if key.startswith("AWS_")]:
                patch.delenv(key)
            for key, value in self.environment.items():
                patch.setenv(key, value)
            logger.addHandler(handler)
            try:
                self.code = dvc_main(list(arguments))
            finally:
                logger.removeHandler(handler)
                os.chdir(before)
        assert not check or self.code == 0, said.getvalue()
        assert SECRET not in said.getvalue()
        return said.getvalue()

    def objects(self) -> dict[str, Path]:
        """Hash -> file on the server."""
        found = (self.s3.folder / "affine" / "store" / "files" / "md5").glob("*/*")
        return {path.parent.name + path.name: path for path in found}

    def forget(self) -> None:
        """As a fresh clone: no cache, no outputs."""
        shutil.rmtree(self.folder / ".dvc" / "cache", ignore_errors=True)
        shutil.rmtree(self.folder / ".dvc" / "tmp", ignore_errors=True)
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        (self.folder / "model").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    s3 = S3(tmp_path_factory.mktemp("s3"))
    yield s3
    s3.kill()


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory, server: S3) -> Project:
    """Run, committed and pushed; with the remote as .dvc/config's template has it."""
    project = Project(tmp_path_factory.mktemp("project"), server)
    project.run("git", "init", "-q")
    project.dvc("init", "-q")
    template = (ROOT / ".dvc" / "config").read_text().replace("#    ", "    ").replace("#[", "[")
    assert "\n[" in template
    template = template.replace("s3://your-bucket/affine", "s3://affine/store")
    (project.folder / ".dvc" / "config").write_text(
        template.replace("https://s3.example.org", f"http://{server.address}")
    )
    shutil.copy(ROOT / ".dvc" / "s3.ini", project.folder / ".dvc")
    (project.folder / "dvc.yaml").write_text(PIPELINE)
    (project.folder / "params.yaml").write_text("size: 1\n")
    (project.folder / ".gitignore").write_text("/data\n/model\n")
    project.dvc("repro")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "start")
    project.dvc("push", "--run-cache")
    return project


@pytest.fixture
def project(pushed: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Project]:
    """The pushed project; afterwards the server has again what it had."""
    monkeypatch.chdir(pushed.folder)
    for key, value in pushed.s3.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(pushed.s3.folder / "affine", tmp_path / "before")
    shutil.copytree(pushed.folder / ".dvc" / "cache", tmp_path / "cache")
    yield pushed
    shutil.rmtree(pushed.s3.folder / "affine", ignore_errors=True)
    shutil.copytree(tmp_path / "before", pushed.s3.folder / "affine")
    shutil.rmtree(pushed.folder / ".dvc" / "cache", ignore_errors=True)
    shutil.copytree(tmp_path / "cache", pushed.folder / ".dvc" / "cache")
    time.sleep(1.2)  # the server remembers its listings for a second


def test_a_clone_pulls_and_has_nothing_to_do(project: Project, tmp_path: Path) -> None:
    project.run("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone", project.s3)
    clone.dvc("pull")
    assert (clone.folder / "data" / "4").read_text() == "1 4\n"
    assert "up to date" in clone.dvc("repro")
    assert "in sync" in clone.dvc("status", "-c")


def test_the_run_cache_travels(project: Project, tmp_path: Path) -> None:
    """What one machine has run, another takes from the remote, also for parameters that no commit has; but not a
    stage with a metrics file that git keeps: DVC sends the run's entry, and not that file."""
    params = project.folder / "params.yaml"
    params.write_text("size: 2\n")
    project.dvc("repro")
    project.dvc("push", "--run-cache")
    params.write_text("size: 1\n")
    project.dvc("checkout", "-q")
    project.run("git", "checkout", "-q", ".")
    project.run("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone", project.s3)
    clone.run("dvc", "pull", "--run-cache")
    (clone.folder / "params.yaml").write_text("size: 2\n")
    # A process of its own: what DVC says in this one depends on what earlier tests did to its loggers.
    said = clone.run("dvc", "repro", "--pull")  # which fetches what the run cache names
    assert "Stage 'data' is cached - skipping run" in said
    assert said.count("Running stage") == said.count("Running stage 'model'") == 1
    assert (clone.folder / "data" / "4").read_text() == "2 4\n"


def test_experiments_travel(project: Project, tmp_path: Path) -> None:
    """By git (the commit) and the remote (its data)."""
    project.run("git", "clone", "-q", "--bare", ".", str(tmp_path / "hub.git"))
    project.run("git", "remote", "add", "hub", str(tmp_path / "hub.git"))
    project.dvc("exp", "run", "-q", "-n", "three", "-S", "size=3")
    project.run("git", "checkout", "-q", ".")
    project.dvc("exp", "push", "hub", "three")
    project.run("git", "clone", "-q", str(tmp_path / "hub.git"), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone", project.s3)
    clone.dvc("exp", "pull", "origin", "three")
    clone.dvc("exp", "apply", "three")
    assert (clone.folder / "data" / "1").read_text() == "3 1\n"
    project.dvc("checkout", "-q")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "403"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "403"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "Unable to locate credentials"),
    ],
)
def test_wrong_credentials(project: Project, environment: dict[str, str], said: str) -> None:
    assert said in project.run("dvc", "push", check=False, **environment)
    assert project.code != 0
    affine = (sys.executable, "-m", "affine", "remote-check")
    message = project.run(*affine, check=False, PYTHONPATH=str(ROOT), **environment)
    assert project.code == 1
    assert message.startswith("affine remote-check: s3://affine/store")
    assert len(message.splitlines()) == 1
    assert KEY not in message


def test_a_lost_bucket(project: Project) -> None:
    shutil.rmtree(project.s3.folder / "affine")
    assert "NoSuchBucket" in project.dvc("push", check=False)
    message = project.run(sys.executable, "-m", "affine", "remote-check", check=False, PYTHONPATH=str(ROOT))
    assert project.code == 1
    assert message == (
        "affine remote-check: s3://affine/store/files/md5: no bucket affine; create it, and `dvc push` fills it again\n"
    )
    (project.s3.folder / "affine").mkdir()
    time.sleep(1.2)
    assert {finding.state for finding in check_remote(project.folder)} == {State.MISSING}


def test_a_server_killed_in_mid_push(project: Project, tmp_path: Path) -> None:
    """The push fails soon and says so; the next one sends the rest, and all is whole."""
    many = project.folder / "many"
    many.mkdir()
    for k in range(60):
        (many / str(k)).write_bytes(os.urandom(20_000))
    project.dvc("add", "-q", "many")
    before = len(project.objects())
    over = threading.Event()

    def kill() -> None:
        while len(project.objects()) < before + 10 and not over.is_set():
            time.sleep(0.01)
        project.s3.kill()

    watcher = threading.Thread(target=kill)
    watcher.start()
    said = project.dvc("push", "-j", "4", "many.dvc", check=False)
    over.set()
    watcher.join()
    try:
        assert project.code != 0
        assert "failed to push" in said
        arrived = len(project.objects())
        assert before + 10 <= arrived < before + 61
        assert not [oid for oid in project.objects() if oid.endswith(".dir") and oid not in _known(project)]
    finally:
        project.s3.restart()
    project.dvc("push", "many.dvc")
    states = [finding.state for finding in check_remote(project.folder)]
    assert len(states) == len(set(project.objects()) - _run_cache_only(project))
    assert set(states) == {State.GOOD}
    (project.folder / "many.dvc").unlink()
    shutil.rmtree(many)


def _known(project: Project) -> set[str]:
    lock = (project.folder / "dvc.lock").read_text()
    return {oid for oid in project.objects() if oid in lock}


def _run_cache_only(project: Project) -> set[str]:
    """Objects of results that are in the run cache and not in this commit."""
    named = {finding.object.oid for finding in check_remote(project.folder)}
    return set(project.objects()) - named


DAMAGE = {
    "lost": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "corrupted": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_healed_where_dvc_sees_none(
    project: Project, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {finding.state for finding in check_remote(project.folder)} == {State.GOOD}
    [victim] = [finding for finding in check_remote(project.folder) if finding.object.path == "data/3"]
    path = project.objects()[victim.object.oid]
    DAMAGE[kind](path)
    time.sleep(1.2)  # the loopback server's own listing may be a second old
    # DVC believes its list of the directory:
    assert "in sync" in project.dvc("status", "-c")
    assert "up to date" in project.dvc("push")
    assert remote_check([]) == 1
    said = capsys.readouterr().out
    assert f"{'missing' if kind == 'lost' else 'damaged'} data/3" in said
    assert "6 objects: 5 good" in said
    assert "--heal" in said
    assert remote_check(["--heal"]) == 0
    assert {finding.state for finding in check_remote(project.folder, deep=True)} == {State.GOOD}
    assert capsys.readouterr().out.splitlines()[-1] == "healed"


class Encrypting:
    """A remote of one object, whose bucket encrypts: its ETag looks like an MD5 and is none (SSE-KMS)."""

    protocol = "s3"

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.fs = self
        self.path = "bucket/store"

    def oid_to_path(self, oid: str) -> str:
        return f"{self.path}/{oid}"

    def info(self, _: str) -> dict[str, object]:
        return {"size": len(self.content), "ETag": '"0123456789abcdef0123456789abcdef"'}

    def open(self, *_: str) -> io.BytesIO:
        return io.BytesIO(self.content)


@pytest.mark.parametrize(("content", "state"), [(b"whole", State.GOOD), (b"whule", State.DAMAGED)])
def test_a_checksum_that_is_no_md5_is_looked_behind(tmp_path: Path, content: bytes, state: State) -> None:
    wanted = Object("sft", "models/sft", hashlib.md5(b"whole").hexdigest(), 5)
    assert _look(Encrypting(content), wanted, deep=False, cached=tmp_path / "none")[0] is state


def test_healed_is_said_of_what_arrived(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote that takes an object and keeps other bytes."""
    [victim] = [finding for finding in check_remote(project.folder) if finding.object.path == "model"]
    path = project.objects()[victim.object.oid]
    path.write_text("2 1\n1 2\n")
    time.sleep(1.2)

    def put_file(self: object, source: str, target: str) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr("dvc_s3.S3FileSystem.put_file", put_file)
        assert remote_check(["--heal"]) == 1
    said = capsys.readouterr().out
    assert "still damaged model: " in said
    assert said.splitlines()[-1] == "1 could not be healed from here"
    assert remote_check(["--heal"]) == 0


def test_a_lost_folder(project: Project, tmp_path: Path) -> None:
    project.dvc("remote", "add", "-q", "--local", "gone", str(tmp_path / "gone"))
    with pytest.raises(RemoteError, match=r"no folder .*gone.*; mount or create it"):
        list(check_remote(project.folder, "gone"))


def test_what_is_damaged_is_not_taken_for_good(project: Project, tmp_path: Path) -> None:
    """`verify = true` in the template: a pull refuses what does not hash to its name, and the remedy is named."""
    [victim] = [finding for finding in check_remote(project.folder) if finding.object.path == "model"]
    project.objects()[victim.object.oid].write_text("2 1\n1 2\n")  # of the right length
    project.run("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone", project.s3)
    clone.dvc("pull", check=False)
    assert clone.code != 0
    assert not (clone.folder / "model").exists()
    assert (clone.folder / "data" / "1").exists()
    os.chdir(clone.folder)
    [bad] = [finding for finding in check_remote(clone.folder) if finding.state is not State.GOOD]
    assert (bad.object.path, bad.object.stage, bad.state, bad.cached) == ("model", "model", State.DAMAGED, False)
    assert remote_check(["--heal"]) == 1  # nothing here to send


def test_without_a_remote_the_template_is_named(tmp_path: Path) -> None:
    Repo.init(str(tmp_path), no_scm=True)
    with pytest.raises(RemoteError, match=r"no remote specified.*`\.dvc/config` has a template"):
        list(check_remote(tmp_path))


def test_a_folder_as_remote_is_hashed(project: Project, tmp_path: Path) -> None:
    project.dvc("remote", "add", "-q", "--local", "folder", str(tmp_path / "folder"))
    project.dvc("push", "-q", "-r", "folder")
    assert {finding.state for finding in check_remote(project.folder, "folder")} == {State.GOOD}
    [one] = [finding for finding in check_remote(project.folder, "folder") if finding.object.path == "data/2"]
    path = tmp_path / "folder" / "files" / "md5" / one.object.oid[:2] / one.object.oid[2:]
    path.chmod(0o644)
    path.write_text("1 9\n")
    [bad] = [finding for finding in check_remote(project.folder, "folder") if finding.state is not State.GOOD]
    assert (bad.object.path, bad.state) == ("data/2", State.DAMAGED)
