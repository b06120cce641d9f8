"""TransformerLens' old format with rotary positions, and with an RMS norm at the end, against it written out here.

`written_out` computes what `HookedTransformer` of TransformerLens 2 computes of these files.
"""

import math

import pytest
import torch

from induction_lab import HookedModel, capture, load_hooked_transformer

SHAPE = dict(n_layers=2, d_model=24, d_head=8, n_heads=3, n_ctx=40, d_vocab=50, attn_only=True, seed=0)
TOKENS = torch.randint(1, 50, (2, 17), generator=torch.Generator().manual_seed(1))
CASES = {
    "rotary": dict(positional_embedding_type="rotary"),
    "rotary, neighbours": dict(positional_embedding_type="rotary", rotary_adjacent_pairs=True),
    "rotary, RMS": dict(positional_embedding_type="rotary", rotary_dim=8, normalization_type="RMS"),
    "rotary, folded norms": dict(positional_embedding_type="rotary", normalization_type="LNPre"),
    "rotary, no norms": dict(positional_embedding_type="rotary", normalization_type=None),
    "RMS at the end": dict(final_rms=True),
    "RMS at the end, rotary": dict(final_rms=True, positional_embedding_type="rotary", rotary_adjacent_pairs=True),
    "RMS at the end, folded": dict(final_rms=True, normalization_type="LNPre"),
    "MLP": dict(positional_embedding_type="rotary", attn_only=False, act_fn="solu_ln", d_mlp=32, final_rms=True),
}


def saved(path, **choices):
    """Random weights of a HookedTransformer with these choices, and the file that it is saved as."""
    cfg = SHAPE | dict(normalization_type="LN", positional_embedding_type="standard", eps=1e-5) | choices
    L, D, H, E, V, M = (cfg.get(name) for name in ("n_layers", "d_model", "n_heads", "d_head", "d_vocab", "d_mlp"))
    shapes = {"embed.W_E": (V, D), "unembed.W_U": (D, V), "unembed.b_U": (V,)}
    shapes |= {"pos_embed.W_pos": (40, D)} if cfg["positional_embedding_type"] == "standard" else {}
    norms = {"ln_final": D}
    for at in (f"blocks.{layer}." for layer in range(L)):
        shapes |= {f"{at}attn.W_{x}": (H, D, E) for x in "QKV"} | {f"{at}attn.W_O": (H, E, D)}
        shapes |= {f"{at}attn.b_{x}": (H, E) for x in "QKV"} | {f"{at}attn.b_O": (D,)}
        norms[f"{at}ln1"] = D
        if M:
            shapes |= {f"{at}mlp.W_in": (D, M), f"{at}mlp.b_in": (M,), f"{at}mlp.W_out": (M, D), f"{at}mlp.b_out": (D,)}
            norms |= {f"{at}ln2": D, f"{at}mlp.ln": M}
    for name, width in norms.items() if cfg["normalization_type"] in ("LN", "RMS") else ():
        mean_free = cfg["normalization_type"] == "LN" and not (name == "ln_final" and cfg.get("final_rms"))
        shapes |= {f"{name}.w": (width,)} | ({f"{name}.b": (width,)} if mean_free else {})
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    torch.save({"state_dict": weights, "cfg": cfg}, path)
    return weights, cfg


def written_out(w, cfg):
    """Logits, and the patterns of each layer."""

    def norm(x, name):
        kind = cfg["normalization_type"]
        if kind is None:
            return x
        rms = kind.startswith("RMS") or (name == "ln_final" and cfg.get("final_rms"))
        x = x if rms else x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + cfg["eps"]).sqrt()
        return x * w.get(f"{name}.w", 1.0) + w.get(f"{name}.b", 0.0)

    def turned(x):
        """Each pair of dimensions of `[prompt, pos, d_head]` as one complex number, turned by its own angle."""
        if cfg["positional_embedding_type"] != "rotary":
            return x
        half, result = cfg["d_head"] // 2, x.clone()
        for pair in range(half):
            first, second = (2 * pair, 2 * pair + 1) if cfg.get("rotary_adjacent_pairs") else (pair, pair + half)
            for pos in range(x.shape[1]):
                angle = pos / 10_000 ** (pair / half)
                a, b = x[:, pos, first], x[:, pos, second]
                result[:, pos, first] = a * math.cos(angle) - b * math.sin(angle)
                result[:, pos, second] = b * math.cos(angle) + a * math.sin(angle)
        return result

    x, patterns = w["embed.W_E"][TOKENS], []
    x = x + w["pos_embed.W_pos"][: TOKENS.shape[1]] if "pos_embed.W_pos" in w else x
    hidden = torch.ones(17, 17).triu(1).bool()
    for layer in range(cfg["n_layers"]):
        at, out, seen = f"blocks.{layer}.", 0.0, []
        read = norm(x, f"{at}ln1")
        for head in range(cfg["n_heads"]):
            q, k, v = (read @ w[f"{at}attn.W_{c}"][head] + w[f"{at}attn.b_{c}"][head] for c in "QKV")
            scores = (turned(q) @ turned(k).mT / math.sqrt(cfg["d_head"])).masked_fill(hidden, -torch.inf)
            seen.append(scores.softmax(-1))
            out = out + seen[-1] @ v @ w[f"{at}attn.W_O"][head]
        patterns.append(torch.stack(seen, 1))
        x = x + out + w[f"{at}attn.b_O"]
        if cfg.get("d_mlp"):
            mid = norm(x, f"{at}ln2") @ w[f"{at}mlp.W_in"] + w[f"{at}mlp.b_in"]
            x = x + norm(mid * mid.softmax(-1), f"{at}mlp.ln") @ w[f"{at}mlp.W_out"] + w[f"{at}mlp.b_out"]
    return norm(x, "ln_final") @ w["unembed.W_U"] + w["unembed.b_U"], patterns


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_and_patterns_are_what_transformerlens_computes(case, tmp_path):
    weights, cfg = saved(tmp_path / "x.pt", **CASES[case])
    model = load_hooked_transformer(tmp_path / "x.pt")
    logits, wanted = written_out(weights, cfg)
    torch.testing.assert_close(model.logits(TOKENS), logits, atol=1e-5, rtol=1e-5)
    patterns = capture(model, TOKENS, "pattern")
    for layer, pattern in enumerate(wanted):
        torch.testing.assert_close(patterns["pattern", layer], pattern, atol=1e-5, rtol=0)


@torch.no_grad()
def test_neighbours_are_put_half_a_head_apart(tmp_path):
    weights, _ = saved(tmp_path / "x.pt", **CASES["rotary, neighbours"])
    model = load_hooked_transformer(tmp_path / "x.pt")
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    assert torch.equal(model.network.W_Q[1], weights["blocks.1.attn.W_Q"][..., order])
    assert torch.equal(model.network.W_K[0], weights["blocks.0.attn.W_K"][..., order])
    assert torch.equal(model.network.W_V[1], weights["blocks.1.attn.W_V"])


@pytest.mark.parametrize("choice", [dict(rotary_dim=4), dict(rotary_base=500)])
def test_rotations_of_other_angles_are_refused_by_name(choice, tmp_path):
    saved(tmp_path / "x.pt", positional_embedding_type="rotary", **choice)
    with pytest.raises(ValueError, match=f"{next(iter(choice))} = {next(iter(choice.values()))}"):
        load_hooked_transformer(tmp_path / "x.pt")


def test_what_is_loaded_is_saved_and_loaded_again(tmp_path):
    saved(tmp_path / "x.pt", **CASES["RMS at the end, rotary"])
    model = load_hooked_transformer(tmp_path / "x.pt")
    model.network.save(tmp_path / "ours")
    again = HookedModel(type(model.network).load(tmp_path / "ours"))
    assert torch.equal(again.logits(TOKENS), model.logits(TOKENS))
