"""Weights of networks whose stream itself is normalised in every layer, against what their own modules do."""

import pytest
import torch
import transformers as hf
from families import D_VOCAB, random_network, shake_norms
from torch import nn

from induction_lab import (
    FoldedWeights,
    HookedModel,
    bigram_logits,
    composition_scores,
    find_circuit,
    ov_circuit,
    ov_copying,
    qk_circuit,
    qk_matching,
    repeated_tokens,
    score_heads,
    score_shares,
    weight_probes,
)
from induction_lab.models.head_weights import head_weights
from induction_lab.results.heads import Head
from induction_lab.weights.composition import composition_baseline, pair_composition

_BERT = dict(vocab_size=D_VOCAB, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96)
_BERT |= dict(is_decoder=True, max_position_embeddings=256)
_BART = dict(vocab_size=D_VOCAB, d_model=48, decoder_layers=4, decoder_attention_heads=4, decoder_ffn_dim=96)
_OPT = dict(vocab_size=D_VOCAB, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, ffn_dim=96)
POST = {  # configuration, and in each block: the norms in the order of the stream, and the last module of the MLP
    "gpt": (
        hf.OpenAIGPTConfig(vocab_size=D_VOCAB, n_embd=48, n_layer=4, n_head=4, n_positions=256),
        "ln_1 ln_2", "mlp.c_proj",
    ),
    "bert": (hf.BertConfig(**_BERT), "attention.output.LayerNorm output.LayerNorm", "output.dense"),
    "electra": (
        hf.ElectraConfig(**_BERT, embedding_size=24), "attention.output.LayerNorm output.LayerNorm", "output.dense",
    ),
    "bart": (
        hf.BartConfig(**_BART, max_position_embeddings=256, is_encoder_decoder=False, bos_token_id=1),
        "self_attn_layer_norm final_layer_norm", "fc2",
    ),
    "opt": (
        hf.OPTConfig(**_OPT, max_position_embeddings=256, word_embed_proj_dim=48, do_layer_norm_before=False),
        "self_attn_layer_norm final_layer_norm", "fc2",
    ),
}  # fmt: skip
READABLE = ("gpt", "bart", "opt")  # nothing stands between the stream and the unembedding
FIRST, LAST = 1, 3


def built(family: str) -> HookedModel:
    """In double precision, with norms that matter."""
    torch.manual_seed(0)
    network = hf.AutoModelForCausalLM.from_config(POST[family][0], attn_implementation="eager")
    network = network.double().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "embed" not in name:
                parameter.normal_(0.0, 0.25)
    return HookedModel(network, name=family)


def norms(model: HookedModel, family: str, layer: int) -> list[nn.Module]:
    return [model.anatomy.blocks[layer].get_submodule(name) for name in POST[family][1].split()]


def path(model: HookedModel, family: str, start: int, end: int) -> torch.Tensor:
    """The centring and gains of the norms from the stream that enters one layer to that which enters another."""
    eye, P = torch.eye(model.d_model, dtype=torch.float64), torch.eye(model.d_model, dtype=torch.float64)
    for layer in range(start, end):
        for norm in norms(model, family, layer):
            P = P @ (eye - 1 / model.d_model) @ norm.weight.detach().diag()
    return P


@pytest.mark.parametrize("family", POST)
def test_norms_in_the_stream_are_found_in_their_order(family):
    model = HookedModel(built(family).network.float())
    for layer in range(model.n_layers):
        assert list(model.anatomy.stream_norms(layer)) == norms(model, family, layer)
    assert model.anatomy.has_mlps and model.anatomy.renormalises
    assert not HookedModel(random_network("gpt2")).anatomy.renormalises


class Held:
    """Norms at the scale that they have, MLPs silent, and heads too but for one layer's: what is left is linear."""

    def __init__(self, monkeypatch, family: str, *, speaking: int | None = None) -> None:
        self.model, self.family, self.scales = built(family), family, {}
        with torch.no_grad():
            for layer, block in enumerate(self.model.anatomy.blocks):
                block.get_submodule(POST[family][2]).weight.zero_()
                if layer != speaking:
                    self.model.anatomy.output_projection(layer).weight.zero_()

        def forward(norm, x):
            scale = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt().detach()
            self.scales[norm] = float(scale.flatten()[0])
            return (x - x.mean(-1, keepdim=True)) / scale * norm.weight + norm.bias

        monkeypatch.setattr(nn.LayerNorm, "forward", forward)

    def derivative(self, of: str, added_to: nn.Module) -> torch.Tensor:
        """Of the last layer's queries, keys or values, or of the logits, by what a module reads."""
        width = self.model.d_model
        return torch.autograd.functional.jacobian(
            lambda added: self.run(of, added_to, added), torch.zeros(width, dtype=torch.float64)
        )

    def run(self, of: str, added_to: nn.Module, added: torch.Tensor) -> torch.Tensor:
        anatomy, seen = self.model.anatomy, []

        def add(module, args, kwargs):
            if args:
                return (args[0] + added, *args[1:]), kwargs
            return args, kwargs | {"hidden_states": kwargs["hidden_states"] + added}

        hooks = [added_to.register_forward_pre_hook(add, with_kwargs=True)]
        if of != "logits":
            module, layout = anatomy._layer(LAST).projections[of]
            hooks.append(module.register_forward_hook(lambda _, __, output: seen.append(layout.cut(output[0, 0]))))
        logits = self.model.network(torch.tensor([[7]]), use_cache=False).logits[0, 0]
        for hook in hooks:
            hook.remove()
        return logits if of == "logits" else seen[0]

    def scale(self, start: int, end: int) -> float:
        """By what all norms of these layers divide."""
        every = [self.scales[norm] for layer in range(start, end) for norm in norms(self.model, self.family, layer)]
        return float(torch.tensor(every, dtype=torch.float64).prod())


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert float(expected.abs().max()) > 1e-2


@pytest.mark.parametrize("family", POST)
def test_what_a_head_writes_is_read_as_the_derivative_at_frozen_scale_says(family, monkeypatch):
    held = Held(monkeypatch, family, speaking=FIRST)
    model, folded = held.model, FoldedWeights(held.model)
    heads = model.anatomy.output_projection(FIRST)
    for component in "qkv":
        read = getattr(folded.layer(LAST), f"W_{component.upper()}")
        ours = torch.einsum("aed,bdf->bfae", folded.layer(FIRST, end=LAST).W_O, read).flatten(2)
        close(held.derivative(component, heads) * held.scale(FIRST, LAST), ours)
    if family in READABLE:
        written = folded.layer(FIRST, end=model.n_layers).W_O.flatten(0, 1) @ folded.readers.mT
        close(held.derivative("logits", heads) * held.scale(FIRST, model.n_layers), written.mT)


@pytest.mark.parametrize("family", POST)
def test_what_is_embedded_is_read_as_the_derivative_at_frozen_scale_says(family, monkeypatch):
    held = Held(monkeypatch, family)
    folded, embedded = FoldedWeights(held.model), held.model.anatomy.blocks[0]
    for component in "qkv":
        ours = getattr(folded.layer(LAST, start=0), f"W_{component.upper()}").mT
        close(held.derivative(component, embedded) * held.scale(0, LAST), ours)


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
@pytest.mark.parametrize("family", ["gpt", "bert", "bart"])
def test_composition_is_that_of_the_wide_matrices_with_the_norms_between(family, kind):
    model = built(family)
    weights = [FoldedWeights(model).layer(layer) for layer in range(model.n_layers)]
    raw = [model.anatomy.output_map(layer)[0] for layer in range(model.n_layers)]
    expected = torch.zeros(model.n_layers, model.n_heads, model.n_layers, model.n_heads)
    for l1 in range(model.n_layers):
        for l2 in range(l1 + 1, model.n_layers):
            P = path(model, family, l1, l2)
            for h1 in range(model.n_heads):
                OV = weights[l1].W_V[h1] @ raw[l1][h1] @ P
                for h2 in range(model.n_heads):
                    W_Q, W_K, W_V = (part[h2] for part in weights[l2][:3])
                    reader = {"Q": W_Q @ W_K.T, "K": W_K @ W_Q.T, "V": W_V @ weights[l2].W_O[h2]}[kind]
                    expected[l1, h1, l2, h2] = (OV @ reader).norm() / OV.norm() / reader.norm()
    actual = composition_scores(model, kind, subtract_baseline=False)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-4)
    pairs = [(Head(0, 1), Head(1, 2)), (Head(0, 3), Head(3, 0)), (Head(2, 0), Head(3, 1))]
    chance = composition_baseline(model.d_model, model.d_head)[0]
    few = pair_composition(FoldedWeights(model), kind, pairs) + chance
    torch.testing.assert_close(few.float(), torch.stack([expected[*a, *b] for a, b in pairs]), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("family", READABLE)
def test_copying_and_matching_are_those_of_matrices_of_the_vocabulary(family):
    model = built(family)
    folded, end = FoldedWeights(model), model.n_layers
    rows, readers = folded.rows(), folded.readers
    for head in (Head(0, 1), Head(2, 3)):
        _, _, W_V, _ = folded.layer(head.layer)
        W_O = model.anatomy.output_map(head.layer)[0]
        written = rows @ path(model, family, 0, head.layer) @ W_V[head.head] @ W_O[head.head]
        logits = written @ path(model, family, head.layer, end) @ readers.mT
        values = torch.linalg.eigvals(logits)
        share = float(values.real.sum() / values.abs().sum())
        assert float(ov_copying(model)[head]) == pytest.approx(share, abs=1e-5)
        torch.testing.assert_close(ov_circuit(model, head).AB, logits, atol=1e-8, rtol=1e-6)
    previous = torch.rand(model.n_layers, model.n_heads, generator=torch.Generator().manual_seed(0))
    keys = torch.zeros_like(rows)
    for layer in range(2):
        _, _, W_V, _ = folded.layer(layer)
        W_O = model.anatomy.output_map(layer)[0] * previous[layer][:, None, None]
        written = torch.einsum("rd,hde,hef->rf", rows @ path(model, family, 0, layer), W_V, W_O)
        keys += written @ path(model, family, layer, 2)
    W_Q, W_K, _, _ = folded.layer(2)
    scores = rows @ path(model, family, 0, 2) @ W_Q[1] @ W_K[1].T @ keys.T
    values = torch.linalg.eigvals(scores)
    share = float(values.real.sum() / values.abs().sum())
    assert float(qk_matching(model, previous)[2, 1]) == pytest.approx(share, abs=1e-5)
    virtual = rows @ path(model, family, 0, 0) @ folded.layer(0).W_V[1] @ model.anatomy.output_map(0)[0][1]
    ours = qk_circuit(model, "L2H1", key="L0H1").AB
    theirs = rows @ path(model, family, 0, 2) @ W_Q[1] @ W_K[1].T @ (virtual @ path(model, family, 0, 2)).T
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("family", ["gpt", "opt"])
def test_bigrams_are_what_is_left_when_heads_and_mlps_write_nothing(family):
    model = built(family)
    with torch.no_grad():
        model.anatomy.position_module().weight.zero_()
        for layer, block in enumerate(model.anatomy.blocks):
            for silent in (block.get_submodule(POST[family][2]), model.anatomy.output_projection(layer)):
                silent.weight.zero_(), silent.bias.zero_()
        logits = model.network(torch.arange(3, 9)[:, None], use_cache=False).logits[:, 0]
    torch.testing.assert_close(bigram_logits(built(family), torch.arange(3, 9)), logits, atol=1e-8, rtol=1e-6)


def test_a_planted_pair_composes_and_is_at_chance_once_a_norm_between_cuts_its_path():
    model = built("gpt")
    writes, reads, width = Head(0, 1), Head(3, 2), model.d_head
    with torch.no_grad():
        blocks = model.anatomy.blocks
        c_proj, c_attn = blocks[0].attn.c_proj.weight, blocks[3].attn.c_attn.weight
        own = slice(writes.head * width, (writes.head + 1) * width)
        c_proj[own] = 0.01 * torch.randn_like(c_proj[own])
        c_proj[own, :width] += torch.eye(width)  # into the first dimensions of the stream, where its keys read
        start = model.d_model + reads.head * width
        c_attn[:, start : start + width] = 0.0
        c_attn[:width, start : start + width] = torch.eye(width)
        chance = composition_baseline(model.d_model, width)[0]
        planted = composition_scores(model, "K", subtract_baseline=False)
        assert float(planted[*writes, *reads]) > 1.9 * chance
        blocks[1].ln_2.weight[:width] = 0.0
        cut = composition_scores(model, "K", subtract_baseline=False)
    assert float(cut[*writes, *reads]) < 1.3 * chance
    others = torch.ones(4, dtype=torch.bool)
    others[reads.head] = False
    torch.testing.assert_close(cut[2, :, 3, others], planted[2, :, 3, others])  # behind the cut


@pytest.mark.parametrize("family", POST)
def test_circuits_are_found_and_say_what_they_cannot_read(family):
    model = HookedModel(built(family).network.float())
    found = find_circuit(model, repeated_tokens(model, n_prompts=2, period=8), n=20)
    numbers = found.edges.select_dtypes("number")
    assert len(found.edges) == 20 and numbers.drop(columns="ov_copying").notna().all(axis=None)
    assert found.edges["ov_copying"].notna().all() == (family in READABLE)
    assert ("ov_copying" in (found.provenance.get("left_out") or {})) == (family not in READABLE)


def test_what_needs_a_stream_that_goes_on_is_refused_or_left_out():
    model = built("gpt")
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    with pytest.raises(ValueError, match="a residual stream that goes on as it is"):
        head_weights(model, 0)
    with pytest.raises(ValueError, match="a residual stream that goes on as it is"):
        score_shares(built("bart"), prompts, "L1H0")
    with pytest.raises(ValueError, match="not from layer 2"):
        ov_circuit(model, "L1H0", source="L1H2")
    with pytest.raises(ValueError, match="not from layer 1"):
        ov_copying(model, source="effective")
    assert ov_copying(model, source="effective", heads=["L1H0", "L3H2"])[3, 2].isfinite()
    with pytest.raises(ValueError, match="exact=False"):
        qk_circuit(model, "L1H0", exact=True)
    assert qk_circuit(built("bart"), "L0H0", exact=True).AB.isfinite().all()
    assert "logit_attribution" not in score_heads(model, prompts).scores
    assert weight_probes(model, ["position_memory"]).values["position_memory"].isfinite().all()


def test_turned_queries_of_a_network_that_cannot_be_told_positions_are_not_taken_for_unturned():
    torch.manual_seed(0)
    model = HookedModel(hf.AutoModelForCausalLM.from_config(hf.RoFormerConfig(**_BERT)).eval())
    assert composition_scores(model)[0, :, 1].isfinite().all()
    with pytest.raises(ValueError, match="cannot be told where a token stands"):
        find_circuit(model, repeated_tokens(model, n_prompts=2, period=8))


def test_other_networks_weights_are_handed_on_untouched():
    folded = FoldedWeights(HookedModel(shake_norms(random_network("gemma3"))))
    assert folded.layer(1, start=0, end=folded.model.n_layers) is folded.layer(1)
