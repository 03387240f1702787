"""Checkpoints on disk: a folder as `from_pretrained` reads it, checked before anything trusts it.

Nothing here loads a model: headers and hashes are read, so that the checks cost little even at 8 GB.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer

from affine.errors import AffineError
from affine.models.chat import Renderer

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SUMS = "SHA256SUMS"
EMBEDDING = "model.embed_tokens.weight"

PARTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE*",
)
"""Names of what belongs to a checkpoint beside its weights and their index."""

BROKEN = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, TemplateError)
"""What damaged files of a tokenizer, or a chat template with a fault, raise when they are loaded or rendered."""


class CheckpointError(AffineError):
    """A checkpoint is missing, incomplete or not one that the pipeline can use; says what to do."""


@dataclass(frozen=True, slots=True)
class FileHash:
    """One file of a folder: `path` relative with forward slashes, `size` in bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Tensor:
    """A stored tensor: the file that holds it, its safetensors dtype ("F32", "BF16", ...) and its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """The number of its elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a folder holds, as far as headers tell. `vocabulary` counts rows of the embedding, `tokens`
    the tokenizer's entries."""

    architecture: str
    parameters: int
    dtype: str
    vocabulary: int
    tokens: int
    tied: bool


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_part(name: str) -> bool:
    """Whether a file of this name belongs to a checkpoint beside its weights. Which files those are the index says, and
    no name does: repositories hold the same weights in other formats and halves, too."""
    return "/" not in name and any(fnmatchcase(name, part) for part in (INDEX, *PARTS))


def hash_files(folder: Path, paths: Iterable[Path] | None = None) -> list[FileHash]:
    """Size and hash of every file under `folder` (or of `paths` in it), sorted by path."""
    found = sorted(paths if paths is not None else (p for p in folder.rglob("*") if p.is_file()))
    return [FileHash(p.relative_to(folder).as_posix(), p.stat().st_size, sha256(p)) for p in found]


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` over all other files of `folder`, in the format of `sha256sum --check`."""
    lines = [f"{file.sha256}  {file.path}\n" for file in hash_files(folder) if file.path != SUMS]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def read_sums(text: str) -> dict[str, str]:
    """Path -> SHA-256 from the text of a `SHA256SUMS`. Raises ValueError for a line that is not of it."""
    sums = {}
    for line in text.splitlines():
        digest, separator, path = line.partition("  ")
        if not separator or len(digest) != 64 or not path:
            raise ValueError(f"not a line of SHA256SUMS: {line[:80]!r}")
        sums[path] = digest
    return sums


def verify_sums(folder: Path) -> dict[str, str]:
    """Check `folder` against its `SHA256SUMS`, both ways, and return them.

    Raises CheckpointError naming the first file that is missing, changed or not listed.
    """
    try:
        sums = read_sums((folder / SUMS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no {SUMS}; the folder is not complete") from None
    except ValueError as error:
        raise CheckpointError(f"{folder / SUMS}: {error}") from None
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {SUMS}
    for path in sorted(present ^ set(sums)):
        state = "is missing" if path in sums else f"is not listed in {SUMS}"
        raise CheckpointError(f"{folder / path} {state}")
    for path, digest in sorted(sums.items()):
        if sha256(folder / path) != digest:
            raise CheckpointError(f"{folder / path} does not have the hash that {SUMS} gives it: it was changed or cut")
    return sums


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError where it is missing or is not one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return data


def shard_names(folder: Path) -> list[str]:
    """The names of the weight files that the index in `folder` lists, or of the single one where it has no index.
    Raises CheckpointError."""
    return sorted(set(_weight_map(folder).values())) if (folder / INDEX).is_file() else [WEIGHTS]


def shard_files(folder: Path) -> list[Path]:
    """The weight files of `folder`, in order.

    Raises CheckpointError where there are none or one is missing.
    """
    names = shard_names(folder)
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no {name}; the weights must be complete safetensors")
    return [folder / name for name in names]


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor -> file, from the index. Raises CheckpointError, for files outside of the folder too."""
    found = read_json(folder / INDEX).get("weight_map")
    if not isinstance(found, dict) or not found or not all(_is_shard(name) for name in found.values()):
        raise CheckpointError(f"{folder / INDEX}: weight_map must map tensors to files; fetch or make it again")
    return dict(found)


def _is_shard(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def first_line(error: BaseException) -> str:
    """An error's first line, or its kind where it has no text."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint by name, in the order in which the files hold them.

    Raises CheckpointError for a file that is cut or is no safetensors, and where index and files disagree.
    """
    tensors: dict[str, Tensor] = {}
    for file in shard_files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.offset_keys():
                    part = opened.get_slice(name)
                    tensors[name] = Tensor(file, part.get_dtype(), tuple(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: cut or corrupt ({error}); fetch or make it again") from None
    if (folder / INDEX).is_file():
        listed = _weight_map(folder)
        held = {name: tensor.file.name for name, tensor in tensors.items()}
        for name in sorted(listed.keys() | held.keys()):
            if listed.get(name) != held.get(name):
                raise CheckpointError(f"{folder / INDEX}: says {name} is in {listed.get(name)}, not {held.get(name)}")
    return tensors


def check_checkpoint(folder: Path) -> Checkpoint:
    """Check that `folder` holds a causal LM that the pipeline can train, and say what it is.

    Raises CheckpointError for anything that would fail later: cut weights, no tokenizer or chat template,
    no ChatML tokens, a vocabulary larger than the embedding, quantised weights, code to be downloaded.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    config = read_json(folder / "config.json")
    for key, why in (("quantization_config", "quantised weights cannot be merged"), ("auto_map", "needs remote code")):
        if config.get(key):
            raise CheckpointError(f"{folder / 'config.json'}: has {key}: {why}; use another base")
    tensors = stored_tensors(folder)
    if EMBEDDING not in tensors:
        raise CheckpointError(f"{folder}: no tensor {EMBEDDING}; only decoder models laid out like Qwen3 are known")
    tokens = _check_tokenizer(folder)
    vocabulary = tensors[EMBEDDING].shape[0]
    if config.get("vocab_size") != vocabulary or tokens > vocabulary:
        raise CheckpointError(
            f"{folder}: vocabulary does not fit: {tokens} tokens in the tokenizer, {vocabulary} rows in the"
            f" embedding, vocab_size {config.get('vocab_size')} in config.json"
        )
    return Checkpoint(
        architecture=_architecture(config),
        parameters=sum(tensor.parameters for tensor in tensors.values()),
        dtype=tensors[EMBEDDING].dtype,
        vocabulary=vocabulary,
        tokens=tokens,
        tied=bool(config.get("tie_word_embeddings")),
    )


def _architecture(config: dict[str, Any]) -> str:
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else "?"


def _check_tokenizer(folder: Path) -> int:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        Renderer(tokenizer)
    except BROKEN as error:
        raise CheckpointError(f"{folder}: the tokenizer cannot be used: {first_line(error)}") from None
    if not tokenizer.chat_template:
        raise CheckpointError(f"{folder}: no chat template (chat_template.jinja)")
    return len(tokenizer)
