import math

import pandas as pd
import pytest
import torch
from scripts import script, verdicts_of

from induction_lab import Head, capture, distinct_tokens, repeated_tokens, temper
from induction_lab.internals.residual_stream import residual_streams


@pytest.fixture(scope="module")
def soft():
    return script("essay.soft_addressing.experiment")


@pytest.fixture(scope="module")
def lookups():
    return script("essay.soft_addressing.lookups")


@pytest.fixture(scope="module")
def written(soft, tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    soft.main(["--models", "induction-2l", "--out", str(out), "--prompts", "3"])
    return out


def test_it_writes_a_table_verdicts_and_a_picture_and_judges_again(soft, written, tmp_path):
    assert {path.name for path in written.iterdir()} == {f"soft_addressing.{kind}" for kind in ("csv", "json", "png")}
    table = pd.read_csv(written / "soft_addressing.csv")
    assert set(table["part"]) == {"formula", "spread", "match", "temper", "kept", "table", "heads"}
    found = verdicts_of(written / "soft_addressing.json")
    assert [verdict["source"] for verdict in found] == ["essay §1"] * 8
    assert found[0]["outcome"] == "true by construction, checked"
    soft.main(["--tables", str(written / "soft_addressing.csv"), "--out", str(tmp_path)])
    again = verdicts_of(tmp_path / "soft_addressing.json")
    assert [verdict["numbers"] for verdict in again] == [verdict["numbers"] for verdict in found]


@pytest.mark.parametrize("family", ["llama", "bundled"])
def test_the_formula_is_what_the_heads_do_and_wrong_formulas_are_not(soft, family, llama, bundled):
    model = {"llama": llama, "bundled": bundled}[family]
    tokens = distinct_tokens(model, n_prompts=2, length=15).tokens
    table = pd.DataFrame(soft.formula(model, tokens)).set_index(["what", "x"])["value"]
    for layer in range(model.n_layers):
        assert table["the formula", layer] < 1e-5
        for wrong in ("without 1/√d_k", "without rotation", "another head's queries"):
            assert table[wrong, layer] > 0.02, wrong


def test_the_formula_agrees_with_sums_written_out(soft):
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 5, 6), torch.randn(1, 2, 5, 6), torch.randn(1, 2, 5, 3)
    z = soft.by_formula(q, k, v, scale=0.4, group=2)
    head, t = 3, 3
    scores = [sum(float(a * b) for a, b in zip(q[0, head, t], k[0, 1, s], strict=True)) for s in range(4)]
    weights = [math.exp(0.4 * score) for score in scores]
    for i in range(3):
        expected = sum(w * float(v[0, 1, s, i]) for s, w in enumerate(weights)) / sum(weights)
        assert float(z[0, head, t, i]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_rise_of_the_loss_is_that_of_the_models_own_logits(soft, bundled):
    prompts = repeated_tokens(bundled, n_prompts=3, period=10)
    rows = soft.rises(bundled, "induction", "repeated", {"induction": [Head(1, 3)]}, prompts)
    found = pd.DataFrame(rows).groupby("x")["value"].mean()

    def loss() -> float:
        log_p = bundled.logits(prompts.tokens).log_softmax(-1)
        second = [-float(log_p[i, t, prompts.tokens[i, t + 1]]) for i in range(3) for t in range(11, 20)]
        return sum(second) / len(second)

    clean = loss()
    with temper(bundled, "L1H3", 0.5):
        assert found[0.5] == pytest.approx(loss() - clean, abs=1e-4)
    assert found[0.0] > 0.1


def test_addresses_are_the_entropy_of_what_is_read_besides_bos(soft):
    pattern = torch.zeros(1, 1, 12, 12)
    pattern[0, 0, :, 0] = 0.9
    pattern[0, 0, 8:, 2], pattern[0, 0, 8:, 5] = 0.075, 0.025
    addresses, largest, mass = soft.beside_bos(pattern)
    assert addresses.shape == (1, 1, 4) and float(mass[0, 0, 0]) == pytest.approx(0.1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert float(addresses[0, 0, 0]) == pytest.approx(math.exp(entropy), rel=1e-4)
    assert float(largest[0, 0, 3]) == pytest.approx(0.75, rel=1e-4)


def test_weights_and_margins_of_matches_are_those_of_the_pattern(soft, bundled):
    one = script("subjects.induction_models").subject(bundled, n_prompts=3)
    head, period = Head(1, 3), one.prompts.period
    rows = pd.DataFrame(soft.matching(one, [head]))
    acts = capture(bundled, one.prompts, ["pattern", "attn_scores"])
    pattern, scores = acts["pattern", 1][:, 3], acts["attn_scores", 1][:, 3]
    weight, margin, none = [], [], []
    for prompt in range(3):
        for t in range(period + 4, 2 * period):
            target = t - period + 1
            weight.append(float(pattern[prompt, t, target]))
            others = [float(scores[prompt, t, s]) for s in range(1, t + 1) if s != target]
            margin.append(float(scores[prompt, t, target]) - max(others))
        none += [float(pattern[prompt, t, 1 : t + 1].max()) for t in range(8, period)]
    found = rows.dropna(subset=["label"]).set_index(["what", "quantity"])["value"]
    assert found["match", "weight"] == pytest.approx(sum(weight) / len(weight), abs=1e-4)
    assert found["match", "margin"] == pytest.approx(sum(margin) / len(margin), abs=1e-3)
    assert found["no match", "weight"] == pytest.approx(sum(none) / len(none), abs=1e-4)


def test_patterns_are_cut_to_bos_and_the_best_keys(soft, bundled):
    tokens = repeated_tokens(bundled, n_prompts=2, period=6).tokens
    streams = residual_streams(bundled, tokens)
    torch.testing.assert_close(streams.run(0, soft.cut_to(12)), streams.normalised, atol=1e-4, rtol=1e-4)
    attention = streams.attention[0]
    z, pattern = soft.cut_to(1)(attention).z, attention.pattern()
    prompt, head, query = 1, 2, 9
    weights = pattern[prompt, head, query]
    best = 1 + int(weights[1:].argmax())
    own = head // (bundled.n_heads // bundled.n_kv_heads)
    v = attention.v[prompt, own]
    slow = (weights[0] * v[0] + weights[best] * v[best]) / (weights[0] + weights[best])
    torch.testing.assert_close(z[prompt, head, query], slow, atol=1e-5, rtol=1e-4)


def test_a_table_asks_for_keys_that_are_there_once_and_for_one_that_is_not(lookups, bundled):
    table = lookups.lookups(bundled, 12, n_prompts=4, seed=0)
    tokens = table.prompts.tokens
    for row, addresses in zip(tokens.tolist(), table.address.tolist(), strict=True):
        pairs = dict(zip(row[1:25:2], row[2:25:2], strict=True))
        assert len(pairs) == 12 and len(set(row[1:25])) == 24
        for query, address in zip(table.query.tolist(), addresses, strict=True):
            assert row[address - 1] == row[query] and row[address] == pairs[row[query]] == row[query + 1]
        assert row[-1] not in row[:-1]


def test_what_comes_back_is_what_the_logits_say(lookups, bundled):
    table = lookups.lookups(bundled, 3, n_prompts=4, seed=1)
    found = lookups.looked_up(bundled, table, Head(1, 3))
    logits = bundled.logits(table.prompts.tokens)
    for i in range(4):
        for j, query in enumerate(table.query.tolist()):
            right = int(table.prompts.tokens[i, table.address[i, j]])
            values = table.prompts.tokens[i, 2:7:2].tolist()
            assert found["value"][i, j] == float(int(logits[i, query].argmax()) == right)
            assert found["among"][i, j] == float(max(values, key=lambda v: float(logits[i, query, v])) == right)
    assert float(found["attention"].mean()) > 0.5 > float(found["stray"].mean())
    assert torch.equal(found["first"], found["value"][:, :1])


def test_without_its_heads_a_hand_made_circuit_looks_nothing_up(lookups, circuit):
    table = lookups.lookups(circuit, 8, n_prompts=3, seed=0)
    every = [f"L{layer}H{head}" for layer in range(circuit.n_layers) for head in range(circuit.n_heads)]
    best = Head(1, 0)
    assert float(lookups.looked_up(circuit, table, best)["value"].mean()) > 0.9
    with temper(circuit, every, 0.0):
        assert float(lookups.looked_up(circuit, table, best)["value"].mean()) < 0.5


def test_tables_that_do_not_fit_are_known(lookups, bundled):
    assert lookups.fits(bundled, 4) and not lookups.fits(bundled, 10_000)


def test_a_verdict_fails_where_the_formula_is_off_or_hard_heads_fail(written):
    module = script("essay.soft_addressing.conclusions")
    table = pd.read_csv(written / "soft_addressing.csv")
    off = table.assign(value=table["value"].where(table["what"] != "the formula", 1e-3))
    assert module.formula(off).outcome == "does not hold here"
    hard = (table["part"] == "temper") & (table["x"] == math.inf)
    assert module.one_address(table.assign(value=table["value"].where(~hard, 9.0))).outcome == "does not hold here"
    less = table.assign(value=table["value"].where(table["part"] != "table", 0.1 + 0.001 * table["item"]))
    assert module.found(less).outcome == module.comes_back(less).outcome == "does not hold here"
    match = (table["part"] == "match") & (table["quantity"] == "weight")
    exchanged = table.assign(value=table["value"].where(~match, 1 - table["value"]))
    assert {module.close_to_one(exchanged).outcome, module.close_to_zero(exchanged).outcome} != {"holds"}


@pytest.mark.parametrize("wrong", [["--prompts", "1"], ["--prompts", "x"]])
def test_bad_arguments_are_refused(soft, wrong, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        soft.main(["--out", str(tmp_path), *wrong])
    assert error.value.code == 2 and "--prompts" in capsys.readouterr().err


def test_a_model_without_such_heads_is_refused(soft, small):
    with pytest.raises(ValueError, match="lacks induction or previous-token heads"):
        soft.measured(small, 2, 0)
