"""Small random models of many architectures, built in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import transformers as hf

D_VOCAB = 300
LLAMA_LIKE = dict(
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=D_VOCAB,
    max_position_embeddings=256,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
_WITH_HEAD_DIM = dict(LLAMA_LIKE, head_dim=12)
_GPT2_LIKE = dict(vocab_size=D_VOCAB, n_positions=256, n_embd=48, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
WINDOW = 7  # shorter than every prompt of the tests

INTERFACE = {
    "gpt2": lambda: hf.GPT2Config(**_GPT2_LIKE),
    "gpt_neox": lambda: hf.GPTNeoXConfig(
        vocab_size=D_VOCAB,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=256,
    ),
    "llama": lambda: hf.LlamaConfig(**_WITH_HEAD_DIM),
    "mistral": lambda: hf.MistralConfig(**_WITH_HEAD_DIM, sliding_window=WINDOW),
    "gemma": lambda: hf.GemmaConfig(**_WITH_HEAD_DIM),
    "gemma2": lambda: hf.Gemma2Config(
        **_WITH_HEAD_DIM, sliding_window=WINDOW, query_pre_attn_scalar=12, attn_logit_softcapping=2.0
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **dict(_WITH_HEAD_DIM, num_hidden_layers=6), sliding_window=WINDOW, query_pre_attn_scalar=12
    ),
    "qwen2": lambda: hf.Qwen2Config(**LLAMA_LIKE),
    "qwen3": lambda: hf.Qwen3Config(**_WITH_HEAD_DIM),
    "phi": lambda: hf.PhiConfig(**LLAMA_LIKE),
    "phi3": lambda: hf.Phi3Config(**LLAMA_LIKE),
    "opt": lambda: hf.OPTConfig(
        vocab_size=D_VOCAB,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=96,
        max_position_embeddings=256,
        word_embed_proj_dim=48,
    ),
    "olmo2": lambda: hf.Olmo2Config(**LLAMA_LIKE),
    "gpt_oss": lambda: hf.GptOssConfig(  # attention sinks
        **_WITH_HEAD_DIM,
        num_local_experts=2,
        num_experts_per_tok=1,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "granite": lambda: hf.GraniteConfig(**LLAMA_LIKE, residual_multiplier=0.5, logits_scaling=2.0),
    "cohere": lambda: hf.CohereConfig(**LLAMA_LIKE),
}
OUTSIDE = {  # architectures that do not go through the attention interface
    "bloom": lambda: hf.BloomConfig(vocab_size=D_VOCAB, hidden_size=48, n_layer=2, n_head=4),
    "gptj": lambda: hf.GPTJConfig(**_GPT2_LIKE, rotary_dim=6),
    "gpt_neo": lambda: hf.GPTNeoConfig(
        vocab_size=D_VOCAB,
        hidden_size=48,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=256,
        window_size=WINDOW,
        intermediate_size=96,
    ),
    "mpt": lambda: hf.MptConfig(vocab_size=D_VOCAB, d_model=48, n_layers=2, n_heads=4, max_seq_len=256),
}
FAMILIES = {**INTERFACE, **OUTSIDE}


def publish(hub: Path, name: str, family: str, steps: Iterable[int]) -> None:
    """Lay a model into a local cache of the hub, a revision `step{n}` with weights of its own for each step."""
    folder = hub / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    for step in steps:
        commit = f"{step:040x}"
        random_network(family, seed=step).save_pretrained(folder / "snapshots" / commit)
        (folder / "refs" / f"step{step}").write_text(commit)


def random_network(family: str, *, attention: str = "eager", seed: int = 0) -> torch.nn.Module:
    """A random model whose patterns are far from uniform: default initialisation would hide errors."""
    torch.manual_seed(seed)
    network = hf.AutoModelForCausalLM.from_config(
        FAMILIES[family](), attn_implementation=attention, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2 and "embed" not in name and "wte" not in name:
                parameter.normal_(0.0, 0.25)
    return network


def shake_norms(network: torch.nn.Module) -> torch.nn.Module:
    """Give its norms gains and biases that matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1 and ("norm" in name or "ln_" in name):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network
