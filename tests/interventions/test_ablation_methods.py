import functools
import operator

import pytest
import torch
from by_hand import (
    EVERY,
    OWN,
    hooked_logits,
    ideal_by_hand,
    model_of,
    others_mean,
    patterns_of,
    tokens_of,
    with_z,
    z_of,
)
from families import INTERFACE, OUTSIDE
from hypothesis import given, settings, strategies as st

from induction_lab.behaviour.losses import loss_per_token
from induction_lab.data.occurrences import ideal_pattern
from induction_lab.data.prompts import Prompts
from induction_lab.interventions.ablating import ablate
from induction_lab.interventions.ablation_methods import (
    METHODS,
    Method,
    drawn_shift,
    find_method,
    paired,
)
from induction_lab.interventions.each_head import ablation_sweep
from induction_lab.interventions.edits import OtherOutputs
from induction_lab.interventions.outputs import Outputs, Sums, clean_run, sums_over
from induction_lab.results.heads import Head

PROMPTS = st.integers(2, 9).flatmap(
    lambda n: st.lists(st.lists(st.integers(1, 3), min_size=n, max_size=n), min_size=1, max_size=3)
)


@settings(max_examples=60, deadline=None)
@given(PROMPTS, st.sampled_from(["previous_token", "induction"]))
def test_ideal_patterns_are_where_the_definition_says_row_by_row(rows, kind):
    tokens = torch.tensor([[0, *row] for row in rows])
    pattern = ideal_pattern(tokens, kind)
    torch.testing.assert_close(pattern, ideal_by_hand(tokens, kind))
    torch.testing.assert_close(pattern.sum(-1), torch.ones(tokens.shape))
    assert float(pattern.triu(1).abs().sum()) == 0  # nothing looks ahead


def test_ideal_patterns_differ_from_each_other_and_from_uniform_attention():
    tokens = torch.tensor([[0, 1, 2, 3, 1, 2, 3]])
    one, other = (ideal_pattern(tokens, kind) for kind in ("previous_token", "induction"))
    assert one.argmax(-1).tolist() == [[0, 0, 1, 2, 3, 4, 5]]
    assert other.argmax(-1).tolist() == [[0, 0, 0, 0, 2, 3, 4]]


@pytest.mark.parametrize("kind", ["previous_token", "induction"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_oss", "phi3", "opt", *OWN])
def test_a_head_with_an_ideal_pattern_puts_out_its_own_values_mixed_so(name, kind):
    model = model_of(name)
    tokens = tokens_of(model)
    pattern = ideal_by_hand(tokens, kind)

    def mix(layer, z, v):
        if layer == 1:
            z[:, :, 0] = pattern @ v[:, :, 0]
        return z

    with torch.inference_mode():
        wanted = hooked_logits(model, tokens, mix)
    with ablate(model, "L1H0", method=f"ideal_{kind}"):
        torch.testing.assert_close(model.logits(tokens), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("head", "kind"), [("L0H0", "ideal_previous_token"), ("L1H0", "ideal_induction")], ids=["previous", "induction"]
)
def test_the_ideal_pattern_of_a_head_that_is_ideal_changes_nothing_and_the_other_one_does(circuit, head, kind):
    tokens = tokens_of(circuit)
    clean = circuit.logits(tokens)
    with ablate(circuit, head, method=kind):
        torch.testing.assert_close(circuit.logits(tokens), clean, atol=1e-3, rtol=1e-3)
    other = {"ideal_previous_token": "ideal_induction", "ideal_induction": "ideal_previous_token"}[kind]
    with ablate(circuit, head, method=other):
        assert float((circuit.logits(tokens) - clean).abs().max()) > 10


@pytest.mark.parametrize("name", [*INTERFACE, *OWN])
def test_pattern_preserving_is_two_runs_the_second_with_the_patterns_of_the_first(name):
    """Patterns as transformers itself says them; values as the second run has them."""
    model, heads = model_of(name), [(0, 1), (1, 0)]
    tokens = tokens_of(model)
    clean = patterns_of(model, tokens)

    def frozen(layer, z, v):
        z = torch.einsum("bhqk,bkhd->bqhd", clean[layer], v)
        for at, head in heads:
            if at == layer:
                z[:, :, head] = 0.0
        return z

    with torch.inference_mode():
        wanted = hooked_logits(model, tokens, frozen)
        unablated = hooked_logits(model, tokens, lambda layer, z, v: torch.einsum("bhqk,bkhd->bqhd", clean[layer], v))
    torch.testing.assert_close(unablated, model.logits(tokens), atol=1e-3, rtol=1e-3)  # the slow route is right
    with ablate(model, heads, method="pattern_preserving"):
        got = model.logits(tokens)
        with torch.inference_mode():
            bridged = model.hooked(tokens)
    torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(bridged, wanted, atol=1e-3, rtol=1e-3)
    if name != "circuit":  # whose other heads write nothing, see below
        assert not torch.allclose(got, with_z(model, tokens, dict.fromkeys(heads, 0.0)), atol=1e-3)


def test_without_its_output_but_with_the_patterns_it_made_a_previous_token_head_leaves_copying_intact(circuit):
    """L0H0 acts on the induction head through K-composition only, that is through patterns."""
    tokens = tokens_of(circuit)
    clean = circuit.logits(tokens)
    with ablate(circuit, "L0H0", method="pattern_preserving"):
        torch.testing.assert_close(circuit.logits(tokens), clean, atol=1e-3, rtol=1e-3)
    with ablate(circuit, "L1H0", method="pattern_preserving"):
        assert float((circuit.logits(tokens) - clean).abs().max()) > 10
    for method in ("zero", "mean"):
        with ablate(circuit, "L0H0", method=method):
            assert float((circuit.logits(tokens) - clean).abs().max()) > 10, method


@pytest.mark.parametrize("name", EVERY)
def test_a_clean_run_shows_what_transformerlens_caches(name):
    model = model_of(name)
    tokens = tokens_of(model)
    cached = z_of(model, tokens)
    for seen in (clean_run(model, tokens), clean_run(model, tokens, [1])):
        for layer, attention in seen.items():
            torch.testing.assert_close(attention.z.transpose(1, 2), cached[layer], atol=1e-4, rtol=1e-4)
    assert list(seen) == [1]


def looked(prompts):
    """Outputs that are known: [prompt, head, pos, d_head] by layer, a function of the tokens alone."""
    tokens = prompts.tokens.float()
    heads = {layer: torch.stack([tokens * (layer + 1), -tokens], 1)[..., None] for layer in range(2)}
    return Outputs(heads, {layer: tokens[..., None] + layer for layer in range(3)})


class Looked:
    """Runs of no model, whose outputs are known."""

    model = None

    def outputs(self, prompts):
        return looked(prompts)

    def attention(self, prompts):
        raise AssertionError


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 6), st.integers(2, 5))
def test_means_are_over_the_other_prompts_that_reach_the_position(seed, n_prompts, n_pos):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 50, (n_prompts, n_pos), generator=generator)
    lengths = torch.randint(1, n_pos + 1, (n_prompts,), generator=generator)
    lengths[:2] = n_pos
    prompts = Prompts(tokens, lengths=lengths)
    own = looked(prompts)
    sums = Sums.of(own, prompts)
    whole, left_out = sums.mean(), sums.mean_of_others(own, prompts)
    for layer, outputs in own.heads.items():
        for pos in range(n_pos):
            reach = [i for i in range(n_prompts) if lengths[i] > pos]
            torch.testing.assert_close(whole.heads[layer][0, :, pos], outputs[reach, :, pos].mean(0))
            for i in reach:
                others = [j for j in reach if j != i]
                torch.testing.assert_close(left_out.heads[layer][i, :, pos], outputs[others, :, pos].mean(0))


def test_without_padding_left_out_means_are_those_of_all_others():
    prompts = Prompts(torch.randint(0, 50, (4, 6)))
    own = looked(prompts)
    made = METHODS["mean"](Looked()).prepared(prompts).on(slice(None))
    for layer, outputs in own.heads.items():
        torch.testing.assert_close(made.outputs.heads[layer], others_mean(outputs))


def test_totals_are_the_same_however_many_prompts_are_run_at_a_time():
    prompts = Prompts(torch.randint(0, 50, (5, 2000)))  # two at a time
    sizes = []

    def look(some):
        sizes.append(len(some))
        return looked(some)

    sums = sums_over(prompts, look)
    assert sizes == [2, 2, 1]
    for layer, outputs in looked(prompts).heads.items():
        torch.testing.assert_close(sums.total.heads[layer], outputs.sum(0, keepdim=True))
    assert sums.count.unique().tolist() == [5.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_means_of_many_narrow_outputs_are_rounded_once(dtype):
    outputs = 40 + torch.rand(600, 2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = outputs.to(dtype)
    prompts = Prompts(torch.arange(600)[:, None].expand(-1, 5))
    parts = [(Outputs({0: outputs[i : i + 1]}), prompts[i : i + 1]) for i in range(600)]  # prompts of a long context
    sums = functools.reduce(operator.add, (Sums.of(own, part) for own, part in parts))
    mean, others = sums.mean().heads[0], sums.mean_of_others(*parts[7]).heads[0]
    assert mean.dtype == others.dtype == dtype and sums.count.unique().tolist() == [600.0]
    exact = outputs.double()
    torch.testing.assert_close(mean[0], exact.mean(0).to(dtype), rtol=torch.finfo(dtype).eps, atol=0)
    left_out = torch.cat([exact[:7], exact[8:]]).mean(0).to(dtype)
    torch.testing.assert_close(others[0], left_out, rtol=torch.finfo(dtype).eps, atol=0)
    narrow = functools.reduce(operator.add, outputs)  # control: in their own precision such a sum stops growing
    count = functools.reduce(operator.add, torch.ones(600, dtype=dtype))
    assert not ((narrow / count).double() - exact.mean(0)).abs().max() < 0.1


def test_a_mean_that_nobody_can_be_asked_for_is_refused():
    prompts = Prompts(torch.ones(3, 6, dtype=torch.long), lengths=torch.tensor([6, 4, 3]))
    own = looked(prompts)
    with pytest.raises(ValueError, match="From position 4 on fewer than 2 prompts"):
        Sums.of(own, prompts).mean_of_others(own, prompts)
    Sums.of(own, prompts).mean()  # one is enough here
    short = Prompts(prompts.tokens, lengths=torch.tensor([5, 4, 3]))
    with pytest.raises(ValueError, match="From position 5 on fewer than 1 prompts"):
        Sums.of(own, short).mean()


@given(st.integers(2, 40), st.integers(0, 1000))
def test_no_prompt_is_resampled_from_itself(n_prompts, seed):
    assert 1 <= drawn_shift(n_prompts, seed=seed) < n_prompts


def test_resampling_draws_by_seed_and_pairs_prompts_that_are_as_many():
    prompts, few = Prompts(torch.zeros(40, 4).long()), Prompts(torch.arange(12).view(3, 4))
    assert paired(prompts, prompts, seed=0) is prompts
    one, same, other = (paired(prompts, few, seed=seed).tokens for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.shape == (40, 4) and {tuple(row) for row in one.tolist()} == {tuple(row) for row in few.tokens.tolist()}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_to_be_had_where_attention_can_be_seen(method):
    for name in ("llama", "small"):
        find_method(model_of(name), method)
    for name in OUTSIDE:
        if method in ("mean", "zero", "resample"):
            find_method(model_of(name), method)
        else:
            with pytest.raises(ValueError, match="out of sight.*mean, zero and resample ablation are to be had"):
                find_method(model_of(name), method)


def test_unknown_methods_are_refused_with_what_there_is():
    model = model_of("small")
    with pytest.raises(ValueError, match="must be one of mean, zero.*got 'median'"):
        find_method(model, "median")


def test_groups_side_by_side_are_edited_each_in_its_own_rows():
    model = model_of("llama")
    tokens = tokens_of(model)
    attention = clean_run(model, tokens.repeat(3, 1))[1]
    groups = [[Head(1, 0)], [Head(0, 2)], [Head(1, 1), Head(1, 3)]]
    other = torch.randn(3, 4, 19, 12)
    edited = OtherOutputs(Outputs({1: other})).edit(attention, groups)
    wanted = attention.z.clone()
    wanted[:3, 0], wanted[6:, 1], wanted[6:, 3] = other[:, 0], other[:, 1], other[:, 3]
    assert torch.equal(edited.z, wanted)
    assert OtherOutputs(Outputs({1: other})).edit(attention, [[Head(0, 2)]]) is attention  # no head of this layer


def test_a_new_method_is_one_class_that_everything_knows_by_its_name(monkeypatch):
    class Halved(Method):
        """Half of a head's own output."""

        name = "halved"

        def on(self, rows):
            return OtherOutputs(self.runs.outputs(self.prompts[rows]).map(lambda x: x / 2))

    monkeypatch.setitem(METHODS, "halved", Halved)
    model = model_of("llama")
    tokens = tokens_of(model)
    own = z_of(model, tokens)[1][:, :, 2]
    with ablate(model, "L1H2", method="halved"):
        torch.testing.assert_close(model.logits(tokens), with_z(model, tokens, {(1, 2): own / 2}), atol=1e-4, rtol=1e-4)
        inside = float(loss_per_token(model.logits(tokens), tokens).mean())
    swept = ablation_sweep(model, tokens, heads=["L1H2"], method="halved", metric="loss").of("L1H2")
    assert swept["changed"] == pytest.approx(inside, abs=1e-5)
    assert swept["intervention"] == "halved ablation" and abs(swept["effect"]) > 1e-5


def test_streams_have_means_as_heads_have_and_both_are_mapped():
    prompts = Prompts(torch.randint(0, 50, (3, 5)), lengths=torch.tensor([5, 4, 5]))
    own = looked(prompts)
    mean = Sums.of(own, prompts).mean()
    for layer, before in own.streams.items():
        torch.testing.assert_close(mean.streams[layer][0, :4], before[:, :4].mean(0))
        torch.testing.assert_close(mean.streams[layer][0, 4], before[[0, 2], 4].mean(0))
    twice = own.map(lambda x, y: x + y, own)
    assert torch.equal(twice.streams[2], 2 * own.streams[2]) and torch.equal(twice.heads[1], 2 * own.heads[1])
