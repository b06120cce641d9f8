"""Numbers of layers and heads, widths and special tokens, read off a configuration of transformers."""

from __future__ import annotations

from typing import Any

from torch import nn

from induction_lab.models.anatomy import Shape


def shape_of(config: Any, tokenizer: Any | None) -> Shape:
    """Of a language model with this configuration and tokenizer.

    Raises:
        ValueError: If it has no attention heads.
    """
    n_heads, d_model = _of_decoder(config, "attention_heads", "num_attention_heads"), config.hidden_size
    if not n_heads:
        raise ValueError(f"A model of {type(config).__name__} has no attention heads, so there is nothing to score.")
    first = config.per_layer_config[0] if getattr(config, "per_layer_config", None) else config  # Gemma 4
    n_ctx = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    return Shape(
        n_layers=_of_decoder(config, "layers", "num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=_n_kv_heads(first) or n_heads,
        d_model=d_model,
        # multi-head latent attention calls that of values so, and `head_dim` what it rotates
        d_head=getattr(first, "v_head_dim", None) or getattr(first, "head_dim", None) or d_model // n_heads,
        d_vocab=config.vocab_size,
        n_ctx=int(n_ctx) if n_ctx else None,
        **_special(config, tokenizer),
    )


def without_padding_rows(shape: Shape, network: nn.Module) -> Shape:
    """A table of positions whose first rows are padding's (RoBERTa's family) has room for so many tokens less."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None:
            if shape.n_ctx is not None and module.num_embeddings == shape.n_ctx:
                return shape._replace(n_ctx=shape.n_ctx - module.padding_idx - 1)
    return shape


def _of_decoder(config: Any, what: str, plain: str) -> Any:
    """A number of the decoder's own, for the plain name may stand for an encoder's beside it (BART); None without."""
    names = (f"decoder_{what}", f"num_decoder_{what}", plain)
    return next((number for name in names if (number := getattr(config, name, None))), None)


def _n_kv_heads(config: Any) -> int | None:
    """Key-value heads of a layer; GPT-BigCode and Falcon say by a switch that there is one."""
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        return 1
    return getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None)


def _special(config: Any, tokenizer: Any | None) -> dict[str, Any]:
    """What prompts begin with, the first of BOS and end-of-text that the vocabulary holds, else 0; and the padding."""

    def first_of(*names: str) -> int | None:
        candidates = [getattr(holder, name, None) for name in names for holder in (config, tokenizer)]
        candidates = [each[0] if isinstance(each, list) and each else each for each in candidates]
        return next((each for each in candidates if isinstance(each, int) and 0 <= each < config.vocab_size), None)

    bos, end, pad = first_of("bos_token_id"), first_of("eos_token_id"), getattr(tokenizer, "pad_token_id", None)
    kind = "BOS" if bos is not None else "end-of-text" if end is not None else ""
    front = bos if bos is not None else end if end is not None else 0
    return {"bos_token_id": front, "bos_is": kind, "pad_token_id": first_of("pad_token_id") if pad is None else pad}
