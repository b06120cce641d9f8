"""Self-repair: direct effects against logit attribution and splits by hand, total effects against the sweep."""

import pytest
import torch
from by_hand import model_of, tokens_of, with_z, z_of
from hand_built import HandBuilt, back, but_first

from induction_lab import capture, repeated_tokens, score_heads, self_repair
from induction_lab.interventions import prepared

NAMES = ["llama", "gpt2", "gemma2", "gemma3", "granite", "bloom", "gpt_oss", "bundled", "small"]


@pytest.mark.parametrize("name", NAMES)
def test_the_direct_effect_of_zero_ablation_is_the_logit_attribution(name):
    model = model_of(name)
    prompts = repeated_tokens(model, n_prompts=3, period=9)
    table = self_repair(model, prompts, method="zero")
    if model.anatomy.logit_cap is None:
        expected = score_heads(model, prompts, scores="logit_attribution")
        found = torch.tensor(table["direct_effect"].to_numpy()).view(model.n_layers, -1)
        torch.testing.assert_close(found.float(), expected["logit_attribution"], atol=2e-4, rtol=1e-3)
        errors = torch.tensor(table["direct_effect_error"].to_numpy()).view(model.n_layers, -1)
        torch.testing.assert_close(errors.float(), expected.standard_errors["logit_attribution"], atol=2e-4, rtol=1e-3)
    assert (table["direct_effect"] - table["total_effect"] - table["self_repair"]).abs().max() < 1e-9
    assert (table["n_prompts"] == 3).all() and table["self_repair"].abs().max() > 1e-3


@pytest.mark.parametrize("method", ["mean", "resample"])
def test_both_effects_are_those_of_the_slow_way(method, monkeypatch):
    model = model_of("llama")
    tokens, others, heads = tokens_of(model), tokens_of(model, seed=1), ["L1H1", "L0H2"]
    table = self_repair(model, tokens, heads, method=method, reference=others)
    assert table["label"].tolist() == heads
    final = capture(model, tokens, "resid_post", layers=1)["resid_post", 1]
    own, other = z_of(model, tokens), z_of(model, others)
    W_U, gain = model.unembedding, model.final_norm.weight
    for row in table.to_dict("records"):
        head = (row["layer"], row["head"])
        instead = other[head[0]][:, :, head[1]]
        instead = instead.mean(0, keepdim=True) if method == "mean" else instead
        with torch.no_grad():
            change = (own[head[0]][:, :, head[1]] - instead) @ model.hooked.W_O[head]
            scale = (final.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            directions = W_U[tokens[:, 1:]] - W_U.mean(0)
            direct = (change * gain / scale)[:, :-1].mul(directions).sum(-1)[:, 10:].mean(1)
        clean, without = (
            copy_logits(model.logits(tokens), tokens),
            copy_logits(with_z(model, tokens, {head: instead}), tokens),
        )
        for name, values in (("direct", direct), ("total", clean - without)):
            assert row[f"{name}_effect"] == pytest.approx(float(values.mean()), abs=1e-4)
            assert row[f"{name}_effect_error"] == pytest.approx(float(values.std()) / 3**0.5, abs=1e-4)
        repair = direct - (clean - without)
        assert row["self_repair"] == pytest.approx(float(repair.mean()), abs=1e-4)
        assert row["self_repair_error"] == pytest.approx(float(repair.std()) / 3**0.5, abs=1e-4)
    monkeypatch.setattr(prepared, "TOKENS_A_RUN", 40)  # two prompts a batch
    again = self_repair(model, tokens, heads, method=method, reference=others)
    assert (again["self_repair"] - table["self_repair"]).abs().max() < 1e-4


def copy_logits(logits, tokens):
    """The right token's logit minus the mean, over the second copy without its first token."""
    second = logits[:, 10:-1]
    return (second.gather(2, tokens[:, 11:, None])[..., 0] - second.mean(-1)).mean(1)


def test_nothing_is_repaired_where_nothing_comes_after(circuit):
    table = self_repair(circuit, repeated_tokens(circuit, n_prompts=3, period=20), ["L1H0", "L1H1"], method="zero")
    assert table["direct_effect"].round(3).tolist() == [19.844, 0.0]  # a logit of 20 for one of 128 tokens
    assert table["self_repair"].abs().max() < 1e-4
    prompts = repeated_tokens(circuit, n_prompts=3, period=20)
    (first,) = self_repair(circuit, prompts, "L0H0", method="zero").to_dict("records")
    assert first["direct_effect"] == 0 and first["self_repair"] == -first["total_effect"] < -19  # indirect alone


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"method": "ideal_induction"}, "measured with mean, zero or resample ablation, got 'ideal_induction'"),
        ({"heads": "L7H0"}, "L7H0 is not there"),
        ({"heads": ["L0H0", "L0H0"]}, "twice|more than once"),
        ({"prompts": torch.arange(1, 20)[None]}, "copy_logit reads nothing on these prompts"),
    ],
)
def test_what_cannot_be_had_is_refused(small, how, message):
    how = {"prompts": repeated_tokens(small, n_prompts=2, period=9), **how}
    with pytest.raises(ValueError, match=message):
        self_repair(small, how.pop("prompts"), **how)


def with_second_head(share: float, *, waits: bool):
    """A previous-token head, an induction head, and behind it a second one that writes a share of the same.

    One that waits asks whether anything has been written yet, and if so rests on BOS: a backup head.
    """
    size, length = 40, 48
    built = HandBuilt(n_layers=3, n_heads=1, d_vocab=size, n_ctx=length, previous=size)
    built.asks((0, 0), "position", "position", back(length, 1))
    built.writes((0, 0), "token", "previous", torch.eye(size))
    for layer, how_much in ((1, 1.0), (2, share)):
        built.asks((layer, 0), "token", "previous", torch.eye(size))
        built.rests((layer, 0), 0.5)
        built.writes((layer, 0), "token", "output", how_much * but_first(size))
    if waits:
        to_bos = torch.zeros(size, size)
        to_bos[:, 0] = 2.0  # above what it finds
        built.asks((2, 0), "output", "token", to_bos, at=size)
    return built.model()


WHOLE = 20 * (1 - 1 / 40)  # of the right token's logit minus the mean over 40 tokens


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0, -0.5])
def test_a_backup_head_by_hand_repairs_what_it_writes(share):
    model = with_second_head(share, waits=True)
    prompts = repeated_tokens(model, n_prompts=3, period=20)
    main, backup = self_repair(model, prompts, ["L1H0", "L2H0"], method="zero").to_dict("records")
    assert main["direct_effect"] == pytest.approx(WHOLE, abs=1e-3)
    assert main["total_effect"] == pytest.approx((1 - share) * WHOLE, abs=1e-3)
    assert main["self_repair"] == pytest.approx(share * WHOLE, abs=1e-3)
    assert all(backup[effect] == pytest.approx(0.0, abs=1e-3) for effect in ("direct_effect", "total_effect"))


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_second_head_that_does_not_wait_repairs_nothing(share):
    model = with_second_head(share, waits=False)
    prompts = repeated_tokens(model, n_prompts=3, period=20)
    main, second = self_repair(model, prompts, ["L1H0", "L2H0"], method="zero").to_dict("records")
    for row, written in ((main, WHOLE), (second, share * WHOLE)):
        assert row["direct_effect"] == pytest.approx(written, abs=1e-3)
        assert row["total_effect"] == pytest.approx(written, abs=1e-3)
        assert row["self_repair"] == pytest.approx(0.0, abs=1e-3)


def test_a_backup_head_that_is_shown_other_words_instead_of_silence_does_not_step_in():
    """What is repaired depends on what the head says instead: a mean over prompts says something, if nothing right."""
    model = with_second_head(1.0, waits=True)
    prompts = repeated_tokens(model, n_prompts=3, period=20)
    for method in ("mean", "resample"):
        (row,) = self_repair(model, prompts, "L1H0", method=method).to_dict("records")
        assert row["total_effect"] > 0.9 * WHOLE and row["self_repair"] == pytest.approx(0.0, abs=1e-2)
