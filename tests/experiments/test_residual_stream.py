import dataclasses

import pandas as pd
import pytest
import torch
from by_hand import tokens_of
from families import random_network
from scripts import script, verdicts_of

from induction_lab import HookedModel, Prompts, capture, repeated_tokens, score_shares
from induction_lab.models.frozen_norms import attention_scale


@pytest.fixture(scope="module")
def module():
    return script("essay.residual_stream")


def prompts_of(model):
    return Prompts(tokens_of(model))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma", "qwen3", "granite"])
def test_the_stream_is_a_sum_and_all_that_heads_read_in_many_architectures(module, family):
    model = HookedModel(random_network(family), name=family)
    by = module.errors_by_layer(model, prompts_of(model)).pivot(index="layer", columns="measure", values="error")
    assert by[["sum", "qkv", "swapped"]].max().max() < 1e-5
    assert by["least left out"].min() > 1e-4 and by[["layer before", "layer after"]].min().min() > 1e-2


def test_errors_are_those_of_streams_summed_position_by_position(module, llama):
    """Llama's norm and weights written out, and a layer's output forged: the sum must notice."""
    prompts = prompts_of(llama)
    acts = capture(llama, prompts, ["embed", "resid_pre", "attn_out", "mlp_out", "v"])
    stream = acts["embed"] + acts["attn_out", 0] + acts["mlp_out", 0]
    torch.testing.assert_close(stream, acts["resid_pre", 1], atol=1e-5, rtol=1e-5)
    layer = llama.network.model.layers[1]
    normalised = stream / (stream.square().mean(-1, keepdim=True) + layer.input_layernorm.variance_epsilon).sqrt()
    v = (normalised * layer.input_layernorm.weight) @ layer.self_attn.v_proj.weight.T
    v = v.unflatten(-1, (2, -1))
    torch.testing.assert_close(v.detach(), acts["v", 1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(module.made_of(llama, 1, "v", stream, None), v.detach(), atol=1e-4, rtol=1e-4)
    errors = module.errors_by_layer(llama, prompts).set_index(["layer", "measure"])["error"]
    left_out = min(
        float(((stream - part - stream).norm(dim=-1) / stream.norm(dim=-1)).median())
        for part in (acts["attn_out", 0], acts["mlp_out", 0])
    )
    assert errors[1, "least left out"] == pytest.approx(left_out, rel=1e-3)


def test_another_prompts_stream_makes_a_run_the_others_and_half_of_it_does_not(module, llama):
    prompts = prompts_of(llama)
    stream = capture(llama, prompts, "resid_pre", layers=1)["resid_pre", 1]
    own = llama.logits(prompts.tokens)
    assert module.swapped(llama, prompts, 1, stream, own) < 1e-5
    half = torch.cat([stream[..., :24], stream.roll(1, 0)[..., 24:]], -1)
    assert module.swapped(llama, prompts, 1, half, own) > 0.1
    assert module.swapped(llama, prompts, 1, stream.roll(1, 0), own) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bundled"])
def test_score_shares_are_scores_without_what_one_sender_wrote(name, request):
    """The slow way: take the sender out of the stream at the held scale, make keys anew, score every pair by loops."""
    is_own = name == "bundled"
    model = request.getfixturevalue(name) if name != "gpt2" else HookedModel(random_network("gpt2"), name=name)
    period = 6
    tokens = repeated_tokens(model, n_prompts=1, period=period)
    head = (1, 2)
    shares = score_shares(model, tokens, head).set_index("sender")["share"]
    assert shares.sum() == pytest.approx(1, abs=1e-4)
    rotary = is_own or name == "llama"
    acts = capture(model, tokens, ["rot_q" if rotary else "q", "attn_scores", "resid_pre", "result"], layers=None)
    module = script("essay.residual_stream")
    R = module.relative_rotations(model, range(2 * period + 1)) if rotary else None
    stream = acts["resid_pre", 1]
    scale = attention_scale(model, 1, stream)
    q = acts["rot_q" if rotary else "q", 1][0, :, 2]
    scores = acts["attn_scores", 1][0, 2]

    def above(by_pair):
        total = 0.0
        for t in range(period + 1, 2 * period + 1):
            target = t - period + 1
            others = [s for s in range(1, t + 1) if s != target]
            total += float(by_pair[t, target]) - sum(float(by_pair[t, s]) for s in others) / len(others)
        return total

    whole = above(scores)
    factor = whole / above(q @ module.made_of(model, 1, "k", stream, R)[0][:, shared(model, 2)].T)
    for sender in (0, 3):
        written = acts["result", 0][:, :, sender]
        # a small step, its scale put back, then up to the whole by linearity; biases, alike for all keys, cancel
        step = 1e-2
        keys = [module.made_of(model, 1, "k", x, R)[0][:, shared(model, 2)] for x in (stream, stream - step * written)]
        rescale = attention_scale(model, 1, stream - step * written) / scale
        change = (keys[0] - keys[1] * rescale[0]) / step
        assert shares[f"L0H{sender}"] == pytest.approx(factor * above(q @ change.T) / whole, abs=2e-2)


def shared(model, head):
    return head // (model.n_heads // model.n_kv_heads)


def test_in_the_circuit_by_hand_keys_read_the_previous_token_head_alone(module, circuit):
    one = module.subject(circuit, n_prompts=3)
    shares = module.shares_of(one, 0).assign(model="circuit", part=module.SHARES)
    assert set(shares["previous"]) == {"L0H0"}  # and of two such heads the one whose writing is read
    both = dataclasses.replace(
        one, scores=dataclasses.replace(one.scores, values={**one.scores.values, "previous_token": torch.ones(2, 2)})
    )
    keys = pd.DataFrame({"sender": ["L0H0", "L0H1"], "share": [0.1, 0.7]})
    assert module.previous_token_head(both, one.induction[0], keys) == (0, 1)
    own = shares[shares["receiver"] == str(one.induction[0])]
    by = own.pivot(index="sender", columns="of", values="share")
    assert by.loc["L0H0", "score"] > 0.95 and by.loc["L0H0", "k"] > 0.9 and by.loc["L0H0", ["q", "v"]].max() < 0.1
    assert module.verdict_shares(shares).outcome == "holds with a caveat"  # one model
    exchanged = shares.assign(of=shares["of"].replace({"k": "q", "q": "k"}))
    assert module.verdict_shares(exchanged).outcome == "does not hold here"


def test_verdicts_fail_where_the_sum_or_the_stream_is_wrong(module, llama):
    errors = module.errors_by_layer(llama, prompts_of(llama)).assign(model="llama")
    assert module.verdict_sum(errors).outcome == module.verdict_read(errors).outcome == "true by construction, checked"
    wrong = errors.assign(error=errors["error"].where(~errors["measure"].isin(["sum", "swapped"]), 0.02))
    assert module.verdict_sum(wrong).outcome == module.verdict_read(wrong).outcome == "does not hold here"


def test_residual_stream_writes_a_table_verdicts_and_pictures(module, tmp_path):
    module.main(["--models", "induction-2l", "--prompts", "3", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {
        "residual_stream.csv", "residual_stream.json", "residual_stream.png", "residual_stream_shares.png",
    }  # fmt: skip
    table = pd.read_csv(tmp_path / "residual_stream.csv")
    shares = table[table["part"] == module.SHARES]
    assert shares.groupby(["receiver", "of"])["share"].sum().to_numpy() == pytest.approx(1, abs=1e-3)
    found = verdicts_of(tmp_path / "residual_stream.json")
    assert [verdict["outcome"] for verdict in found[:2]] == ["true by construction, checked"] * 2
    module.main(["--tables", str(tmp_path / "residual_stream.csv"), "--out", str(tmp_path / "again")])
    again = verdicts_of(tmp_path / "again" / "residual_stream.json")
    assert [verdict["numbers"] for verdict in again] == [verdict["numbers"] for verdict in found]


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--models", "./nowhere"], "no file or folder"), (["--prompts", "1"], "--prompts must be at least 2")],
)
def test_a_users_mistakes_are_told(module, given, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        module.main([*given, "--out", str(tmp_path)])
    assert left.value.code == 2 and message in capsys.readouterr().err


def test_a_model_without_induction_heads_is_refused(module, llama):
    with pytest.raises(ValueError, match="has no induction head"):
        module.measured(llama, 2, 0)
