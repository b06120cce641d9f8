import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILIES, random_network
from transformer_lens.tools.analysis import direct_logit_attribution

from induction_lab import (
    AttentionOnlyConfig,
    AttentionOnlyTransformer,
    HookedModel,
    Prompts,
    attribute_logits,
    distinct_tokens,
    logit_lens,
    plot_head_scores,
    plot_logit_attribution,
    plot_logit_lens,
    repeated_tokens,
    score_heads,
)
from induction_lab.data.occurrences import copyable
from induction_lab.results.tables import load_table


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def shaken(network):
    """Gains and biases away from 1 and 0, so that leaving one out would show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def own_model(**choices):
    return HookedModel(shaken(AttentionOnlyTransformer(AttentionOnlyConfig(**choices), seed=1)))


def of_the_model(model, tokens, answers):
    """Each answer's logit less the mean logit, from a plain run; what a cap did is undone."""
    logits = model.logits(tokens).double()
    cap = getattr(getattr(model.network, "config", None), "final_logit_softcapping", None)
    logits = logits if cap is None else cap * torch.atanh(logits / cap)
    return (logits.gather(2, answers[..., None])[..., 0] - logits.mean(-1)).float()


def assert_adds_up(model, prompts):
    found = attribute_logits(model, prompts, batch_size=2)
    total = of_the_model(model, prompts.tokens[:, :-1], prompts.tokens[:, 1:])
    torch.testing.assert_close(found.values[:, :, :-1].sum(0), total, atol=2e-5, rtol=1e-4)
    assert found.values[:, :, -1].isnan().all()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_components_add_up_to_the_models_own_logit(family):
    model = HookedModel(shaken(random_network(family)))
    found = assert_adds_up(model, repeated_tokens(model, n_prompts=3, period=10))
    assert ("positions" in found.labels) == (family in ("gpt2", "opt", "gpt_neo"))
    assert all((found.values[row, :, :-1] != 0).any() for row in range(len(found.labels) - 1))
    without_biases = not any(name.endswith("bias") or "sinks" in name for name, _ in model.network.named_parameters())
    assert not (without_biases and found.values[-1, :, :-1].any())


@pytest.mark.parametrize("positions", ["learned", "rotary", "shortformer", "none"])
@pytest.mark.parametrize("rest", [{}, {"layer_norm": False}, {"d_mlp": 32}])
def test_so_they_do_in_small_models_of_every_shape(positions, rest):
    model = own_model(positions=positions, n_heads=3, **rest)
    found = assert_adds_up(model, repeated_tokens(model, n_prompts=3, period=10))
    assert ("positions" in found.labels) == (positions == "learned")
    assert ("MLP1" in found.labels) == ("d_mlp" in rest)


def test_so_they_do_in_the_bundled_model_whose_induction_heads_speak_for_the_copy(bundled):
    found = assert_adds_up(bundled, repeated_tokens(bundled, n_prompts=4))
    assert (found.heads()[1] > 2).all() and found.heads()[0].abs().max() < 0.2
    first_copy = torch.zeros(4, 101, dtype=torch.bool)
    first_copy[:, 1:50] = True
    assert found.heads(where=first_copy).abs().max() < 0.2


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_transformerlens_attributes_the_same_after_folding_everything(family):
    network = random_network(family)
    model = HookedModel(network)
    prompts = repeated_tokens(model, n_prompts=2, period=10)
    found = attribute_logits(model, prompts)
    folded = HookedModel(copy.deepcopy(network)).hooked
    folded.enable_compatibility_mode()
    answers = prompts.tokens.roll(-1, 1)
    heads = direct_logit_attribution(folded, prompts.tokens, answers, unit="head", pos=None)
    rows = [found.labels.index(label) for label in heads.labels[:-1]]  # the last is what is left
    close = dict(atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.values[rows][:, :, :-1], heads.attribution[:-1, :, :-1], **close)
    parts = direct_logit_attribution(folded, prompts.tokens, answers, unit="component", pos=None)
    for label in ("0_mlp_out", "1_mlp_out"):
        row = found.labels.index(f"MLP{label[0]}")
        theirs = parts.attribution[parts.labels.index(label), :, :-1]
        torch.testing.assert_close(found.values[row, :, :-1], theirs, **close)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_agree_with_score_heads(family):
    """Two routes to the same number: hooks on all that is written, and one run of the engine."""
    model = HookedModel(shaken(random_network(family)))
    prompts = repeated_tokens(model, n_prompts=4, period=10)
    found, scores = attribute_logits(model, prompts), score_heads(model, prompts, scores=["logit_attribution"])
    torch.testing.assert_close(found.heads(), scores["logit_attribution"], atol=1e-5, rtol=1e-4)
    errors = scores.standard_errors["logit_attribution"]
    torch.testing.assert_close(found.standard_errors(), errors, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found.head_scores()["logit_attribution"], found.heads())


def test_a_head_taken_out_takes_its_share_along_and_no_other(small):
    prompts = repeated_tokens(small, n_prompts=2, period=10)
    network = copy.deepcopy(small.network)
    with torch.no_grad():
        network.blocks[1].attn.W_O[2] = 0
    before, after = attribute_logits(small, prompts), attribute_logits(HookedModel(network), prompts)
    row = before.labels.index("L1H2")
    assert (after.values[row, :, :-1] == 0).all() and (before.values[row, :, :-1] != 0).all()
    ratio = (after.values / before.values)[:, :, :-1]  # the final norm's scale alone changed
    torch.testing.assert_close(ratio[1:row], ratio[:1].expand_as(ratio[1:row]), atol=1e-3, rtol=1e-3)


def test_answers_may_be_other_tokens_at_some_positions(llama):
    tokens = repeated_tokens(llama, n_prompts=2, period=6).tokens
    answers = torch.full_like(tokens, -1)
    answers[:, 3], answers[1, -1] = 17, 40
    found = attribute_logits(llama, tokens, answers=answers)
    asked = answers >= 0
    assert (found.values.isnan() == ~asked).all()
    expected = of_the_model(llama, tokens, answers.clamp(min=0))[asked]
    torch.testing.assert_close(found.values.sum(0)[asked], expected, atol=1e-5, rtol=1e-4)
    assert found.heads(where=asked).shape == (2, 4)


def test_padding_and_batches_change_nothing(llama):
    whole = repeated_tokens(llama, n_prompts=3, period=8)
    tokens = whole.tokens.clone()
    tokens[1, 12:] = 1
    padded = Prompts(tokens, lengths=torch.tensor([17, 12, 17]))
    one, three = attribute_logits(llama, padded, batch_size=1), attribute_logits(llama, whole)
    torch.testing.assert_close(one.values[:, 1, :11], three.values[:, 1, :11], atol=1e-5, rtol=1e-4)
    assert one.values[:, 1, 11:].isnan().all() and not one.values[:, 0, :16].isnan().any()


def test_half_precision_adds_up_within_its_rounding():
    network = AttentionOnlyTransformer(AttentionOnlyConfig(), seed=1).to(torch.bfloat16)
    model = HookedModel(network)
    prompts = repeated_tokens(model, n_prompts=2, period=10)
    total = of_the_model(model, prompts.tokens[:, :-1], prompts.tokens[:, 1:])
    error = (attribute_logits(model, prompts).values[:, :, :-1].sum(0) - total).abs().max()
    assert error < 0.05 * total.abs().max()


def test_the_model_is_left_as_it_was(llama):
    before = copy.deepcopy(llama.network.state_dict())
    prompts = repeated_tokens(llama, n_prompts=2, period=6)
    logits = llama.logits(prompts.tokens)
    attribute_logits(llama, prompts)
    logit_lens(llama, prompts)
    assert all(torch.equal(before[name], value) for name, value in llama.network.state_dict().items())
    assert torch.equal(llama.logits(prompts.tokens), logits)
    assert llama.hooked(prompts.tokens).shape == logits.shape  # the unembedding sees every position again


def test_the_table_has_every_component_at_both_kinds_of_positions(llama, tmp_path):
    prompts = repeated_tokens(llama, n_prompts=3, period=6)
    found = attribute_logits(llama, prompts)
    table = found.to_dataframe()
    assert len(table) == 2 * len(found.labels) and set(table["where"]) == {"copied", "elsewhere"}
    heads = table[(table["kind"] == "head") & (table["where"] == "copied")]
    np.testing.assert_allclose(heads["value"], found.heads().flatten(), rtol=1e-5)
    mask = ~copyable(prompts.tokens)
    mask[:, -1] = False
    elsewhere = torch.stack([found.values[1, row][mask[row]].mean() for row in range(3)]).mean()
    row = table[(table["component"] == "L0H0") & (table["where"] == "elsewhere")]
    assert float(row["value"].iloc[0]) == pytest.approx(float(elsewhere), abs=1e-6)
    for suffix in (".parquet", ".csv", ".json"):
        path = found.save(tmp_path / f"logits{suffix}")
        saved, facts = load_table(path, set(table.columns), what="logit attributions")
        np.testing.assert_allclose(saved["value"], table["value"], rtol=1e-5)
        assert facts["provenance"]["prompts"]["period"] == 6


def test_what_cannot_be_attributed_is_refused(llama, small, monkeypatch):
    prompts = repeated_tokens(llama, n_prompts=2, period=6)
    for answers in (prompts.tokens[:, 1:], torch.full_like(prompts.tokens, -1), prompts.tokens.float()):
        with pytest.raises(Exception, match="answers"):
            attribute_logits(llama, prompts, answers=answers)
    for wrong in (300, -2):
        with pytest.raises(ValueError, match=r"must lie in \[0, 300\) or be -1"):
            attribute_logits(llama, prompts, answers=torch.full_like(prompts.tokens, wrong))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        attribute_logits(llama, prompts, batch_size=0)
    for measure in (attribute_logits, logit_lens):
        with pytest.raises(ValueError, match="no layers"):
            measure(own_model(n_layers=0), prompts.tokens[:, :3] % 64)
    nothing = attribute_logits(small, distinct_tokens(small, n_prompts=2, length=8))
    with pytest.raises(ValueError, match="Nothing is copied"):
        nothing.heads()
    with pytest.raises(ValueError, match="picks no answer"):
        nothing.heads(where=torch.zeros(2, 9, dtype=torch.bool))
    monkeypatch.setattr(type(llama.anatomy), "output_factor", 2.0)
    with pytest.raises(ValueError, match="do not add up to its residual stream"):
        attribute_logits(llama, prompts)


def test_a_stream_that_is_projected_before_the_unembedding_is_refused():
    import transformers as hf

    config = hf.OPTConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32, word_embed_proj_dim=16
    )
    model = HookedModel(hf.OPTForCausalLM(config).eval())
    with pytest.raises(ValueError, match="projects its stream before the unembedding"):
        attribute_logits(model, torch.ones(1, 5, dtype=torch.long))


# The logit lens


def lens_values(table, quantity, where):
    return table[(table["quantity"] == quantity) & (table["where"] == where)].set_index("layer")["value"]


@pytest.mark.parametrize("family", ["own", *FAMILIES])
def test_after_the_last_layer_the_lens_sees_the_models_own_probabilities(family):
    model = own_model() if family == "own" else HookedModel(shaken(random_network(family)))
    prompts = repeated_tokens(model, n_prompts=3, period=8)
    table = logit_lens(model, prompts, batch_size=2)
    logits, answers = model.logits(prompts.tokens[:, :-1]), prompts.tokens[:, 1:, None]
    own = logits.log_softmax(-1).gather(2, answers)[..., 0]
    rank = (logits > logits.gather(2, answers)).sum(-1).float()
    copied = copyable(prompts.tokens)[:, :-1]
    last = model.n_layers - 1
    assert list(lens_values(table, "rank", "copied").index) == list(range(-1, last + 1))
    for where, mask in (("copied", copied), ("elsewhere", ~copied)):
        for quantity, values in (("log_probability", own), ("probability", own.exp()), ("rank", rank)):
            expected = torch.stack([row[which].mean() for row, which in zip(values, mask, strict=True)])
            assert lens_values(table, quantity, where)[last] == pytest.approx(float(expected.mean()), rel=1e-4)
            rows = table[(table["quantity"] == quantity) & (table["where"] == where) & (table["layer"] == last)]
            error = float(expected.std() / 3**0.5)
            assert float(rows["standard_error"].iloc[0]) == pytest.approx(error, rel=1e-3, abs=1e-6)


@torch.no_grad()
def test_below_the_last_layer_the_lens_is_norm_and_unembedding_of_the_stream_there():
    model = own_model(positions="learned", n_layers=3)
    prompts = repeated_tokens(model, n_prompts=1, period=8)
    streams = model.hooked.run_with_cache(prompts.tokens)[1]
    copied = copyable(prompts.tokens)[0]
    table = lens_values(logit_lens(model, prompts), "log_probability", "copied")
    for layer in range(-1, 3):
        name = f"blocks.{layer}.hook_resid_post" if layer >= 0 else "blocks.0.hook_resid_pre"
        logits = model.network.unembed(model.network.ln_final(streams[name]))[0, :-1]
        expected = logits.log_softmax(-1).gather(1, prompts.tokens[0, 1:, None])[copied[:-1]].mean()
        assert table[layer] == pytest.approx(float(expected), rel=1e-4)


def test_the_handbuilt_circuit_knows_the_copy_after_its_second_layer_only(circuit):
    table = logit_lens(circuit, repeated_tokens(circuit, n_prompts=2, period=20))
    probability = lens_values(table, "probability", "copied")
    assert probability[1] > 0.9 and (probability[[-1, 0]] < 0.05).all()
    assert lens_values(table, "rank", "copied")[1] == 0
    assert (lens_values(table, "probability", "elsewhere") < 0.05).all()


def test_text_without_repeats_is_read_elsewhere_only(small):
    table = logit_lens(small, distinct_tokens(small, n_prompts=1, length=8))
    assert set(table["where"]) == {"elsewhere"} and table["standard_error"].isna().all()


# Pictures


def test_bars_are_the_strongest_components_in_order(bundled):
    found = attribute_logits(bundled, repeated_tokens(bundled, n_prompts=3))
    ax = plot_logit_attribution(found, top=5)
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == sorted(widths) and len(widths) == 5
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert set(names[1:]) == {"L1H0", "L1H1", "L1H2", "L1H3"}
    np.testing.assert_allclose(widths[-1], found.heads().max())
    assert plot_head_scores(found.head_scores(), "logit_attribution").get_images()


def test_the_lens_is_drawn_for_both_kinds_of_positions(circuit):
    table = logit_lens(circuit, repeated_tokens(circuit, n_prompts=2, period=10))
    for quantity in ("log_probability", "probability", "rank"):
        ax = plot_logit_lens(table, quantity)
        assert len(ax.get_lines()) == 2
        expected = lens_values(table, quantity, "copied")
        np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), expected)


def test_what_cannot_be_drawn_is_refused(small):
    nothing = attribute_logits(small, distinct_tokens(small, n_prompts=2, length=8))
    with pytest.raises(ValueError, match="Nothing is copied"):
        plot_logit_attribution(nothing)
    with pytest.raises(ValueError, match="`top` must be at least 1"):
        plot_logit_attribution(nothing, top=0)
    with pytest.raises(ValueError, match="must be one of log_probability"):
        plot_logit_lens(pd.DataFrame(), "entropy")
