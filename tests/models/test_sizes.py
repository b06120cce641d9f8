"""How long a prompt may be: as many tokens as the table of positions has rows for."""

import pytest
import torch
import transformers as hf

from induction_lab import HookedModel, repeated_tokens, score_heads

SHAPE = dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
MORE = dict(max_position_embeddings=40, is_decoder=True, bos_token_id=0, eos_token_id=2)


@pytest.mark.parametrize(
    "family, n_ctx",
    [("roberta", 38), ("xlm-roberta", 38), ("camembert", 38), ("data2vec-text", 38), ("bert", 40), ("electra", 40)],
)
def test_the_longest_prompt_runs_and_one_token_more_is_refused_by_name(family, n_ctx):
    config = hf.AutoConfig.for_model(family, **SHAPE, **MORE, pad_token_id=1)
    model = HookedModel(hf.AutoModelForCausalLM.from_config(config).eval())
    assert model.n_ctx == n_ctx
    tokens = torch.randint(3, 100, (1, n_ctx), generator=torch.Generator().manual_seed(0))
    assert model.logits(tokens).isfinite().all()
    with pytest.raises(ValueError, match=f"context holds {n_ctx}"):
        repeated_tokens(model, period=20, n_repeats=2)
    scores = score_heads(model, repeated_tokens(model, n_prompts=2))
    assert scores["prefix_matching"].isfinite().all()
