"""TransformerLens' old format, against a plain transformer written here."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import save_file

from induction_lab import attribute_logits, expand_paths, load_hooked_transformer, load_model, score_heads
from induction_lab.data.prompts import repeated_tokens

L, H, D, E, V, N, M = 2, 3, 24, 8, 50, 40, 32
TOKENS = torch.randint(1, V, (2, 17), generator=torch.Generator().manual_seed(1))
CFG = dict(n_layers=L, d_model=D, d_head=E, n_heads=H, n_ctx=N, d_vocab=V, act_fn=None, attn_only=True)


def weights(*, norm="LN", mlp=False, solu=False, biases=True, positions=True):
    torch.manual_seed(0)
    shapes = {"embed.W_E": (V, D), "unembed.W_U": (D, V), **({"unembed.b_U": (V,)} if biases else {})}
    if positions:
        shapes["pos_embed.W_pos"] = (N, D)
    norms = {"ln_final": D}
    for layer in range(L):
        at = f"blocks.{layer}."
        shapes |= {f"{at}attn.W_{x}": (H, D, E) for x in "QKV"} | {f"{at}attn.W_O": (H, E, D)}
        if biases:
            shapes |= {f"{at}attn.b_{x}": (H, E) for x in "QKV"} | {f"{at}attn.b_O": (D,)}
        norms[f"{at}ln1"] = D
        if mlp:
            shapes |= {f"{at}mlp.W_in": (D, M), f"{at}mlp.b_in": (M,), f"{at}mlp.W_out": (M, D), f"{at}mlp.b_out": (D,)}
            norms |= {f"{at}ln2": D} | ({f"{at}mlp.ln": M} if solu else {})
    if norm:
        for name, width in norms.items():
            shapes |= {f"{name}.w": (width,)} | ({f"{name}.b": (width,)} if norm == "LN" else {})
    found = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    return found | {f"blocks.{layer}.attn.mask": torch.ones(N, N).tril().bool() for layer in range(L)}


ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "solu": lambda x: x * torch.softmax(x, -1),
    "solu_ln": lambda x: x * torch.softmax(x, -1),
}


def plain(w, tokens, *, positions="standard", norm="LN", act=None, eps=1e-5):
    """Logits, one head and one query at a time."""

    def ln(x, name):
        if not norm:
            return x
        x = x if norm.startswith("RMS") else x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        return x * w.get(f"{name}.w", 1.0) + w.get(f"{name}.b", 0.0)

    x, pos = w["embed.W_E"][tokens], w["pos_embed.W_pos"][: tokens.shape[1]]
    x = x + pos if positions == "standard" else x
    for layer in range(L):
        at, out = f"blocks.{layer}.", 0.0
        read = ln(x, f"{at}ln1")
        asks = read + pos if positions == "shortformer" else read
        for h in range(H):
            q, k, v = (
                src @ w[f"{at}attn.W_{c}"][h] + (w[f"{at}attn.b_{c}"][h] if f"{at}attn.b_{c}" in w else 0.0)
                for c, src in (("Q", asks), ("K", asks), ("V", read))
            )
            z = torch.zeros_like(v)
            for t in range(tokens.shape[1]):
                score = (k[:, : t + 1] * q[:, t : t + 1]).sum(-1) / math.sqrt(E)
                z[:, t] = (score.softmax(-1)[..., None] * v[:, : t + 1]).sum(1)
            out = out + z @ w[f"{at}attn.W_O"][h]
        x = x + out + w.get(f"{at}attn.b_O", 0.0)
        if act:
            mid = ACTIVATIONS[act](ln(x, f"{at}ln2") @ w[f"{at}mlp.W_in"] + w[f"{at}mlp.b_in"])
            mid = ln(mid, f"{at}mlp.ln") if act == "solu_ln" else mid
            x = x + mid @ w[f"{at}mlp.W_out"] + w[f"{at}mlp.b_out"]
    return ln(x, "ln_final") @ w["unembed.W_U"] + w.get("unembed.b_U", 0.0)


def same(model, expected):
    torch.testing.assert_close(model.logits(TOKENS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_a_folder_as_on_the_hub_gives_the_logits_of_a_plain_implementation(tmp_path, act):
    w = weights(mlp=True, solu=act == "solu_ln")
    torch.save(w, tmp_path / "model_final.pth")
    (tmp_path / "config.json").write_text(json.dumps(CFG | dict(act_fn=act, attn_only=False, d_mlp=M)))
    same(load_model(tmp_path), plain(w, TOKENS, act=act))


@pytest.mark.parametrize("norm", ["LN", "RMS", None])
@pytest.mark.parametrize("positions", ["standard", "shortformer"])
@pytest.mark.parametrize("biases", [True, False])
def test_norms_positions_and_biases_come_out_right(tmp_path, norm, positions, biases):
    w = weights(norm=norm, biases=biases)
    cfg = CFG | dict(normalization_type=norm, positional_embedding_type=positions)
    torch.save({"state_dict": w, "cfg": cfg}, tmp_path / "x.pt")
    model = load_model(tmp_path / "x.pt")
    same(model, plain(w, TOKENS, positions=positions, norm=norm))
    assert model.network.cfg.biases == biases
    model.network.save(tmp_path / "ours")
    assert torch.equal(load_model(tmp_path / "ours").logits(TOKENS), model.logits(TOKENS))
    parts = attribute_logits(model, TOKENS).values.sum(0)[:, :-1]
    logits = model.logits(TOKENS)[:, :-1]
    own = logits.gather(2, TOKENS[:, 1:, None])[..., 0] - logits.mean(-1)
    torch.testing.assert_close(parts, own, atol=1e-4, rtol=1e-4)
    if norm != "RMS":
        torch.testing.assert_close(expand_paths(model, TOKENS).total(), model.logits(TOKENS), atol=1e-4, rtol=1e-4)
    assert "prefix_matching" in score_heads(model, repeated_tokens(model, period=10, n_prompts=2)).scores


def test_without_a_configuration_what_is_unknown_is_asked_for(tmp_path):
    w = {name: tensor.float() for name, tensor in weights(norm=None).items()}
    save_file(w, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="Say load_hooked_transformer.*positions=.*layer_norm="):
        load_model(tmp_path / "half.safetensors")
    model = load_hooked_transformer(tmp_path / "half.safetensors", positions="shortformer", layer_norm=False)
    same(model, plain(w, TOKENS, positions="shortformer", norm=None))
    folded = load_hooked_transformer(tmp_path / "half.safetensors", positions="learned", layer_norm=True)
    same(folded, plain(w, TOKENS))
    (tmp_path / "half.safetensors").rename(tmp_path / "attn_only_2L_half.safetensors")  # published without one
    same(load_model(tmp_path), plain(w, TOKENS, positions="shortformer", norm=None))


def test_the_oldest_files_are_turned_and_renamed(tmp_path):
    w = weights(mlp=True, solu=True)
    old = {name: tensor.mT.contiguous() if ".W_" in name else tensor for name, tensor in w.items()}
    old = {re.sub(r"^ln_final", "norm", name).replace("ln", "norm"): tensor for name, tensor in old.items()}
    torch.save(old, tmp_path / "x_final.pth")
    (tmp_path / "config.json").write_text(json.dumps(CFG | dict(act_fn="solu_ln", attn_only=False, d_mlp=M)))
    same(load_model(tmp_path), plain(w, TOKENS, act="solu_ln"))


def test_a_whole_object_is_never_opened(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"torch\.save\(model\.state_dict\(\), path\)"):
        load_model(tmp_path / "whole.pth")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(attention_dir="bidirectional"), "attention_dir = 'bidirectional'"),
        (dict(n_ctx=99), "n_ctx = 99"),
        (dict(positional_embedding_type="alibi"), "positional_embedding_type = 'alibi'"),
        (dict(attn_scale=3.0), "attn_scale = 3.0"),
    ],
)
def test_what_is_computed_otherwise_is_refused(tmp_path, change, said):
    torch.save({"state_dict": weights(), "cfg": CFG | change}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=said):
        load_model(tmp_path / "x.pt")


def test_a_missing_weight_and_a_missing_norm_are_refused(tmp_path):
    for gone in ("blocks.1.attn.W_K", "blocks.0.ln1.b"):
        w = {name: tensor for name, tensor in weights().items() if name != gone}
        torch.save({"state_dict": w, "cfg": CFG}, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=r"do not fit"):
            load_model(tmp_path / "x.pt")


def test_the_field_s_names_mean_the_field_s_models(monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: (_ for _ in ()).throw(OSError()))
    with pytest.raises(ValueError, match="attn-only-2l is NeelNanda/Attn_Only_2L512W_C4_Code.*induction-2l"):
        load_model("attn-only-2l")
