import pytest
import torch
from families import FAMILIES, INTERFACE, OUTSIDE, random_network

from induction_lab import HookedModel, repeated_tokens, score_heads
from induction_lab.attention.exact import Attention, MaterialisedAttention
from induction_lab.attention.hooks import Enough, reading
from induction_lab.data.prompts import Prompts
from induction_lab.internals.reading import on_engine, read_attention
from induction_lab.scores.attention_scores import ATTENTION_SCORES, attention_targets


def eager(network, tokens):
    """What transformers itself says: every pattern, materialised."""
    with torch.no_grad():
        return network(tokens, output_attentions=True, output_hidden_states=True, use_cache=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_scores_and_the_streams_end_are_those_of_transformers(family):
    network = random_network(family)
    model = HookedModel(network, name=family)
    prompts = repeated_tokens(model, n_prompts=3, period=12)
    wanted = eager(network, prompts.tokens)
    seen = []
    stream = read_attention(model, prompts.tokens, seen.append, final=True)

    assert [attention.layer for attention in seen] == list(range(model.n_layers))
    assert all(isinstance(a, Attention if family in INTERFACE else MaterialisedAttention) for a in seen)
    for attention, pattern in zip(seen, wanted.attentions, strict=True):
        torch.testing.assert_close(attention.pattern(), pattern, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(stream.normalised, wanted.hidden_states[-1], atol=1e-4, rtol=1e-4)

    scores = score_heads(model, prompts, scores=ATTENTION_SCORES)
    targets = attention_targets(prompts.tokens)
    for layer, pattern in enumerate(wanted.attentions):
        read = pattern[targets.prompt, :, targets.query, targets.key]
        for name in ATTENTION_SCORES:
            slow = targets.score(name, read).mean(0)
            torch.testing.assert_close(scores[name][layer], slow, atol=1e-5, rtol=0)
    assert scores.provenance["attention_path"] == ("engine" if family in INTERFACE else "hooks")
    assert network.config._attn_implementation == "eager"  # as it was


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "mistral", "gemma3", "opt", "qwen3"])
def test_a_model_that_runs_on_sdpa_scores_the_same(family):
    prompts = None
    results = []
    for attention in ("eager", "sdpa"):
        model = HookedModel(random_network(family, attention=attention))
        prompts = prompts or repeated_tokens(model, n_prompts=2, period=12)
        results.append(score_heads(model, prompts, scores=ATTENTION_SCORES))
        assert model.network.config._attn_implementation == attention
    for name in ATTENTION_SCORES:
        torch.testing.assert_close(results[0][name], results[1][name], atol=1e-5, rtol=0)


def test_the_random_families_have_patterns_worth_testing():
    """The control of the tests above: were patterns near uniform, any bug in queries and keys would pass."""
    for family in ("gpt2", "llama", "gemma2"):
        network = random_network(family)
        pattern = eager(network, torch.randint(3, 300, (1, 25))).attentions[1][0, :, -1]
        assert float(pattern.max(-1).values.mean()) > 3 / 25, family


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_no_probability_of_real_tokens(side, llama):
    network, tokens = llama.network, torch.randint(3, 300, (2, 20))
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[0, 15:] = 0
    if side == "left":
        mask = mask.flip(1)
    with torch.no_grad():
        wanted = network(tokens, attention_mask=mask, output_attentions=True, use_cache=False).attentions
        seen = []
        with on_engine(llama), reading(seen.append):
            network(tokens, attention_mask=mask, use_cache=False)
    real = mask.bool()
    for attention, pattern in zip(seen, wanted, strict=True):
        got, expected = attention.pattern().transpose(1, 2), pattern.transpose(1, 2)
        torch.testing.assert_close(got[real], expected[real], atol=1e-5, rtol=1e-4)


def test_padded_prompts_score_like_each_prompt_alone(llama):
    long, short = repeated_tokens(llama, n_prompts=2, period=12).tokens[:, :24]
    padded = short.clone()
    padded[19:] = 7
    both = score_heads(llama, Prompts(torch.stack([long, padded]), lengths=torch.tensor([24, 19])))
    alone = [score_heads(llama, long), score_heads(llama, short[:19])]
    for name in (*ATTENTION_SCORES, "logit_attribution"):
        torch.testing.assert_close(both[name], (alone[0][name] + alone[1][name]) / 2, atol=1e-5, rtol=1e-4)
    assert both.loss[-1] == pytest.approx(alone[0].loss[-1], abs=1e-4)  # the short prompt has no loss there


def test_models_are_as_they_were_after_an_error_inside(llama):
    def broken(attention):
        raise RuntimeError("reader broke")

    with pytest.raises(RuntimeError, match="reader broke"):
        read_attention(llama, torch.randint(3, 300, (1, 9)), broken)
    assert llama.network.config._attn_implementation == "eager"


def test_the_fallback_leaves_no_hook_and_keeps_no_pattern():
    model = HookedModel(random_network("bloom"))
    before = sum(len(point.fwd_hooks) for point in model.hooked.hook_dict.values())
    read_attention(model, torch.randint(3, 300, (1, 9)), lambda attention: None)
    assert sum(len(point.fwd_hooks) for point in model.hooked.hook_dict.values()) == before
    assert all(getattr(module, "_pattern", None) is None for module in model.hooked.modules())


def test_families_outside_the_interface_really_are():
    """If transformers moves one of them onto its interface, the fallback would go untested."""
    assert all(not type(random_network(family))._can_set_attn_implementation() for family in OUTSIDE)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_a_reader_that_has_enough_stops_the_run_and_skips_no_layer_by_that(family):
    model, seen = HookedModel(random_network(family)), []

    def first_only(attention):
        seen.append(attention.layer)
        raise Enough

    assert read_attention(model, torch.randint(3, 300, (1, 9)), first_only) == (None, None)
    assert seen == [0]


def test_the_fallback_does_not_unembed():
    model, unembedded = HookedModel(random_network("bloom")), []
    tokens = torch.randint(3, 300, (1, 9))
    handle = model.hooked.unembed.register_forward_hook(lambda *_: unembedded.append(1))
    try:
        stream = read_attention(model, tokens, lambda attention: None)
        assert not unembedded
        torch.testing.assert_close(stream.normalised, model.hidden(tokens), atol=1e-5, rtol=1e-4)
        model.hooked(tokens)
        assert unembedded  # the control: the hook does see an unembedding
    finally:
        handle.remove()
