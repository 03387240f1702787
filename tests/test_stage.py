"""Stage scripts: what a person can mend becomes one or two lines and exit code 1, the rest keeps its traceback."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from affine.errors import AffineError
from affine.stage import main

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/stages/collect.py", "sat"])


def raising(error: BaseException) -> object:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (AffineError("sat: too few; lower x"), 1, "collect: sat: too few; lower x"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/x"),
            1,
            "collect: No space left on device (data/x); free some space and run it again",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 1, "collect: Permission denied (out)"),
        (KeyboardInterrupt(), 130, "collect: interrupted; run it again to go on"),
    ],
)
def test_expected_errors_are_short(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(raising(error))  # type: ignore[arg-type]
    assert caught.value.code == code
    assert capsys.readouterr().err == said + "\n"


@pytest.mark.parametrize("error", [ValueError("ours"), KeyError("x"), OSError("no errno, no file")])
def test_defects_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        main(raising(error))  # type: ignore[arg-type]


def test_arguments_are_handed_on_and_checked() -> None:
    seen = []

    def run(env: str) -> None:
        seen.append(env)
        if env == "defect":
            raise TypeError("inside")

    main(run, "sat")
    assert seen == ["sat"]
    for arguments in ((), ("sat", "abd")):
        with pytest.raises(SystemExit, match=r"^collect: .*argument.*usage: collect ENV$"):
            main(run, *arguments)
    with pytest.raises(TypeError, match="inside"):
        main(run, "defect")
    assert seen == ["sat", "defect"]


def stage(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "stages" / f"{arguments[0]}.py"), *arguments[1:]],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tasks", "chess"), "tasks: no environment 'chess' (known: sat, abd, "),
        (("collect", "chess"), "collect: no environment 'chess' (known: sat, abd, "),
        (("collect", "sat"), "data/tasks/sat/train.jsonl: no such file; run the stage that makes it (`dvc repro`)"),
        (("collect",), "collect: missing a required argument: 'env'; usage: collect ENV"),
    ],
)
def test_the_scripts_say_what_is_wrong(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    done = stage(tmp_path, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_stage_without_parameters_says_so(tmp_path: Path) -> None:
    done = stage(tmp_path, "tasks", "sat")
    assert (done.returncode, done.stderr) == (1, "tasks: params.yaml: no such file; run from the repository's root\n")
