"""The token-exact dataset on disk: `train.parquet`, `validation.parquet` and a manifest.

One row a demonstration: `env`, `task` ("level/id"), `input_ids` (int32) and `action_mask` (uint8, 1 where
the loss is), of one length. Equal datasets are equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from affine.errors import AffineError

_SCHEMA = pyarrow.schema(
    [
        ("env", pyarrow.string()),
        ("task", pyarrow.string()),
        ("input_ids", pyarrow.list_(pyarrow.int32())),
        ("action_mask", pyarrow.list_(pyarrow.uint8())),
    ]
)


class DatasetError(AffineError):
    """The dataset, or what it is made from, is missing or wrong; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One rendered demonstration."""

    env: str
    task: str
    input_ids: tuple[int, ...]
    action_mask: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def agent_tokens(self) -> int:
        """How many tokens carry the loss."""
        return sum(self.action_mask)


@dataclass(frozen=True, slots=True)
class Dataset:
    """What `dataset` made for `sft`. `tokenizer` is the digest of the tokenizer that rendered it."""

    train: tuple[Demonstration, ...]
    validation: tuple[Demonstration, ...]
    tokenizer: str


def load_tokenizer(base: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `base`. Raises DatasetError where there is none."""
    if not (base / "tokenizer.json").is_file():
        raise DatasetError(f"{base / 'tokenizer.json'}: no such file; run `dvc repro base`")
    return AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """The SHA-256 (hex) of everything that decides how text becomes tokens, however it was saved."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for setting in ("truncation", "padding"):  # of a call, not of the vocabulary
        state.pop(setting, None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """Write the dataset into `folder`, which exists."""
    counts = {}
    for name, rows in (("train", dataset.train), ("validation", dataset.validation)):
        columns = {
            "env": [row.env for row in rows],
            "task": [row.task for row in rows],
            "input_ids": [row.input_ids for row in rows],
            "action_mask": [row.action_mask for row in rows],
        }
        table = pyarrow.table(columns, schema=_SCHEMA)
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet", compression="zstd")
        counts[name] = _counts(rows)
    manifest = {"tokenizer": dataset.tokenizer, **counts}
    text = json.dumps(manifest, indent=2, sort_keys=True)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def load_dataset(folder: Path) -> Dataset:
    """Read what `save_dataset` wrote. Raises DatasetError for a part that is missing, cut or doesn't match
    the manifest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        train = _read(folder / "train.parquet")
        validation = _read(folder / "validation.parquet")
    except FileNotFoundError as error:
        raise DatasetError(f"{error.filename or folder}: no such file; run `dvc repro dataset`") from None
    except (ValueError, pyarrow.ArrowException) as error:
        line = str(error).splitlines()[0]
        raise DatasetError(f"{folder}: cut or corrupt ({line}); run `dvc repro -f dataset`") from None
    for name, rows in (("train", train), ("validation", validation)):
        if manifest.get(name) != _counts(rows):
            raise DatasetError(f"{folder}/{name}.parquet does not match manifest.json; run `dvc repro -f dataset`")
    return Dataset(train, validation, str(manifest.get("tokenizer")))


def _read(path: Path) -> tuple[Demonstration, ...]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path, schema=_SCHEMA).to_pylist()
    return tuple(
        Demonstration(row["env"], row["task"], tuple(row["input_ids"]), tuple(row["action_mask"])) for row in rows
    )


def _counts(rows: Sequence[Demonstration]) -> dict[str, int]:
    return {
        "demonstrations": len(rows),
        "tokens": sum(len(row) for row in rows),
        "agent_tokens": sum(row.agent_tokens for row in rows),
    }
