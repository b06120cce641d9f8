"""Prompts without BOS, beyond the context, and of models with little room: measured right, and said."""

import pytest
import torch
import transformers as hf
from families import LLAMA_LIKE

from induction_lab import HookedModel, attribute_logits, capture, distinct_tokens, repeated_tokens, score_heads
from induction_lab.behaviour.losses import copy_masks
from induction_lab.data.occurrences import Recurrences

NAMES = ["prefix_matching", "induction_stripe", "previous_token", "duplicate_token", "resting", "anti_induction"]


def of(config) -> HookedModel:
    torch.manual_seed(0)
    network = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.25)
    return HookedModel(network, name="tiny")


def without_special(**changed) -> HookedModel:
    return of(
        hf.LlamaConfig(**{**LLAMA_LIKE, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None} | changed)
    )


def test_without_bos_every_token_counts(llama):
    prompts = repeated_tokens(llama, n_prompts=2, period=6, bos=None)
    assert prompts.tokens.shape == (2, 12) and torch.equal(prompts.tokens[:, :6], prompts.tokens[:, 6:])
    scores = score_heads(llama, prompts, scores=NAMES)
    pattern = llama.network(prompts.tokens, output_attentions=True).attentions
    for layer, A in enumerate(pattern):
        slow = {
            "prefix_matching": torch.stack([A[..., t, t - 5] for t in range(6, 12)]).mean(0),
            "previous_token": torch.stack([A[..., t, t - 1] for t in range(1, 12)]).mean(0),
            "duplicate_token": torch.stack([A[..., t, t - 6] for t in range(6, 12)]).mean(0),
            "resting": torch.stack([A[..., t, 0] for t in range(1, 6)]).mean(0),
            "anti_induction": torch.stack([A[..., t, t - 7] for t in range(7, 12)]).mean(0),
        }
        for name, values in slow.items():
            torch.testing.assert_close(scores[name][layer], values.mean(0).detach(), atol=1e-6, rtol=1e-5)
    logits = llama.logits(prompts.tokens)
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].mT, prompts.tokens[:, 1:], reduction="none").mean(0)
    assert scores.loss == pytest.approx(losses.tolist(), abs=1e-5)
    assert scores.loss_by_copy == pytest.approx([losses[:5].mean().item(), losses[6:].mean().item()], abs=1e-5)
    assert scores.provenance["in_front"].startswith("nothing")


def test_what_is_copied_without_bos_begins_a_token_sooner(llama):
    with_bos, without = (repeated_tokens(llama, n_prompts=1, period=4, bos=bos) for bos in ("model", None))
    assert Recurrences(with_bos).copyable[0].nonzero()[:, 0].tolist() == [5, 6, 7]
    assert Recurrences(without).copyable[0].nonzero()[:, 0].tolist() == [4, 5, 6]
    first, second = copy_masks(4, 2, has_bos=False)
    assert first.tolist() == [True] * 3 + [False] * 4 and second.tolist() == [False] * 4 + [True] * 3


def test_chance_is_tested_on_prompts_that_begin_alike(llama):
    scores = score_heads(llama, repeated_tokens(llama, n_prompts=3, period=6, bos=None), chance_test=True)
    assert set(scores.q_values) == {"prefix_matching", "induction_stripe", "duplicate_token", "anti_induction"}
    own = repeated_tokens(llama, n_prompts=2, period=6, bos=7)
    assert own.tokens[:, 0].tolist() == [7, 7] and not (own.tokens[:, 1:] == 7).any()
    assert distinct_tokens(llama, length=20, bos=None).tokens.shape[1] == 20
    with pytest.raises(ValueError, match="`bos` must be 'model', None or a token"):
        repeated_tokens(llama, bos=300)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"bos_token_id": 1, "eos_token_id": 2}, "BOS (token 1)"),
        ({"eos_token_id": 2}, "end-of-text (token 2)"),
        ({"eos_token_id": [5, 2]}, "end-of-text (token 5)"),
        ({"bos_token_id": 300, "eos_token_id": 2}, "end-of-text (token 2)"),
        ({}, "token 0, as the model knows neither BOS nor end-of-text"),
    ],
)
def test_what_stands_in_front_is_said(config, said):
    model = without_special(**config)
    scores = score_heads(model, repeated_tokens(model, n_prompts=1, period=5), scores=["resting"])
    assert scores.provenance["in_front"].startswith(said)


def test_little_room_makes_shorter_blocks_and_says_so(command):
    protein = without_special(vocab_size=33)
    assert repeated_tokens(protein).note == "blocks of 32 tokens, not 50: there are 32 tokens to draw from"
    scores = score_heads(protein, scores=["prefix_matching"], chance_test=True)
    assert scores.provenance["prompts"]["period"] == 16 and "not 50" in scores.provenance["note"]
    short = without_special(max_position_embeddings=64)
    assert repeated_tokens(short).period == 31 and "context holds 64" in repeated_tokens(short).note
    assert repeated_tokens(short, bos=None).period == 32
    assert repeated_tokens(short, n_repeats=3, gap=2).period == 19
    protein.network.save_pretrained("protein")
    code, out, _ = command("score", "protein", "--no-figures", "--prompts", "2")
    assert code == 0 and "blocks of 16 tokens, not 50" in out and "knows neither BOS nor end-of-text" in out
    code, out, _ = command("score", "protein", "--no-figures", "--prompts", "2", "--no-bos")
    assert code == 0 and "in front of each prompt: nothing" in out


def test_beyond_the_context_only_where_positions_go_on_and_only_when_asked():
    short = without_special(max_position_embeddings=20)
    with pytest.raises(ValueError, match="study just that: beyond_context=True"):
        repeated_tokens(short, period=15)
    prompts = repeated_tokens(short, n_prompts=2, period=15, beyond_context=True)
    scores = score_heads(short, prompts, scores=["prefix_matching"], chance_test=True)
    A = torch.stack(short.network(prompts.tokens, output_attentions=True).attentions).detach()
    slow = torch.stack([A[..., t, t - 14] for t in range(16, 31)]).mean((0, 2))
    torch.testing.assert_close(scores["prefix_matching"], slow, atol=1e-6, rtol=1e-5)
    assert scores.provenance["prompts"]["beyond_context"] is True
    learned = of(hf.GPT2Config(vocab_size=300, n_positions=20, n_embd=48, n_layer=2, n_head=4))
    with pytest.raises(ValueError, match="positions end there, so beyond_context=True does not help"):
        repeated_tokens(learned, period=15, beyond_context=True)


def test_own_models_with_rotary_positions_read_on(bundled):
    prompts = repeated_tokens(bundled, n_prompts=2, period=100, beyond_context=True)
    scores = score_heads(bundled, prompts, scores=["prefix_matching", "logit_attribution"])
    assert scores.provenance["prompts"]["n_tokens"] == 201 > bundled.n_ctx and scores.loss_by_copy[1] > 0
    pattern = capture(bundled, prompts, ["pattern"])["pattern", 1]
    slow = torch.stack([pattern[:, :, t, t - 99] for t in range(101, 201)]).mean((0, 1))
    torch.testing.assert_close(scores["prefix_matching"][1], slow, atol=1e-6, rtol=1e-5)
    assert torch.equal(attribute_logits(bundled, prompts).prompts.tokens, prompts.tokens)
    with pytest.raises(ValueError, match="context holds 128"):
        score_heads(bundled, prompts.tokens)
    with pytest.raises(ValueError, match="context only 128"):
        bundled.network(prompts.tokens)
