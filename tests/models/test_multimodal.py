"""Models that also see: the heads of their language model, the whole being given or loaded."""

import pytest
import torch
import transformers as hf
from families import LLAMA_LIKE

from induction_lab import HookedModel, find_circuit, load_model, repeated_tokens
from induction_lab.internals.reading import read_attention

_SEES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, patch_size=8)
_QWEN = dict(depth=1, num_heads=2, patch_size=8, spatial_merge_size=1)
_TURNED = dict(LLAMA_LIKE, rope_scaling={"type": "mrope", "mrope_section": [2, 2, 2]})
_MARKS = dict(image_token_id=299, video_token_id=298, vision_start_token_id=297)
WRAPPERS = {
    "llava": lambda: hf.LlavaConfig(
        text_config=hf.LlamaConfig(**LLAMA_LIKE), vision_config=hf.CLIPVisionConfig(**_SEES, image_size=16)
    ),
    "mistral3": lambda: hf.Mistral3Config(
        text_config=hf.MistralConfig(**LLAMA_LIKE), vision_config=hf.PixtralVisionConfig(**_SEES, image_size=16)
    ),
    "gemma3": lambda: hf.Gemma3Config(
        text_config=dict(LLAMA_LIKE, head_dim=12, sliding_window=7, query_pre_attn_scalar=12),
        vision_config=dict(_SEES, image_size=16),
    ),
    "qwen2_vl": lambda: hf.Qwen2VLConfig(
        text_config=_TURNED, vision_config=dict(_QWEN, embed_dim=32, hidden_size=48), **_MARKS
    ),
}


def network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    made = hf.AutoModelForImageTextToText.from_config(WRAPPERS[name](), attn_implementation="eager").eval()
    with torch.no_grad():
        for part, parameter in made.named_parameters():
            if parameter.ndim == 2 and "embed" not in part:
                parameter.normal_(0.0, 0.25)
    return made


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_language_model_inside_is_measured(name, tmp_path):
    whole = network(name)
    model = HookedModel(whole)
    assert (model.n_layers, model.n_heads, model.d_model) == (2, 4, 48)
    prompts, seen = repeated_tokens(model, n_prompts=2, period=9), []
    read_attention(model, prompts.tokens, lambda attention: seen.append(attention.pattern()))
    with torch.no_grad():
        own = whole(input_ids=prompts.tokens, output_attentions=True).attentions
    for ours, theirs in zip(seen, own, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert find_circuit(model, prompts, n=3).edges["K"].notna().all()

    whole.save_pretrained(tmp_path / name)
    loaded = load_model(str(tmp_path / name))
    torch.testing.assert_close(loaded.logits(prompts.tokens), model.logits(prompts.tokens), atol=1e-4, rtol=1e-4)
