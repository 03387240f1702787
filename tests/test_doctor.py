"""The doctor: right about what works, plain about what does not, silent about secrets."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from affine import doctor
from affine.__main__ import main
from affine.doctor import Finding, Status
from affine.envs.engines.programs.sandbox import LEVELS, Sandbox
from affine.envs.env import REGISTRY, make
from affine.types import ENVS

ROOT = Path(__file__).parents[1]
SECRETS = {"HF_TOKEN": "hf_verysecret", "AWS_ACCESS_KEY_ID": "AKIAVERYSECRET", "AWS_SECRET_ACCESS_KEY": "s3verysecret"}


def findings(output: str) -> dict[str, Finding]:
    return {
        row["name"]: Finding(row["name"], Status(row["status"]), row["found"], row["remedy"])
        for row in json.loads(output)
    }


def test_everything_works_here_and_no_secret_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert main(["doctor", "--json"]) == 0
    shown = capsys.readouterr()
    assert not any(value in shown.out + shown.err for value in SECRETS.values())
    found = findings(shown.out)
    for name in (*ENVS, "python", "git", "dvc", "torch", "sandbox", "hugging face", "s3"):
        assert found[name].status is not Status.FAIL, found[name]
    assert found["python"].found.startswith(platform.python_version())
    assert found["torch"].found.startswith(version("torch"))
    assert found["sandbox"].found.partition(":")[0].partition(" ")[0] in LEVELS
    assert found["hugging face"].status is found["s3"].status is Status.OK
    for env in ENVS:
        assert all(number in found[env].found for number in make(env).engine().values())
    assert all(finding.remedy for finding in found.values() if finding.status is not Status.OK)


def test_the_table_puts_each_remedy_under_its_line_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = [Finding("disk", Status.FAIL, "0.1 GB free", "make room"), Finding("make", Status.NOTE, "none", "by hand")]
    monkeypatch.setattr("affine.cli.doctor.examine", lambda root: iter(told))
    assert main(["doctor"]) == 1
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].split() == ["disk", "FAIL", "0.1", "GB", "free"]
    assert lines[1].strip() == "-> make room"
    assert lines[-1] == "1 to mend first: disk"
    monkeypatch.setattr("affine.cli.doctor.examine", lambda root: iter(told[1:]))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ready: make all"


def test_a_broken_engine_is_one_red_line_and_the_others_are_still_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "webshop", "affine.envs.nowhere:WebShop")
    monkeypatch.setitem(REGISTRY, "babyai", "affine.envs.sat:Missing")
    kept = ("webshop", "babyai", "textcraft")
    monkeypatch.setattr(doctor, "ENVS", kept)
    found = {finding.name: finding for finding in doctor.examine(ROOT) if finding.name in kept}
    assert [found[env].status for env in kept] == [Status.FAIL, Status.FAIL, Status.OK]
    assert "affine.envs.nowhere" in found["webshop"].found
    assert "Missing" in found["babyai"].found
    assert all("\n" not in found[env].found for env in kept)


def test_packages_are_compared_with_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    rich, torch = version("rich"), version("torch").partition("+")[0]
    lock.write_text(f"# made\nrich=={rich}\ntorch=={torch}\n")
    assert doctor.packages(lock).status is Status.OK
    lock.write_text(f"rich==0.0.1\ntorch=={torch}\n")
    other = doctor.packages(lock)
    assert (other.status, other.found) == (Status.NOTE, f"rich {rich} instead of 0.0.1")
    lock.write_text("rich==0.0.1\n" + "".join(f"no-such-package-{n}==1\n" for n in range(5)))
    missing = doctor.packages(lock)
    assert missing.status is Status.FAIL
    assert missing.found.startswith("missing: no-such-package-0, ")
    assert missing.found.endswith("and 2 more")
    assert doctor.packages(tmp_path / "none").status is Status.NOTE


@pytest.mark.parametrize(
    ("gigabytes", "status"), [(0.5, Status.FAIL), (2.99, Status.FAIL), (3.0, Status.NOTE), (6.0, Status.OK)]
)
def test_memory_has_two_thresholds(gigabytes: float, status: Status) -> None:
    finding = doctor.memory(gigabytes * 1e9)
    assert finding.status is status
    assert bool(finding.remedy) == (status is not Status.OK)


def test_available_memory_is_no_more_than_the_machine_has() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < doctor.available_memory() <= int(total.split()[1]) * 1024


def test_git_and_dvc_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert doctor.git(tmp_path).status is Status.FAIL
    assert doctor.dvc(tmp_path).status is Status.FAIL
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert doctor.git(tmp_path).status is Status.OK
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.git(tmp_path).found == "not installed"
    assert doctor.make_tool().status is Status.NOTE


def test_no_safe_sandbox_is_red_and_an_unsafe_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "affine.envs.engines.programs.sandbox.shared"
    without = Sandbox(levels=(), unsafe=False)
    monkeypatch.setattr(path, lambda unsafe: without)
    finding = doctor._safely("sandbox", doctor.sandbox)
    assert finding.status is Status.FAIL
    assert "no safe level" in finding.found
    unsafe = Sandbox(levels=(), unsafe=True)
    monkeypatch.setattr(path, lambda allowed: unsafe)
    try:
        finding = doctor._safely("sandbox", doctor.sandbox)
    finally:
        unsafe.close()
    assert finding.status is Status.NOTE
    assert finding.found.startswith("UNSAFE")


def test_no_tokens_are_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    assert doctor.hugging_face().status is doctor.s3().status is Status.NOTE
    (tmp_path / "token").write_text("hf_verysecret")
    assert doctor.hugging_face().status is Status.NOTE
    assert doctor.hugging_face().found == "a saved login, which is not used"


def test_an_old_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.python().status is Status.OK
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert doctor.python().status is Status.FAIL
