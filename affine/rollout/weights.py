"""LoRA weights on their way to the rollout workers, folded into the base there.

Folding (W + scale·B·A) makes generation as fast as the base alone; the sum differs from the trainer's
unfolded forward only by rounding, which a test bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from affine.files import read_json
from affine.models.checkpoint import CheckpointError

_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """An adapter's matrices by the name of the layer they change: `pairs[layer] = (A [r, in], B [out, r])`."""

    scale: float
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


NO_ADAPTER = AdapterWeights(0.0)


def adapter_weights(state: Mapping[str, torch.Tensor], scale: float) -> AdapterWeights:
    """From peft's state dict (`…<layer>.lora_A.weight`, `…<layer>.lora_B.weight`)."""
    pairs = {}
    for name in sorted(state):
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            b = state[f"{layer}.lora_B.weight"]
            pairs[layer.removeprefix(_PREFIX)] = (state[name].detach().cpu().clone(), b.detach().cpu().clone())
    return AdapterWeights(scale, pairs)


def read_adapter(folder: Path) -> AdapterWeights:
    """From a saved adapter's folder. Raises CheckpointError where its weights are cut or corrupt."""
    config = read_json(folder / "adapter_config.json")
    try:
        state = load_file(folder / "adapter_model.safetensors")
    except SafetensorError as error:
        raise CheckpointError(
            f"{folder / 'adapter_model.safetensors'}: cut or corrupt ({error}); make it again"
        ) from None
    return adapter_weights(state, config["lora_alpha"] / config["r"])


class Folded:
    """A model whose layers carry one adapter at a time. The adapted layers' own weights are kept in the machine's
    memory, not the device's: with all layers adapted they are as large as the model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._own: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def load(self, weights: AdapterWeights) -> None:
        """Replace whatever adapter is folded in by `weights`."""
        for layer, own in self._own.items():
            _weight(self._model, layer).copy_(own)
        for layer, (a, b) in weights.pairs.items():
            weight = _weight(self._model, layer)
            self._own.setdefault(layer, weight.detach().cpu().clone())
            delta = (b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32)) * weights.scale
            weight.add_(delta.to(weight.dtype))


def _weight(model: torch.nn.Module, layer: str) -> torch.Tensor:
    weight = model.get_submodule(layer).weight
    assert isinstance(weight, torch.Tensor)
    return weight
