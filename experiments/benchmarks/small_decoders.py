"""Every causal language model of transformers, as small as its configuration allows, with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

D_VOCAB, WINDOW = 300, 7  # a window shorter than the prompts
SIZES: dict[int, str] = {
    D_VOCAB: "vocab_size vocab_size_per_layer_input",
    128: "max_position_embeddings n_positions max_seq_len n_ctx max_sequence_length mamba_d_ssm",
    96: "intermediate_size ffn_dim n_inner d_ff ffn_hidden_size ffn_embed_dim decoder_ffn_dim encoder_ffn_dim dff "
    "mlp_hidden_size intermediate_size_mlp",
    64: "hidden_size d_model n_embd dim hidden_dim embed_dim embedding_size word_embed_proj_dim decoder_hidden_size "
    "shared_intermediate_size lru_width index_topk",
    32: "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size "
    "expert_intermediate_size expert_ffn_hidden_size",
    24: "q_lora_rank",
    16: "head_dim kv_channels kv_lora_rank qk_nope_head_dim mamba_d_head mamba_d_state mamba_head_dim ssm_state_size "
    "linear_key_head_dim linear_value_head_dim hidden_size_per_layer_input query_pre_attn_scalar global_head_dim "
    "index_head_dim",
    12: "v_head_dim",
    8: "qk_rope_head_dim attention_chunk_size mamba_n_heads mamba_num_heads state_size laurel_rank",
    WINDOW: "sliding_window attention_window window_size local_attention_window attention_window_size",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_experts "
    "num_local_experts n_routed_experts moe_num_experts linear_num_value_heads",
    2: "num_hidden_layers num_layers n_layer n_layers decoder_layers encoder_layers num_key_value_heads num_kv_heads "
    "num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k mamba_expand n_mamba_heads zero_expert_num "
    "linear_num_key_heads altup_num_inputs ngram_vocab_size_ratio index_n_heads",
    1: "bos_token_id decoder_start_token_id n_group num_group topk_group n_shared_experts num_shared_experts "
    "mamba_ngroups mamba_n_groups n_groups first_k_dense_replace",
    0: "pad_token_id num_kv_shared_layers",
}
_SMALL = {name: size for size, names in SIZES.items() for name in names.split()} | {"eos_token_id": 2}
_MIXED = {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2}
_LATENT = {"head_dim": None, "num_key_value_heads": 4}  # `head_dim` is what they rotate, and follows from the rest
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("Qwen3Next", "Qwen3_5Text", "Qwen3_5MoeText", "MiniMax", "OlmoHybrid"), _MIXED),
    **dict.fromkeys(
        (
            "AXK1",
            "AXK2",
            "DeepseekV2",
            "DeepseekV3",
            "DeepseekV32",
            "Glm4MoeLite",
            "GlmMoeDsa",
            "LongcatFlash",
            "MiniCPM3",
            "Youtu",
        ),
        _LATENT,
    ),
    "KimiLinear": _MIXED | _LATENT,
    "Bamba": {"num_hidden_layers": 4, "attn_layer_indices": [1, 3]},
    "CodeGen": {"rotary_dim": 8},
    "Dots3NoteText": {"num_key_value_heads": 4},
    "GPTJ": {"rotary_dim": 8},
    "GPTNeo": {"attention_types": [[["global", "local"], 1]]},
    "GraniteMoeHybrid": {"num_hidden_layers": 4, "layer_types": ["mamba", "attention"] * 2},
    "Jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "Lfm2Moe": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2},
    "Lfm3": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2},
    "LongcatFlash": {"head_dim": 8, "num_key_value_heads": 4},
    "Mamba2": {"num_heads": 8, "head_dim": 16},
    "NemotronH": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "attention"] * 2},
    "RecurrentGemma": {"num_hidden_layers": 4, "block_types": ["recurrent", "attention"]},
    "Reformer": {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [32, 32], "attn_layers": ["local", "local"]},
    "Xmod": {"default_language": "en_XX"},
    "Zamba2": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2},
    "Zaya": {"num_experts_per_tok": 1},
}


def decoders() -> Iterator[tuple[str, type, Any]]:
    """The name of each family, its configuration and its network."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    for config, network in MODEL_FOR_CAUSAL_LM_MAPPING.items():
        yield config.__name__.removesuffix("Config"), config, network[0] if isinstance(network, tuple) else network


def small_config(kind: type) -> Any:
    """A configuration with two layers of four heads, whatever these are called; its parts are small too."""
    default: Any = kind()
    aliases = getattr(kind, "attribute_map", {})
    known = (set(default.to_dict()) | set(vars(default))) - set(aliases)
    sizes: dict[str, Any] = {name: size for name, size in _SMALL.items() if name in known}
    if "is_decoder" in known:
        sizes["is_decoder"] = True
    for part in getattr(kind, "sub_configs", {}):
        own = getattr(default, part, None)
        if hasattr(own, "to_dict"):
            sizes[part] = small_config(type(own)).to_dict()
    sizes |= _EXCEPTIONS.get(kind.__name__.removesuffix("Config"), {})
    return kind(**{name: size for name, size in sizes.items() if size is not None})


def small_network(config: type, network: Any, *, largest: int = 30_000_000) -> nn.Module:
    """A random network whose patterns are far from uniform, with eager attention.

    Raises:
        Exception: Whatever its configuration or network says against being small.
        ValueError: If it stays larger than `largest` parameters.
    """
    small = small_config(config)
    try:
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in network(small).parameters())
    except AttributeError:  # listed for the whole, made of its language model alone
        small = small.get_text_config()
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in network(small).parameters())
    if size > largest:
        raise ValueError(f"not small: {size / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    made = network._from_config(small, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim == 2 and "embed" not in name and "wte" not in name:
                parameter.normal_(0.0, 0.2)
        made(input_ids=torch.tensor([[1, 5, 6]]))  # whether it runs at all
    return made
