"""Logs of stages: everything said, nothing that a terminal overwrites, no secret."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from affine.logs import KEEP, Redacted, logged, secrets
from affine.stage import main


def body(root: Path, name: str = "sft") -> list[str]:
    return (root / "logs" / f"{name}.log").read_text().splitlines()


def test_what_is_said_is_kept_with_a_date_and_an_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("one", "two"):
        with logged(tmp_path, "sft"):
            print(word)
            print("aside", file=sys.stderr)
            logging.getLogger("affine.training.sft").info("sft: packed_sdpa, %d tokens/s", 7)
            logging.getLogger("somebody.else").info("not ours")
    head, *said, end = body(tmp_path)[:5]
    assert head.startswith("=== 20")
    assert " sft, process " in head
    assert said == ["one", "aside", "sft: packed_sdpa, 7 tokens/s"]
    assert end.startswith("=== done after ")
    assert body(tmp_path)[6] == "two"  # the second run follows the first
    printed = capsys.readouterr()
    assert printed.out == "one\ntwo\n"
    assert printed.err.count("packed_sdpa, 7 tokens/s") == 2
    assert logging.getLogger("affine").handlers == []


def test_secrets_are_named_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hf_abcdefgh/and/more")
    monkeypatch.setenv("WANDB_API_KEY", "short")  # too short to be one; would blot out ordinary text
    monkeypatch.setenv("HOME", "/root/somewhere")
    with logged(tmp_path, "deploy"):
        sys.stdout.write("Authorization: hf_abc")  # in two pieces, as libraries write
        sys.stdout.write("defgh\n")
        print("https://hf_abcdefgh/and/more@host from /root/somewhere, in short")
    assert body(tmp_path, "deploy")[1:3] == [
        "Authorization: [HF_TOKEN]",
        "https://[AWS_SECRET_ACCESS_KEY]@host from /root/somewhere, in short",
    ]
    assert "hf_abc" not in (tmp_path / "logs" / "deploy.log").read_text()


def test_a_secret_without_a_newline_is_hidden_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PASSWORD", "correct horse")
    with logged(tmp_path, "x"):
        sys.stderr.write("battery correct horse")
    assert body(tmp_path, "x")[1] == "battery [MY_PASSWORD]"


def test_progress_bars_stay_on_the_terminal(tmp_path: Path) -> None:
    file = io.StringIO()
    log = Redacted(file, {})
    with Progress(console=Console(file=_Terminal(log), force_terminal=True, width=60)) as bar:
        row = bar.add_task("evaluate", total=3)
        for _ in range(3):
            bar.advance(row)
        bar.console.print("[red]half way[/]")
    said, bar_at_last = file.getvalue().splitlines()
    assert said == "half way"
    assert bar_at_last.startswith("evaluate ━")
    assert "100%" in bar_at_last
    assert "\x1b" not in file.getvalue()


class _Terminal(io.StringIO):
    def __init__(self, log: Redacted) -> None:
        super().__init__()
        self._log = log

    def write(self, text: str) -> int:
        return self._log.write(text)


def test_a_defect_and_an_interruption_are_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stages/tasks.py", "sat"])

    def defect(env: str) -> None:
        raise KeyError(env)

    with pytest.raises(KeyError):
        main(defect, "sat")
    text = (tmp_path / "logs" / "tasks.sat.log").read_text()
    assert "Traceback" in text
    assert "KeyError: 'sat'" in text
    assert "=== failed after" in text


def test_a_script_started_elsewhere_leaves_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stages/tasks.py"])
    main(lambda: None)
    assert list(tmp_path.iterdir()) == []


def test_processes_of_one_run_do_not_share_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    with logged(tmp_path, "sft"):
        pass
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["sft.rank3.log"]


def test_a_large_log_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "sft.log").write_bytes(b"x" * (KEEP + 1))
    with logged(tmp_path, "sft"):
        pass
    assert len(body(tmp_path)) == 2
    assert (tmp_path / "logs" / "sft.log.1").stat().st_size == KEEP + 1


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of somebody who is not logged in anywhere."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_which_variables_are_secrets(tmp_path: Path) -> None:
    hidden = ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_KEY", "KEY", "SSH_KEY_1", "DB_PASS", "GITHUB_PAT", "PGPASSWORD")
    shown = ("SSH_AUTH_SOCK", "KEYBOARD", "MONKEY", "PATH", "TOKENIZERS_PARALLELISM", "PASSENGER", "COMPASS")
    environment = {name: f"value of {name}" for name in (*hidden, *shown)}
    assert set(secrets(tmp_path, environment).values()) == set(hidden)


def test_each_line_of_a_secret_is_hidden_and_the_longest_first(tmp_path: Path) -> None:
    found = secrets(tmp_path, {"SIGNING_KEY": "-----BEGIN-----\nMIIabcdef\n  MIIabcdefgh\nxyz\n", "A_TOKEN": "MIIabc"})
    assert list(found) == ["-----BEGIN-----", "MIIabcdefgh", "MIIabcdef", "MIIabc"]


def test_secrets_in_files_are_hidden(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's token where huggingface_hub keeps it, and what `dvc remote modify --local` writes."""
    token = home / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("tok-by-login\n")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").write_text(
        "['remote \"store\"']\n    access_key_id = keyid-of-ada\n    secret_access_key = 50%off/x\n"
        "    url = s3://bucket/affine\n"
    )
    with logged(tmp_path, "x"):
        print("tok-by-login, keyid-of-ada and 50%off/x for s3://bucket/affine")
    hidden = "[secret_access_key] for s3://bucket/affine"
    assert body(tmp_path, "x")[1] == f"[token], [access_key_id] and {hidden}"
    monkeypatch.setenv("HF_TOKEN_PATH", str(home / "elsewhere"))
    (home / "elsewhere").write_text("tok-elsewhere")
    assert set(secrets(tmp_path, {"HF_TOKEN_PATH": str(home / "elsewhere")})) >= {"tok-elsewhere", "keyid-of-ada"}


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (f"token=hf_{'aB3' * 11}.", "token=[hf_token]."),
        (f"id AKIA{'Z9' * 8} of", "id [aws_key] of"),
        (f"ghp_{'a1' * 18}", "[github_token]"),
        (f"'github_pat_{'a1_' * 12}'", "'[github_token]'"),
        (f"key sk-proj-{'a1' * 18},", "key [api_key],"),
        ("git clone https://ada:s3cret@host/x.git", "git clone https://[user_and_password]@host/x.git"),
        (f"https://hf_{'x' * 34}@huggingface.co", "https://[hf_token]@huggingface.co"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(said: str, kept: str) -> None:
    assert redacted(said) == kept


@pytest.mark.parametrize(
    "said",
    [
        "sft: step 10, loss 1.234, 9000 tokens/s, sha 5d41402abc4b2a76b9719d911017c592d3a1b2c4",
        "hf_xet and hf_transfer speed up huggingface_hub; half_precision_everywhere_in_this_model",
        "http://127.0.0.1:8000/v1/chat/completions at 12:30, mail to ada@example.org",
        "s3://bucket/a:b and git@github.com:ada/affine.git, python@3.11",
        "risk-averse-and-task-oriented-agents-are-fine, AKIA is a prefix",
        "/root/.cache/huggingface/token",
    ],
)
def test_ordinary_text_stays(said: str) -> None:
    assert redacted(said) == said


def redacted(said: str) -> str:
    file = io.StringIO()
    Redacted(file, {}).write(f"{said}\n")
    return file.getvalue().removesuffix("\n")
