"""`params.yaml`, typed: every stage loads the whole file, so that a mistake in any section stops the work
before it starts.

Sections carry the names of the stages that read them; `envs` and `rollout` serve several. An unknown
key, a wrong type or an impossible value raises `ParamsError` naming the file and the dotted key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from affine.errors import AffineError
from affine.types import ENVS


class ParamsError(AffineError):
    """params.yaml is missing, unreadable or wrong; the message names the key and what was expected."""


_S = TypeVar("_S", bound=BaseModel)


class Section(BaseModel):
    """Base of all sections: immutable, and no key that is not listed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _for_each_env(kind: Any, default: Any = ...) -> Callable[[type[_S]], type[_S]]:
    """Gives a section one field of type `kind` per environment, so that a new environment needs no line here."""

    def add(section: type[_S]) -> type[_S]:
        fields: dict[str, Any] = dict.fromkeys(ENVS, (kind, default))
        made: type[_S] = create_model(section.__name__, __base__=section, __doc__=section.__doc__, **fields)
        return made

    return add


class EnvsParams(Section):
    """How environments are played (`affine.envs.env.EnvSettings`); part of the evaluator fingerprint."""

    mode: Literal["fixed", "upstream"] = "fixed"
    prompts: str = "brief"


class SandboxParams(Section):
    """What may run the programs of ABD and DED. `unsafe` allows no protection but resource limits, where nothing
    better works on the machine; records say which level ran."""

    unsafe: bool = False


class TaskSet(Section):
    """Which tasks of one environment the splits hold. `test_ids` names a range of upstream's own ids
    (`affine.envs.env.IdRange`) that the test tasks are taken from instead of the levels' test split."""

    levels: tuple[int, ...] = Field(default=(0,), min_length=1, strict=False)
    train: int = Field(gt=0)
    validation: int = Field(ge=0)
    test: int = Field(gt=0)
    test_ids: str = ""

    @model_validator(mode="after")
    def _levels(self) -> TaskSet:
        if len(set(self.levels)) < len(self.levels):
            raise ValueError("levels names a level twice")
        return self


@_for_each_env(TaskSet)
class TasksParams(Section):
    """Stage `tasks`. `seed` makes the world of tasks; the top-level seed does not touch it."""

    seed: int = Field(ge=0)


class Collection(Section):
    """How many solved demonstrations one environment must yield."""

    episodes: int = Field(gt=0)


@_for_each_env(Collection)
class CollectParams(Section):
    """Stage `collect`. `source` policy plays the checkpoint in the folder `policy`, whose hash is `policy_digest`, at
    `temperature`, instead of experts (rejection sampling). For experts `noise` is the share of turns played without
    insight before the expert recovers, `recovery` the share of episodes that have such turns, `time_limit` CPU seconds
    per task. `style` is how replies are written (`affine.collect.play.Writing`); mixed draws one for each episode."""

    source: Literal["expert", "policy"] = "expert"
    policy: str = ""
    policy_digest: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    temperature: float = Field(default=1.0, gt=0)
    style: Literal["action", "thought", "think", "mixed"] = "action"
    noise: float = Field(ge=0, lt=1)
    recovery: float = Field(ge=0, le=1)
    time_limit: float = Field(gt=0)

    @model_validator(mode="after")
    def _named(self) -> CollectParams:
        if (self.source == "policy") != bool(self.policy):
            raise ValueError("source 'policy' needs 'policy' (the folder of a checkpoint), and no other source does")
        return self


@_for_each_env(Annotated[float, Field(ge=0)], 1.0)
class Weights(Section):
    """A weight per environment; 0 leaves an environment out."""

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
    play per environment make the corpus, an equal part with each of `noise`'s shares of uninformed turns: enough
    insight to learn from, and little enough that the model, left to itself, plays poorly; `drills` and `steps` are
    optimizer steps of retrieval drills and of play mixed with a share of `skills` texts; `prompt_weight` is the loss
    weight of what the agent only reads."""

    episodes: int = Field(gt=0)
    noise: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(min_length=1, strict=False)
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
    hash) for `hub`. `make` is the matrix of stage `pretrain`: empty, the graph has no such stage, so that the shipped
    base stays as it is whatever becomes of the code that once made it."""

    source: Literal["shipped", "pretrain", "hub"]
    path: str = "pretrained/nano"
    make: tuple[Literal["nano"], ...] = Field(default=(), max_length=1, strict=False)
    repo: str = ""
    revision: str = ""
    pretrain: PretrainParams

    @model_validator(mode="after")
    def _complete(self) -> BaseParams:
        if self.source == "hub" and not (self.repo and self.revision):
            raise ValueError("source 'hub' needs 'repo' and 'revision' (the full 40-digit commit hash)")
        if self.revision and not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(
                f"revision {self.revision!r} is no commit hash: take all 40 digits (0-9, a-f) from the history"
                " page, and no branch or tag, which may move"
            )
        made = bool(self.make), self.path == "models/pretrained"
        if made != (self.source == "pretrain",) * 2:
            raise ValueError(
                "source 'pretrain' goes with make [nano] and path models/pretrained, and no other source does;"
                " `python -m affine preset pretrain` sets all three"
            )
        return self


class LoraParams(Section):
    """LoRA by peft. `target_modules` are the names of the linear layers to adapt."""

    rank: int = Field(gt=0)
    alpha: int = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(min_length=1, strict=False)


class SftParams(Section):
    """Stage `sft`. `batch_tokens` is the size of a packed sequence, `batch_sequences` how many of them make
    an optimizer step; with 0 `epochs` the adapter stays new, which is the base's own policy (PPO without SFT);
    `log_every`, `evaluate_every` and `save_every` count optimizer steps. `dtype` is the format of matrix products; auto
    is bfloat16 where the hardware has it. `quantization` keeps the frozen base in 8 or 4 bits while training (CUDA, by
    bitsandbytes)."""

    lora: LoraParams
    epochs: int = Field(ge=0)
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
    quantization: Literal["none", "int8", "nf4"] = "none"


class RolloutParams(Section):
    """How policies play, in `ppo` and `evaluate` alike. `context` and `reply` are the most tokens of an
    episode and of one reply; `workers` processes play `slots` episodes each at once. `dtype` is the format of
    matrix products on a CPU: bfloat16 plays faster, and less exactly what the trainer computes."""

    context: int = Field(gt=0)
    reply: int = Field(gt=0)
    slots: int = Field(gt=0)
    workers: int = Field(gt=0)
    dtype: Literal["float32", "bfloat16"] = "float32"


class PpoParams(Section):
    """Stage `ppo`. Defaults follow the full-size recipe; names are the field's."""

    enabled: bool = True
    iterations: int = Field(gt=0)
    episodes: int = Field(gt=0)
    epochs: int = Field(gt=0)
    minibatch_tokens: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=5, ge=0)
    value_learning_rate: float = Field(gt=0)
    value_warmup: int = Field(ge=0)
    clip: float = Field(gt=0, lt=1)
    value_clip: float = Field(gt=0)
    value_coef: float = Field(ge=0)
    entropy_coef: float = Field(ge=0)
    gamma: float = Field(gt=0, le=1)
    lam: float = Field(ge=0, le=1)
    advantage: Literal["gae", "group"] = "gae"
    gae: Literal["token", "turn", "bilevel"] = "turn"
    group: int = Field(default=1, gt=0)
    shaping: float = Field(default=0.0, ge=0)
    curriculum: Literal["none", "learnable"] = "none"
    kl: float = Field(ge=0)
    kl_target: float = Field(default=0.0, ge=0)
    target_kl: float = Field(gt=0)
    old_logprobs: Literal["trainer", "sampler"] = "trainer"
    max_grad_norm: float = Field(gt=0)
    temperature: float = Field(gt=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    save_every: int = Field(gt=0)
    validate_every: int = Field(default=20, ge=0)
    validation_samples: int = Field(default=1, gt=0)
    weights: Weights = Weights()

    @model_validator(mode="after")
    def _groups(self) -> PpoParams:
        if self.advantage == "group" and self.group < 2:
            raise ValueError("advantage 'group' compares several episodes of a task: set group to 2 or more")
        if self.advantage == "group" and self.shaping:
            raise ValueError("shaping needs advantage 'gae': a group compares whole episodes")
        if self.episodes % self.group:
            raise ValueError(f"episodes ({self.episodes}) must be a multiple of group ({self.group})")
        if self.kl_target and not self.kl:
            raise ValueError("kl_target adapts kl, which must start above 0")
        return self


class EndpointParams(Section):
    """A policy served over the OpenAI protocol (stage `endpoint`): `url` up to and without /chat/completions,
    `model` as the server calls it, `name` of its folder in evaluations/, `concurrency` episodes at once."""

    url: str = Field(default="", pattern=r"^(https?://[^@\s]+)?$")
    model: str = ""
    name: str = Field(default="endpoint", pattern=r"^[A-Za-z0-9][\w.-]*$")
    concurrency: int = Field(default=30, gt=0)

    @model_validator(mode="after")
    def _named(self) -> EndpointParams:
        if self.name in ("base", "sft", "ppo") or "_vs_" in self.name:
            raise ValueError(f"name {self.name!r} is taken (base, sft, ppo, _vs_)")
        return self


class EvaluateParams(Section):
    """Stage `evaluate`. `samples` tries of each test task; temperature 0 is greedy. `stop` "sequential" ends an
    environment for ppo as soon as the sequential test settles it against sft at `stop_error` (one-sided)."""

    temperature: float = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    samples: int = Field(gt=0)
    stop: Literal["never", "sequential"] = "never"
    stop_error: float = Field(default=0.035, gt=0, lt=0.5)
    endpoint: EndpointParams = EndpointParams()


class ParetoParams(Section):
    """Stage `pareto`. `policy` is a dated rule of the validators (`affine.pareto.policies`); `confidence` is
    the level of our own intervals, `margin` what counts as not worse, `error` the one-sided error of calling
    an environment better or worse, `draws` the Monte Carlo size. `cluster` is what makes tasks alike: their group
    (what is never split between train and test), or their type. `may_differ` names keys of evaluator.json in which
    two evaluators may differ and still be compared."""

    policy: Literal["affine-2025-10-22", "affine-2025-11-01", "affine-2026-07-24"]
    confidence: float = Field(gt=0, lt=1)
    margin: float = Field(ge=0, lt=1)
    error: float = Field(gt=0, lt=0.5)
    draws: int = Field(gt=0)
    cluster: Literal["group", "type"] = "group"
    may_differ: tuple[str, ...] = Field(default=(), strict=False)


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
    tracking: tuple[Literal["dvclive", "wandb", "tensorboard"], ...] = Field(default=("dvclive",), strict=False)
    envs: EnvsParams
    sandbox: SandboxParams = SandboxParams()
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
        if "dvclive" not in self.tracking or len(set(self.tracking)) < len(self.tracking):
            raise ValueError("tracking names each tracker once, and dvclive always: its files are what DVC compares")
        if self.dataset.max_length > self.sft.batch_tokens:
            raise ValueError("dataset.max_length must not exceed sft.batch_tokens (a sequence must fit a pack)")
        if self.ppo.enabled and self.ppo.validate_every:
            for env, weight in self.ppo.weights.as_dict().items():
                if weight and not getattr(self.tasks, env).validation:
                    raise ValueError(
                        f"tasks.{env}.validation is 0, and ppo.validate_every compares adapters by such tasks;"
                        " set the one above 0 or the other to 0"
                    )
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


def unsafe_allowed(root: Path) -> bool:
    """`sandbox.unsafe` of the parameters in `root`; False where there are none. Raises ParamsError."""
    file = root / "params.yaml"
    return file.is_file() and load_params(file).sandbox.unsafe


def is_text(key: str) -> bool:
    """Whether the parameter is typed as text; an unknown one isn't."""
    *sections, last = key.split(".")
    section: type[BaseModel] = Params
    for name in sections:
        found = section.model_fields.get(name)
        if found is None or not (isinstance(found.annotation, type) and issubclass(found.annotation, BaseModel)):
            return False
        section = found.annotation
    return last in section.model_fields and section.model_fields[last].annotation is str


def _explain(item: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "(file)"
    if item["type"] == "extra_forbidden":
        return f"unknown key {key}"
    if item["type"] == "missing":
        return f"missing key {key}"
    got = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"
    return f"{key}: {item['msg']}{got}"
