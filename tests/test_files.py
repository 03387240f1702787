"""Files appear whole or not at all, and a damaged record is named by file and line."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from affine.files import FileError, published, read_json, read_records, write_json, write_records, write_text
from affine.types import Split, Task, task_from_json

TASKS = [Task("sat", 0, k, 0, Split.TRAIN, f"key{k}", "line\u2028end\r") for k in range(5)]


def test_records_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "tasks.jsonl"
    write_records(path, TASKS)
    assert list(read_records(path, task_from_json)) == TASKS
    assert path.read_text(encoding="utf-8").count("\n") == len(TASKS)
    write_records(path, [])
    assert list(read_records(path, task_from_json)) == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ('{"env": "sat", "lev', "line 1 column 20"),
        ("[]", "no field 'split'"),
        ("3", "int"),
        ('{"env": "sat"}', "no field 'split'"),
        ("", "Expecting value"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: str, reason: str) -> None:
    path = tmp_path / "tasks.jsonl"
    write_records(path, TASKS)
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[3] = damage
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(FileError) as caught:
        list(read_records(path, task_from_json))
    assert f"{path}, line 4: not a record" in str(caught.value)
    assert reason in str(caught.value)
    assert "dvc repro" in str(caught.value)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match=r"tasks\.jsonl, line 1: not a record"):
        list(read_records(path, task_from_json))


def test_what_is_missing_is_named_with_the_remedy(tmp_path: Path) -> None:
    for read in (read_json, lambda path: list(read_records(path, task_from_json))):
        with pytest.raises(FileError, match=r"missing\.json: no such file; run the stage .*dvc repro"):
            read(tmp_path / "missing.json")


def test_json_is_sorted_exact_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 0.1, "a": "¬"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "¬",\n  "b": 0.1\n}\n'
    assert read_json(path) == {"a": "¬", "b": 0.1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": "¬", "b": 0.1}  # the old file stands
    path.write_text('{"a": ', encoding="utf-8")
    with pytest.raises(FileError, match=r"a\.json: not JSON: .*delete it"):
        read_json(path)


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for name in ("first", "second"):
        with published(target) as folder:
            (folder / name).touch()
            assert not (target / name).exists()
        assert [path.name for path in target.iterdir()] == [name]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_exception_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_text(target / "old", "whole")

    def fail() -> None:
        with published(target) as folder:
            (folder / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in target.iterdir()] == ["old"]
    with published(target) as folder:
        assert list(folder.iterdir()) == []  # what the failed run left is gone


@pytest.mark.parametrize("moment", ["rmtree", "rename"])
def test_a_kill_while_the_old_folder_goes_leaves_no_half(tmp_path: Path, moment: str) -> None:
    """Killed as the old folder is deleted, or just before the new one takes its place."""
    target = tmp_path / "out"
    for name in ("first", "second"):
        write_text(target / name, "whole")

    def replace() -> None:
        with published(target) as folder:
            for name in ("first", "second"):
                write_text(folder / name, "new")
            if moment == "rmtree":
                shutil.rmtree = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
            else:
                calls = iter((Path.rename, lambda *args: os.kill(os.getpid(), signal.SIGKILL)))
                Path.rename = lambda *args: next(calls)(*args)  # type: ignore[method-assign,assignment]  # noqa: PLW0108

    if (pid := os.fork()) == 0:
        replace()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    if moment == "rmtree":
        assert [(target / name).read_text() for name in ("first", "second")] == ["new", "new"]
    else:
        assert not target.exists()
    with published(target) as folder:
        write_text(folder / "third", "newest")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_in_the_middle_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    def endless() -> object:
        yield from TASKS
        os.kill(os.getpid(), signal.SIGKILL)

    def in_folder() -> None:
        with published(tmp_path / "out") as folder:
            write_text(folder / "part", "x")
            os.kill(os.getpid(), signal.SIGKILL)

    for work in (lambda: write_records(tmp_path / "tasks.jsonl", endless()), in_folder):  # type: ignore[arg-type]
        if (pid := os.fork()) == 0:
            work()
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "tasks.jsonl").exists()
    assert not (tmp_path / "out").exists()
    write_records(tmp_path / "tasks.jsonl", TASKS)
    with published(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tasks.jsonl"]
