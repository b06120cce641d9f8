import pytest
import torch
import transformers
from families import FAMILIES, random_network
from transformer_lens.head_detector import compute_head_attention_similarity_score, get_induction_head_detection_pattern

from induction_lab import HookedModel, capture, distinct_tokens, repeated_tokens, score_heads
from induction_lab.behaviour.losses import loss_per_token
from induction_lab.data.prompts import Prompts
from induction_lab.internals.reading import read_attention
from induction_lab.models.attention_only.by_hand import INDUCTION, RESTING
from induction_lab.results.heads import Head
from induction_lab.scores.attention_scores import ATTENTION_SCORES, attention_targets
from induction_lab.scores.kinds.copying import Copying
from induction_lab.scores.registry import REPEAT_SCORES, SCORES


def materialised_scores(model, prompts):
    """Every attention score read from the whole matrices that transformers makes, batch by batch."""
    targets = attention_targets(prompts.tokens)
    model.network.set_attn_implementation("eager")
    per_layer = [[] for _ in range(model.n_layers)]
    with torch.inference_mode():
        for prompt in prompts.tokens:
            out = model.network.base_model(prompt[None], use_cache=False, output_attentions=True)
            for layer, pattern in enumerate(out.attentions):
                per_layer[layer].append(pattern[0])
    model.network.set_attn_implementation("sdpa")
    result = {name: [] for name in ATTENTION_SCORES}
    for patterns in per_layer:
        read = torch.stack(patterns)[targets.prompt, :, targets.query, targets.key]
        for name in ATTENTION_SCORES:
            result[name].append(targets.score(name, read).mean(0))
    return {name: torch.stack(rows) for name, rows in result.items()}


@pytest.mark.parametrize("n_repeats", [2, 4])
def test_scores_of_a_real_model_are_those_of_its_materialised_matrices(smollm2, n_repeats):
    prompts = repeated_tokens(smollm2, n_prompts=3, period=25, n_repeats=n_repeats)
    scores = score_heads(smollm2, prompts, scores=ATTENTION_SCORES)
    for name, slow in materialised_scores(smollm2, prompts).items():
        torch.testing.assert_close(scores[name], slow, atol=1e-5, rtol=0)


def test_a_real_model_reproduces_the_reference_values(smollm2):
    """Measured before this code was written, on other prompts; the band is four standard errors and 0.02."""
    scores = score_heads(smollm2, repeated_tokens(smollm2, n_prompts=10, period=25, n_repeats=4))
    known = {"L18H6": 0.901, "L17H4": 0.831, "L17H3": 0.807, "L17H5": 0.798, "L23H7": 0.626, "L20H6": 0.610}
    for label, value in known.items():
        head = Head(*map(int, label[1:].split("H")))
        band = 4 * float(scores.standard_errors["prefix_matching"][head]) + 0.02
        assert float(scores["prefix_matching"][head]) == pytest.approx(value, abs=band), label
    assert scores.top("prefix_matching", 1)[0][0] == Head(18, 6)
    assert 13 <= len(scores.above("prefix_matching", 0.3)) <= 17
    assert scores["previous_token"].argmax() == 16 * 9
    assert scores.uniform["prefix_matching"] == pytest.approx(0.0307, abs=1e-4)
    assert scores["anti_induction"].max() < 0.1  # the control
    assert scores.loss_by_copy[0] > 13 and scores.loss_by_copy[3] < scores.loss_by_copy[2] < scores.loss_by_copy[1] < 6
    assert float(scores["copying"][18, 6]) < -0.5  # fails in deep models, as is known

    scores = score_heads(smollm2, repeated_tokens(smollm2), scores=["induction_stripe", "logit_attribution"])
    assert float(scores["induction_stripe"][18, 6]) == pytest.approx(0.885, abs=0.05)
    for head, value in {Head(29, 1): 1.92, Head(23, 2): 0.78, Head(23, 7): 0.55, Head(24, 4): -0.39}.items():
        assert float(scores["logit_attribution"][head]) == pytest.approx(value, abs=0.15)


def test_the_bundled_model_is_what_it_says(bundled):
    for prompts in (repeated_tokens(bundled, seed=5), repeated_tokens(bundled, period=20, gap=9, seed=5)):
        scores = score_heads(bundled, prompts)
        assert scores.top("prefix_matching", 2)[1][1] >= 0.8
        assert scores.top("previous_token", 1)[0][1] >= 0.7
        assert scores.loss_by_copy[1] < 0.1 < 5 < scores.loss_by_copy[0]


def test_the_bundled_model_untrained_has_no_such_heads(bundled):
    """The control: the same shape with random weights."""
    from induction_lab import AttentionOnlyTransformer

    untrained = HookedModel(AttentionOnlyTransformer(bundled.network.cfg))
    scores = score_heads(untrained, repeated_tokens(untrained))
    assert scores["prefix_matching"].max() < 0.1 and scores["previous_token"].max() < 0.2
    assert abs(scores.loss_by_copy[1] - scores.loss_by_copy[0]) < 0.1


@pytest.mark.parametrize("family", ["gpt2", "llama", "cohere", "gptj", "opt"])
@torch.no_grad()
def test_logit_attribution_of_all_parts_is_the_models_own_logit(family):
    """Embedding, heads, biases and MLPs, read at the frozen scale, add up to what the logits are above their mean."""
    model = HookedModel(random_network(family))
    prompts = repeated_tokens(model, n_prompts=2, period=9)
    tokens, at = prompts.tokens, slice(10, 18)
    scores = score_heads(model, prompts, scores=["logit_attribution"])
    stream = "resid_pre" if family == "opt" else "embed"  # OPT's bridge shows the embedding without positions
    acts = capture(model, tokens, [stream, "result", "mlp_out", "resid_post", "logits"])
    rest = acts[stream, 0] if stream == "resid_pre" else acts["embed"]
    if family == "gpt2":
        rest = rest + capture(model, tokens, "pos_embed")["pos_embed"]
    bias = getattr(model.hooked, "b_O", None)
    for layer in range(model.n_layers):
        rest = rest + acts["mlp_out", layer] + (0 if bias is None else bias[layer])
    heads = sum(acts["result", layer].sum(2) for layer in range(model.n_layers))
    final = acts["resid_post", model.n_layers - 1]
    torch.testing.assert_close(rest + heads, final, atol=1e-4, rtol=1e-4)

    logits = acts["logits"]
    answers = tokens[:, 1:, None]
    above = (logits[:, :-1].gather(-1, answers)[..., 0] - logits[:, :-1].mean(-1))[:, at]

    def read(part):  # of a part of the stream, through the norm's own scale
        network = model.network
        norm = model.final_norm
        centre = part - part.mean(-1, keepdim=True) if "LayerNorm" in type(norm).__name__ else part
        own = final - final.mean(-1, keepdim=True) if "LayerNorm" in type(norm).__name__ else final
        scaled = centre / (own.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
        out = network.get_output_embeddings()
        readers = out.weight[answers[..., 0]] - out.weight.mean(0)
        return ((scaled[:, :-1] * readers).sum(-1) * model.logit_scale)[:, at]

    offset = above - read(final)  # biases of the norm and the unembedding, the same for every part
    torch.testing.assert_close(read(rest) + read(heads) + offset, above, atol=1e-3, rtol=1e-3)
    per_head = sum(float(scores["logit_attribution"][layer].sum()) for layer in range(model.n_layers))
    assert per_head == pytest.approx(float(read(heads).mean()), abs=2e-3)


def slow_copying(model, tokens):
    """The definition, written out for one prompt: [layer, head]."""
    acts = capture(model, tokens[None], ["pattern", "v"])
    W_U = model.unembedding.T
    W_U = W_U * getattr(model.final_norm, "weight", torch.ones(1))[:, None]
    result = torch.zeros(model.n_layers, model.n_heads)
    group = model.n_heads // model.n_kv_heads
    for layer in range(model.n_layers):
        for head in range(model.n_heads):
            a = b = 0.0
            for s in range(1, len(tokens)):
                lifted = acts["v", layer][0, s, head // group] @ model.hooked.W_O[layer, head] @ W_U
                lifted = lifted - lifted.mean()
                for t in range(s, len(tokens)):
                    c = (acts["pattern", layer][0, head, t, s] * lifted[tokens[1:]]).relu()
                    a += float(c[s - 1])
                    b += float(c.sum())
            result[layer, head] = 4 * a / (a + b) - 1
    return result


def copying(model, prompts):
    """The score on prompts of one's own, per prompt."""
    reader = Copying().reader(model, prompts)
    return reader.values(read_attention(model, prompts.tokens, reader.read))


@torch.no_grad()
def test_copying_is_its_definition(llama):
    prompts = distinct_tokens(llama, n_prompts=2, length=8)
    slow = torch.stack([slow_copying(llama, tokens) for tokens in prompts.tokens])
    torch.testing.assert_close(copying(llama, prompts), slow, atol=1e-4, rtol=1e-4)


def test_copying_is_defined_on_25_tokens_without_repeats(bundled):
    prompts = Copying().own_prompts(bundled)
    assert prompts.tokens.shape == (10, 26) and all(len(row.unique()) == 26 for row in prompts.tokens)


def test_where_transformerlens_says_half_for_a_perfect_head_we_say_one(circuit):
    tokens = repeated_tokens(circuit, n_prompts=1, period=50).tokens
    pattern = capture(circuit, tokens, "pattern", heads=INDUCTION)["pattern"][0, 0]
    theirs = compute_head_attention_similarity_score(
        pattern,
        get_induction_head_detection_pattern(tokens),
        exclude_bos=False,
        exclude_current_token=False,
        error_measure="mul",
    )
    assert theirs == pytest.approx(0.495, abs=0.01)
    ours = score_heads(circuit, tokens, scores=["prefix_matching"])["prefix_matching"]
    assert float(ours[INDUCTION]) >= 0.999


def test_a_head_that_only_looks_at_bos_scores_zero_and_nothing_is_nan(circuit):
    scores = score_heads(circuit, repeated_tokens(circuit, period=50), chance_test=True)
    assert all(torch.isfinite(scores[name]).all() for name in scores.scores)
    for name in ("prefix_matching", "induction_stripe", "duplicate_token", "anti_induction", "previous_token"):
        assert float(scores[name][RESTING]) < 1e-6, name
    assert all(torch.isfinite(q).all() for q in scores.q_values.values())


def test_a_prompt_as_long_as_the_context_is_scored(circuit):
    prompts = repeated_tokens(circuit, n_prompts=1, period=127 // 2)
    full = Prompts(torch.cat([prompts.tokens, prompts.tokens[:, 1:2]], 1))
    assert full.tokens.shape[1] == circuit.n_ctx == 128
    assert score_heads(circuit, full)["prefix_matching"][INDUCTION] >= 0.999


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_change_nothing(llama, batch_size):
    prompts = repeated_tokens(llama, n_prompts=7, period=10)
    whole, parts = score_heads(llama, prompts), score_heads(llama, prompts, batch_size=batch_size)
    for name in SCORES:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(whole.standard_errors[name], parts.standard_errors[name], atol=1e-5, rtol=1e-3)
    assert whole.loss == pytest.approx(parts.loss, abs=1e-4)


def test_standard_errors_are_over_prompts(llama):
    prompts = repeated_tokens(llama, n_prompts=5, period=10)
    alone = [score_heads(llama, prompts.tokens[i], scores=["previous_token"])["previous_token"] for i in range(5)]
    both = score_heads(llama, prompts, scores=["previous_token"])
    torch.testing.assert_close(both["previous_token"], torch.stack(alone).mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        both.standard_errors["previous_token"], torch.stack(alone).std(0) / 5**0.5, atol=1e-6, rtol=1e-4
    )
    one = score_heads(llama, prompts.tokens[0], scores=["previous_token"])
    assert one.standard_errors["previous_token"].isnan().all()  # one prompt has no error, and says so


@pytest.mark.parametrize("family", ["llama", "cohere", "granite", "gemma2", "bloom"])
def test_loss_is_that_of_the_models_own_logits(family):
    model = HookedModel(random_network(family))
    prompts = repeated_tokens(model, n_prompts=3, period=10)
    losses = loss_per_token(model.logits(prompts.tokens), prompts.tokens).mean(0)
    scores = score_heads(model, prompts, scores=["previous_token"])
    assert scores.loss == pytest.approx(losses.tolist(), abs=1e-4)
    assert scores.loss_by_copy == pytest.approx([float(losses[1:10].mean()), float(losses[11:20].mean())], abs=1e-4)


def test_scores_that_an_architecture_has_not_are_left_out_with_the_reason():
    config = FAMILIES["opt"]()
    config.word_embed_proj_dim = 24
    model = HookedModel(transformers.AutoModelForCausalLM.from_config(config).eval())
    prompts = repeated_tokens(model, n_prompts=2, period=10)
    scores = score_heads(model, prompts, scores=None)
    assert {"copying", "logit_attribution"} <= set(scores.provenance["left_out"])
    with pytest.raises(ValueError, match="copying: .* projected, .* before the unembedding"):
        score_heads(model, prompts, scores=["copying"])


def test_a_random_model_has_no_head_above_chance():
    """The negative control of the chance test, and the positive one: a model that copies has."""
    model = HookedModel(random_network("llama"))
    prompts = repeated_tokens(model, period=20, seed=3)
    scores = score_heads(model, prompts, scores=["induction_stripe"], chance_test=True)
    assert len(scores.significant("induction_stripe")) <= 1
    assert set(scores.p_values) == {"induction_stripe"} < set(REPEAT_SCORES)


def test_a_real_model_has_induction_heads_above_chance(bundled):
    scores = score_heads(bundled, chance_test=True)
    assert {head.layer for head in scores.significant("prefix_matching")} == {1}


def test_text_is_scored_by_the_same_definitions(smollm2):
    text = "The harbour of Kestrel Point froze. Nobody in Kestrel Point had seen the harbour freeze before."
    scores = score_heads(smollm2, text, scores=["prefix_matching", "previous_token"])
    assert scores.provenance["prompts"]["kind"] == "text"
    assert scores["previous_token"].max() > 0.5
    best = scores.top("prefix_matching", 10)
    assert any(head.layer in (17, 18) for head, _ in best)


def test_provenance_says_what_another_lab_needs(bundled):
    facts = score_heads(bundled, repeated_tokens(bundled, seed=4)).provenance
    assert facts["prompts"]["seed"] == 4 and facts["prompts"]["period"] == 50
    assert facts["dtype"] == "float32" and facts["attention_path"] == "engine" and facts["bos_token_id"] == 0
    assert {"torch", "transformers", "transformer-lens", "induction-lab", "python"} == set(facts["versions"])
    other = score_heads(bundled, repeated_tokens(bundled, seed=5)).provenance
    assert other["prompts"]["tokens_sha256"] != facts["prompts"]["tokens_sha256"]
    assert other["weights_sha256"] == facts["weights_sha256"]


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_precisions_give_the_same_scores_to_their_rounding(dtype):
    from induction_lab import load_model

    reference, other = (score_heads(load_model(dtype=kind)) for kind in ("float32", dtype))
    tolerance = 1e-4 if dtype == "float64" else 0.1
    for name in ATTENTION_SCORES:
        torch.testing.assert_close(reference[name], other[name], atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(scores=["induction"]), "Unknown scores"),
        (dict(scores=[]), "Unknown scores"),
        (dict(batch_size=0), "`batch_size` must be at least 1"),
        (dict(prompts=torch.tensor([[0, 999]])), "must lie in"),
    ],
)
def test_bad_requests_are_refused(bundled, asked, message):
    with pytest.raises(ValueError, match=message):
        score_heads(bundled, **asked)
