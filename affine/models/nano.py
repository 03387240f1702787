"""The embedded model: a small `Qwen3ForCausalLM` with its own byte-level BPE, made from nothing.

A transformer this small learns to copy from its context only after a long plateau, because induction
needs two heads to form together. `initialise` sets the first of the two by construction: heads of layer 0
that look one, two and three tokens back. Short retrieval drills (`affine.models.skills`) then take
seconds instead of tens of minutes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from affine.models.chat import END_OF_TURN, START_OF_TURN

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 2048

# Words keep their leading space, numbers go in pairs of digits at most, punctuation stands alone.
_PIECES = r" ?\p{L}+| ?\p{N}{1,2}|\s+(?!\S)|\s| ?[^\s\p{L}\p{N}]"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def nano_config(vocabulary: int = VOCABULARY) -> Qwen3Config:
    """2.0 M parameters: 4 layers of width 192, 6 heads of 32 over 2 key-value heads, tied embeddings."""
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=512,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        attention_bias=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=2,
        dtype="float32",
    )


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `VOCABULARY` tokens; ids 0 to 2 are the ChatML and padding tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[START_OF_TURN, END_OF_TURN, END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def initialise(config: Qwen3Config, seed: int) -> Qwen3ForCausalLM:
    """A fresh model whose layer 0 holds heads that attend one, two and three tokens back.

    Every embedding carries one constant channel. For key-value head 0 that channel alone drives the keys,
    with a constant vector u over the fastest rotary frequencies, and the queries, with u rotated back by
    the head's offset; after the rotary embedding the score u·R(n - m + offset)u peaks at n = m - offset.
    """
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    attention = model.model.layers[0].self_attn
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    fast = width // 4  # rotary frequencies used
    half = width // 2
    frequencies = 1.0 / (config.rope_parameters["rope_theta"] ** (torch.arange(0, width, 2).float() / width))
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0.1
        keys = torch.zeros(width)
        keys[:fast] = 1.0
        attention.k_proj.weight[:width] = 0.0
        attention.k_proj.weight[:width, 0] = keys
        for head in range(heads // groups):
            angle = -(head + 1) * frequencies[:fast]
            query = torch.zeros(width)
            query[:fast], query[half : half + fast] = torch.cos(angle), torch.sin(angle)
            rows = slice(head * width, (head + 1) * width)
            attention.q_proj.weight[rows] = 0.0
            attention.q_proj.weight[rows, 0] = query
        attention.q_norm.weight.mul_(1.5)
        attention.k_norm.weight.mul_(1.5)
    return model


def save_checkpoint(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Write weights (safetensors), config, tokenizer, chat template and generation settings to `path`."""
    model.generation_config.update(
        eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id, do_sample=True
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    assert config["tie_word_embeddings"], "embeddings must stay tied"
