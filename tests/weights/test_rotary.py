import pytest
import torch
import transformers as hf
from families import FAMILIES, INTERFACE, LLAMA_LIKE, random_network

from induction_lab import (
    AttentionOnlyConfig,
    AttentionOnlyTransformer,
    HookedModel,
    capture,
    find_circuit,
    qk_circuit,
    qk_matching,
    repeated_tokens,
    score_heads,
    stream_rows,
)
from induction_lab.internals.reading import read_attention
from induction_lab.models.head_weights import head_weights
from induction_lab.results.heads import parse_head
from induction_lab.weights.rotary import relative_rotations

ROTARY = [
    "gpt_neox", "llama", "mistral", "gemma", "gemma2", "gemma3", "qwen2", "qwen3", "phi", "phi3", "olmo2", "gpt_oss",
    "granite", "cohere",
]  # fmt: skip


def test_the_list_of_rotary_families_is_whole():
    models = {family: HookedModel(random_network(family)) for family in FAMILIES}
    assert [family for family in INTERFACE if models[family].anatomy.is_rotary] == ROTARY
    assert [family for family in FAMILIES if family not in INTERFACE and models[family].anatomy.is_rotary] == ["gptj"]


@pytest.mark.parametrize("family", ROTARY)
def test_the_rotation_links_any_two_positions_at_that_offset(family):
    """The same token alone at two far places: the model's own rotated vectors, one turned by R, is the other."""
    model = HookedModel(random_network(family))
    offsets = [0, 1, 2, 9, 70]
    R = relative_rotations(model, offsets)
    tokens = torch.tensor([[7]] * len(offsets))
    seen = {}
    for place in (0, 30):
        positions = place + torch.tensor(offsets)[:, None]
        run = model.network.base_model.forward
        model.network.base_model.forward = lambda *args, run=run, positions=positions, **kwargs: run(
            *args, **(kwargs | {"position_ids": positions})
        )
        try:
            read_attention(model, tokens, lambda a, place=place: seen.__setitem__((place, a.layer), (a.q, a.k)))
        finally:
            del model.network.base_model.forward
    for layer in range(model.n_layers):
        for x in seen[30, layer]:
            turned = torch.einsum("hi,oij->ohj", x[0, :, 0], R[layer])
            torch.testing.assert_close(turned, x[:, :, 0], atol=1e-4 * float(x.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi", "qwen3"])
def test_half_precision_shows_the_same_rotation_within_its_rounding(family):
    full = relative_rotations(HookedModel(random_network(family)), [0, 3, 50])
    half = relative_rotations(HookedModel(random_network(family).to(torch.bfloat16)), [0, 3, 50])
    torch.testing.assert_close(half, full, atol=0.03, rtol=0)


def exact_error(config, offset=10):
    """How far the first layer's own scores on a short prompt are from those of the circuit, of the largest."""
    torch.manual_seed(0)
    model = HookedModel(hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    tokens = torch.randint(3, 300, (1, 20))
    scores = capture(model, tokens, "attn_scores", layers=0)["attn_scores", 0][0, 0]
    rows = stream_rows(model)[tokens[0]]
    found = qk_circuit(model, "L0H0", query=rows, key=rows, offset=offset, exact=True).AB.diagonal(-offset)
    return float((found - scores.diagonal(-offset)).abs().max() / scores.tril().abs().max())


def test_a_rotation_that_changes_with_the_prompts_length_is_that_of_short_prompts():
    half = 6
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * half, "long_factor": [20.0] * half, "rope_theta": 1e4}
    scaling |= {"original_max_position_embeddings": 128}
    base = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=300)
    config = hf.Phi3Config(
        **base, max_position_embeddings=4096, original_max_position_embeddings=128, rope_parameters=scaling,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    assert exact_error(config) < 1e-4


def test_rotations_too_slow_to_be_seen_do_not_hide_the_others():
    config = hf.LlamaConfig(
        hidden_size=128, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, vocab_size=300,
        max_position_embeddings=256, rope_parameters={"rope_type": "default", "rope_theta": 5e5}, pad_token_id=0,
    )  # fmt: skip
    assert exact_error(config) < 1e-4


def test_rotations_of_the_small_model_compose_and_offset_zero_turns_nothing(small):
    R = relative_rotations(small, [0, 3, 4, 7])[1]
    torch.testing.assert_close(R[0], torch.eye(small.d_head))
    torch.testing.assert_close(R[1] @ R[2], R[3], atol=1e-5, rtol=1e-5)
    assert (R[1] - torch.eye(small.d_head)).abs().max() > 0.5


def test_models_without_rotary_positions_turn_nothing():
    learned = HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(positions="learned")))
    for model in (learned, HookedModel(random_network("gpt2")), HookedModel(random_network("bloom"))):
        R = relative_rotations(model, [0, 5])
        assert R.shape == (model.n_layers, 2, model.d_head, model.d_head)
        torch.testing.assert_close(R, torch.eye(model.d_head).expand_as(R))


@pytest.mark.parametrize("offsets", [[], [-1], [64]])
def test_offsets_outside_the_context_are_refused(small, offsets):
    with pytest.raises(ValueError, match="Offsets must lie in 0 … 63"):
        relative_rotations(small, offsets)


OUTSIDE = {  # attention that does not go through the interface of transformers
    "gptj": FAMILIES["gptj"],
    "codegen": lambda: hf.CodeGenConfig(
        vocab_size=300, n_embd=48, n_layer=2, n_head=4, n_positions=64, rotary_dim=6, bos_token_id=0
    ),
}


@pytest.mark.parametrize("name", OUTSIDE)
@torch.no_grad()
def test_weights_and_rotation_make_the_patterns_of_models_that_attend_by_themselves(name):
    torch.manual_seed(0)
    network = hf.AutoModelForCausalLM.from_config(OUTSIDE[name](), dtype=torch.float32).eval()
    for parameter in network.parameters():
        parameter.normal_(0.0, 0.25)
    model, tokens, places = HookedModel(network), torch.arange(3, 12)[None], torch.arange(9)
    run = network(tokens, output_attentions=True, output_hidden_states=True, use_cache=False)
    R = relative_rotations(model, range(9))
    back = (places[:, None] - places).clamp(min=0)
    for layer in range(model.n_layers):
        read = model.anatomy.norm_before(layer)(run.hidden_states[layer][0])
        W_Q, W_K, _, _ = head_weights(model, layer)
        scores = torch.einsum(
            "ihd,ijde,jhe->hij", (read @ W_Q).transpose(0, 1), R[layer][back], (read @ W_K).transpose(0, 1)
        )
        pattern = (scores * model.d_head**-0.5).masked_fill(places[:, None] < places, -torch.inf).softmax(-1)
        torch.testing.assert_close(pattern, run.attentions[layer][0], atol=1e-4, rtol=1e-3)


def without(family, dims, of=("q", "k")):
    """A model in which some dimensions of all queries and keys are exactly zero, as training may leave them."""
    network = random_network(family)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(tuple(f"{component}_proj.weight" for component in of)):
                parameter.view(-1, 12, parameter.shape[1])[:, dims] = 0
    return HookedModel(network)


@pytest.mark.parametrize("family", ["llama", "gemma3", "cohere"])  # halves, halves with norms of heads, neighbours
@pytest.mark.parametrize("dims", [[3, 9], [2, 3, 8, 9], [4], list(range(12))], ids=str)
def test_dimensions_that_are_dead_in_queries_and_keys_hide_no_others(family, dims):
    whole, R = (
        relative_rotations(model, [0, 3, 9]) for model in (HookedModel(random_network(family)), without(family, dims))
    )
    assert R.isfinite().all()
    alive = torch.tensor([dim for dim in range(12) if dim not in dims], dtype=torch.long)
    some = R[..., alive, :], whole[..., alive, :]
    torch.testing.assert_close(some[0][..., alive], some[1][..., alive], atol=1e-4, rtol=0)


def test_tokens_without_an_embedding_are_not_asked_and_diverged_queries_are_told():
    network = random_network("llama")
    whole = relative_rotations(HookedModel(network), [0, 3])
    embeddings = network.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[20:] = 0  # rows that pad the vocabulary, say
        torch.testing.assert_close(relative_rotations(HookedModel(network), [0, 3]), whole, atol=1e-4, rtol=0)
        embeddings.zero_()
        with pytest.raises(ValueError, match="are zero"):
            relative_rotations(HookedModel(network), [1])
        embeddings.normal_()
        network.model.layers[1].self_attn.k_proj.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        relative_rotations(HookedModel(network), [1])


MIXED = dict(LLAMA_LIKE, head_dim=12, num_hidden_layers=4)
SOME_LAYERS = {  # which do not rotate
    "smollm3": (hf.SmolLM3Config(**MIXED, no_rope_layers=[0, 1, 1, 0]), [0, 3]),
    "cohere2": (hf.Cohere2Config(**MIXED, layer_types=["full_attention", *["sliding_attention"] * 3]), [0]),
    "exaone4": (
        hf.Exaone4Config(**MIXED, sliding_window=64, layer_types=[*["sliding_attention"] * 2, *["full_attention"] * 2]),
        [2, 3],
    ),
    "llama4": (
        hf.Llama4TextConfig(
            **MIXED, no_rope_layers=[0, 1, 1, 0], intermediate_size_mlp=96, num_local_experts=2, attention_chunk_size=64
        ),
        [0, 3],
    ),
}


@pytest.mark.parametrize("name", SOME_LAYERS)
def test_layers_that_do_not_rotate_are_seen_among_those_that_do(name):
    config, still = SOME_LAYERS[name]
    torch.manual_seed(0)
    model = HookedModel(hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    eye = torch.eye(model.d_head)
    R = relative_rotations(model, [0, 5])
    assert [layer for layer in range(4) if torch.allclose(R[layer, 1], eye, atol=1e-5)] == still
    if name != "llama4":  # norms without gains, of queries and keys that are rotated already, are not known
        assert exact_error(config) < 1e-4
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    found = find_circuit(model, prompts).edges
    matching = qk_matching(model, score_heads(model, prompts)["previous_token"], offset=7)
    for edge in found.itertuples():
        head = parse_head(edge.induction)
        assert edge.qk_matching == pytest.approx(float(matching[head]), abs=1e-5)
