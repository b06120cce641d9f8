"""GGUF files as other tools write them."""

from pathlib import Path
from typing import Any

import gguf
from gguf import GGUFWriter


def write_gguf(network: Any, path: Path) -> None:
    """That of the small random "llama" of `families`, by gguf's own writer."""
    config = network.config
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(48)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(12)
    writer.add_key_length(12)
    writer.add_value_length(12)
    writer.add_vocab_size(300)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["t", "1", *(f"t{i}" for i in range(1, 299))])
    writer.add_token_types([gguf.TokenType.NORMAL] * 300)
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in network.state_dict().items():
        data = tensor
        for part, heads in (("q_proj", 4), ("k_proj", 2)):  # GGUF stores rotary pairs interleaved
            if part in name:
                data = data.view(heads, 2, 6, 48).transpose(1, 2).reshape(tensor.shape)
        stem, suffix = name.rsplit(".", 1)
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", data.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
