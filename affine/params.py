"""`params.yaml`, typed: every stage loads the whole file, so that a mistake in any section stops the work
before it starts.

Sections carry the names of the stages that read them; `envs` and `rollout` serve several. An unknown
key, a wrong type or an impossible value raises `ParamsError` naming the file and the dotted key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from affine.errors import AffineError
from affine.types import ENVS


class ParamsError(AffineError):
    """params.yaml is missing, unreadable or wrong; the message names the key and what was expected."""


class Section(BaseModel):
    """Base of all sections: immutable, and no key that is not listed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class EnvsParams(Section):
    """How environments are played (`affine.envs.env.EnvSettings`); part of the evaluator fingerprint."""

    mode: Literal["fixed", "upstream"] = "fixed"
    prompts: str = "brief"


class TaskSet(Section):
    """Which tasks of one environment the splits hold."""

    levels: tuple[int, ...] = Field(default=(0,), min_length=1, strict=False)
    train: int = Field(gt=0)
    validation: int = Field(ge=0)
    test: int = Field(gt=0)

    @model_validator(mode="after")
    def _levels(self) -> TaskSet:
        if len(set(self.levels)) < len(self.levels):
            raise ValueError("levels names a level twice")
        return self


class TasksParams(Section):
    """Stage `tasks`. `seed` makes the world of tasks; the top-level seed does not touch it."""

    seed: int = Field(ge=0)
    sat: TaskSet
    abd: TaskSet
    ded: TaskSet
    webshop: TaskSet
    alfworld: TaskSet
    babyai: TaskSet
    sciworld: TaskSet
    textcraft: TaskSet


class Collection(Section):
    """How many solved demonstrations one environment must yield."""

    episodes: int = Field(gt=0)


class CollectParams(Section):
    """Stage `collect`. `noise` is the share of turns played without insight before the expert recovers,
    `recovery` the share of episodes that have such turns, `time_limit` seconds per task."""

    style: Literal["action", "thought"] = "action"
    noise: float = Field(ge=0, lt=1)
    recovery: float = Field(ge=0, le=1)
    time_limit: float = Field(gt=0)
    sat: Collection
    abd: Collection
    ded: Collection
    webshop: Collection
    alfworld: Collection
    babyai: Collection
    sciworld: Collection
    textcraft: Collection


class Weights(Section):
    """A weight per environment; 0 leaves an environment out."""

    sat: float = Field(default=1.0, ge=0)
    abd: float = Field(default=1.0, ge=0)
    ded: float = Field(default=1.0, ge=0)
    webshop: float = Field(default=1.0, ge=0)
    alfworld: float = Field(default=1.0, ge=0)
    babyai: float = Field(default=1.0, ge=0)
    sciworld: float = Field(default=1.0, ge=0)
    textcraft: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Weights:
        if not any(self.as_dict().values()):
            raise ValueError("at least one environment needs a weight above 0")
        return self

    def as_dict(self) -> dict[str, float]:
        """Environment -> weight, in the order of `ENVS`."""
        return {env: getattr(self, env) for env in ENVS}


class DatasetParams(Section):
    """Stage `dataset`. Lengths are in tokens; `validation` is the share of demonstrations (by task group)
    held out for the SFT's validation loss; `weights` is the share of each environment's demonstrations
    used, 1 for all."""

    max_length: int = Field(gt=0)
    validation: float = Field(gt=0, lt=0.5)
    weights: Weights = Weights()

    @model_validator(mode="after")
    def _shares(self) -> DatasetParams:
        for env, weight in self.weights.as_dict().items():
            if weight > 1:
                raise ValueError(f"weights.{env} is the share of its demonstrations, at most 1 (got {weight})")
        return self


class PretrainParams(Section):
    """How `base.source: pretrain` (and `python -m affine pretrain`) makes the nano model. `episodes` of noisy
    play per environment make the corpus; `drills` and `steps` are optimizer steps of retrieval drills and of
    play mixed with a share of `skills` texts; `prompt_weight` is the loss weight of what the agent only reads."""

    episodes: int = Field(gt=0)
    drills: int = Field(ge=0)
    steps: int = Field(gt=0)
    batch_tokens: int = Field(gt=0)
    skills: float = Field(ge=0, lt=1)
    prompt_weight: float = Field(ge=0, le=1)
    learning_rate: float = Field(gt=0)
    muon_learning_rate: float = Field(gt=0)
    save_every: int = Field(gt=0, multiple_of=50)


class BaseParams(Section):
    """Stage `base`: the starting checkpoint. `path` for `shipped`, `repo` and `revision` (a full commit
    hash) for `hub`."""

    source: Literal["shipped", "pretrain", "hub"]
    path: str = "pretrained/nano"
    repo: str = ""
    revision: str = ""
    pretrain: PretrainParams

    @model_validator(mode="after")
    def _complete(self) -> BaseParams:
        if self.source == "hub" and not (self.repo and len(self.revision) == 40):
            raise ValueError("source 'hub' needs 'repo' and 'revision' (the full 40-digit commit hash)")
        return self


class LoraParams(Section):
    """LoRA by peft. `target_modules` are the names of the linear layers to adapt."""

    rank: int = Field(gt=0)
    alpha: int = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(min_length=1, strict=False)


class SftParams(Section):
    """Stage `sft`. `batch_tokens` is the size of a packed sequence, `batch_sequences` how many of them make
    an optimizer step; `log_every`, `evaluate_every` and `save_every` count optimizer steps. `dtype` is the
    format of matrix products; auto is bfloat16 where the hardware has it."""

    lora: LoraParams
    epochs: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    batch_tokens: int = Field(gt=0)
    batch_sequences: int = Field(gt=0)
    log_every: int = Field(default=10, gt=0)
    evaluate_every: int = Field(gt=0)
    save_every: int = Field(gt=0)
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False


class RolloutParams(Section):
    """How policies play, in `ppo` and `evaluate` alike. `context` and `reply` are the most tokens of an
    episode and of one reply; `workers` processes play `slots` episodes each at once."""

    context: int = Field(gt=0)
    reply: int = Field(gt=0)
    slots: int = Field(gt=0)
    workers: int = Field(gt=0)


class PpoParams(Section):
    """Stage `ppo`. Defaults follow the full-size recipe; names are the field's."""

    enabled: bool = True
    iterations: int = Field(gt=0)
    episodes: int = Field(gt=0)
    epochs: int = Field(gt=0)
    minibatch_tokens: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    value_learning_rate: float = Field(gt=0)
    value_warmup: int = Field(ge=0)
    clip: float = Field(gt=0, lt=1)
    value_clip: float = Field(gt=0)
    value_coef: float = Field(ge=0)
    entropy_coef: float = Field(ge=0)
    gamma: float = Field(gt=0, le=1)
    lam: float = Field(ge=0, le=1)
    gae: Literal["token", "turn"] = "turn"
    kl: float = Field(ge=0)
    target_kl: float = Field(gt=0)
    max_grad_norm: float = Field(gt=0)
    temperature: float = Field(gt=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    save_every: int = Field(gt=0)
    weights: Weights = Weights()


class EvaluateParams(Section):
    """Stage `evaluate`. `samples` tries of each test task; temperature 0 is greedy."""

    temperature: float = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    samples: int = Field(gt=0)


class ParetoParams(Section):
    """Stage `pareto`. `policy` is a dated rule of the validators (`affine.pareto.policies`); `confidence` is
    the level of our own intervals, `margin` what counts as not worse, `error` the one-sided error of calling
    an environment better or worse, `draws` the Monte Carlo size."""

    policy: Literal["affine-2025-10-22", "affine-2025-11-01", "affine-2026-07-24"]
    confidence: float = Field(gt=0, lt=1)
    margin: float = Field(ge=0, lt=1)
    error: float = Field(gt=0, lt=0.5)
    draws: int = Field(gt=0)


class ReleaseParams(Section):
    """Stage `release`. `model` is best (what the evidence supports), base, sft or ppo; `name` must start with
    "Affine", as the subnet asks; `allow_regression` releases a model although it is significantly worse than
    its base somewhere; `license` is an SPDX id the base's licence allows."""

    model: Literal["best", "base", "sft", "ppo"]
    name: str = Field(pattern=r"^[Aa]ffine[\w.-]*$")
    allow_regression: bool = False
    shard_size: str = Field(default="4GB", pattern=r"^[1-9]\d*(KB|MB|GB)$")
    license: str = Field(default="mit", pattern=r"^[a-z0-9.-]+$")


class DeployParams(Section):
    """Stage `deploy`. `repo` is "owner/name"; `tag` empty sets none; `endpoint` empty means HF_ENDPOINT or
    the public Hub."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    private: bool = True
    tag: str = Field(default="", pattern=r"^[\w.-]*$")
    endpoint: str = Field(default="", pattern=r"^(https?://.+)?$")


class Params(Section):
    """The whole of params.yaml."""

    seed: int = Field(ge=0)
    envs: EnvsParams
    tasks: TasksParams
    collect: CollectParams
    dataset: DatasetParams
    base: BaseParams
    sft: SftParams
    rollout: RolloutParams
    ppo: PpoParams
    evaluate: EvaluateParams
    pareto: ParetoParams
    release: ReleaseParams
    deploy: DeployParams

    @model_validator(mode="after")
    def _fits(self) -> Params:
        if self.dataset.max_length > self.sft.batch_tokens:
            raise ValueError("dataset.max_length must not exceed sft.batch_tokens (a sequence must fit a pack)")
        return self


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check the parameters. Raises ParamsError naming the file, the key and what was expected."""
    path = Path(path)
    try:
        # YAML 1.2, in which 1e-05 is a number: DVC's `-S` writes small numbers so, and YAML 1.1 reads text.
        data: Any = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run from the repository's root") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ParamsError(f"{path}: expected a mapping of sections")
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        lines = [_explain(dict(item)) for item in error.errors(include_url=False)]
        raise ParamsError("\n".join(f"{path}: {line}" for line in lines)) from None


def _explain(item: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "(file)"
    if item["type"] == "extra_forbidden":
        return f"unknown key {key}"
    if item["type"] == "missing":
        return f"missing key {key}"
    got = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"
    return f"{key}: {item['msg']}{got}"
