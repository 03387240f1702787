"""params.yaml: the shipped one loads, and every mistake is named by file and dotted key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from affine.params import ParamsError, Section, load_params
from affine.types import ENVS

SHIPPED = Path(__file__).parents[1] / "params.yaml"


def changed(tmp_path: Path, key: str, value: object) -> Path:
    """The shipped parameters with the dotted key set to `value` (... deletes it)."""
    data = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    *path, last = key.split(".")
    place = data
    for part in path:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


def refused(file: Path) -> str:
    with pytest.raises(ParamsError) as caught:
        load_params(file)
    message = str(caught.value)
    assert all(line.startswith(f"{file}: ") for line in message.splitlines())
    return message.replace(f"{file}: ", "")


def test_the_shipped_file_loads_and_is_immutable() -> None:
    params = load_params(SHIPPED)
    assert params.ppo.weights.as_dict().keys() == set(ENVS)
    with pytest.raises(ValidationError):
        params.ppo.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        # unknown and missing names, at every depth
        ("extra", {"a": 1}, "unknown key extra"),
        ("ppo.learning_rte", 0.1, "unknown key ppo.learning_rte"),
        ("sft.lora.r", 4, "unknown key sft.lora.r"),
        ("tasks.chess", {"train": 1, "test": 1}, "unknown key tasks.chess"),
        ("ppo.weights", {"chess": 1.0}, "unknown key ppo.weights.chess"),
        ("ppo", ..., "missing key ppo"),
        ("tasks.sat.train", ..., "missing key tasks.sat.train"),
        # types are not guessed
        ("seed", "3", "seed: Input should be a valid integer, got '3'"),
        ("seed", True, "seed: Input should be a valid integer, got True"),
        ("seed", 1.0, "seed: Input should be a valid integer, got 1.0"),
        ("ppo.enabled", 1, "ppo.enabled: Input should be a valid boolean, got 1"),
        ("ppo.enabled", "yes", "ppo.enabled: Input should be a valid boolean, got 'yes'"),
        ("ppo.gamma", "0.9", "ppo.gamma: Input should be a valid number, got '0.9'"),
        ("ppo.kl", True, "ppo.kl: Input should be a valid number, got True"),
        ("tasks.sat.levels", ["0"], "tasks.sat.levels.0: Input should be a valid integer, got '0'"),
        ("sft.lora.target_modules", "q_proj", "sft.lora.target_modules: Input should be a valid tuple, got 'q_proj'"),
        ("ppo", None, "ppo: Input should be a valid dictionary"),
        ("ppo", [1], "ppo: Input should be a valid dictionary"),
        # impossible values
        ("ppo.gamma", 1.5, "ppo.gamma: Input should be less than or equal to 1, got 1.5"),
        ("ppo.kl", -0.1, "ppo.kl: Input should be greater than or equal to 0"),
        ("ppo.kl", float("nan"), "ppo.kl: Input should be a finite number, got nan"),
        ("ppo.learning_rate", float("inf"), "ppo.learning_rate: Input should be a finite number"),
        ("ppo.gae", "bi-level", "ppo.gae: Input should be 'token', 'turn' or 'bilevel', got 'bi-level'"),
        ("tasks.sat.levels", [], "tasks.sat.levels: Tuple should have at least 1 item"),
        ("tasks.sat.levels", [0, 1, 0], "tasks.sat: Value error, levels names a level twice"),
        ("ppo.weights", dict.fromkeys(ENVS, 0.0), "at least one environment needs a weight above 0"),
        ("dataset.weights", {"sat": 2.0}, "weights.sat is the share of its demonstrations, at most 1"),
        ("base.source", "hub", "base: Value error, source 'hub' needs 'repo' and 'revision'"),
        ("base.revision", "main", "base: Value error, revision 'main' is no commit hash: take all 40 digits"),
        ("release.name", "Nano", "release.name: String should match pattern"),
        ("dataset.max_length", 10**6, "dataset.max_length must not exceed sft.batch_tokens"),
        (
            "tasks.abd.validation",
            0,
            "tasks.abd.validation is 0, and ppo.validate_every compares adapters by such tasks",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    assert message in refused(changed(tmp_path, key, value))


def test_whole_numbers_serve_as_fractions(tmp_path: Path) -> None:
    assert load_params(changed(tmp_path, "ppo.kl", 0)).ppo.kl == 0.0


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    file = changed(tmp_path, "seed", "x")
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    data["ppo"]["clip"] = 2
    data["evaluate"]["top"] = 1
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    assert {line.split(":")[0] for line in refused(file).splitlines()} == {
        "seed", "ppo.clip", "unknown key evaluate.top"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not valid YAML: "),
        (b"- 1\n- 2", "expected a mapping of sections"),
        (b"", "expected a mapping of sections"),
        (b"\xff\xfe", "not valid YAML: "),
    ],
)
def test_files_that_are_no_parameters(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    assert message in refused(file)
    assert len(refused(file).splitlines()) == 1


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such file; run from the repository's root"):
        load_params(tmp_path / "params.yaml")


def test_every_section_is_strict_and_documented() -> None:
    def sections(cls: Any) -> list[Any]:
        return [cls, *(sub for child in cls.__subclasses__() for sub in sections(child))]

    for section in sections(Section):
        assert section.model_config["extra"] == "forbid"
        assert section.model_config["strict"] is True
        assert section.__doc__


def test_small_numbers_as_dvc_writes_them(tmp_path: Path) -> None:
    text = SHIPPED.read_text()
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(r"learning_rate: 0\.003", "learning_rate: 1e-05", text, count=1))
    assert load_params(path).sft.learning_rate == 1e-5
