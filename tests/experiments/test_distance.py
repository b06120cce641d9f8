import json

import pandas as pd
import pytest
import torch
from scripts import script, verdicts_of

from induction_lab import repeated_tokens, score_heads
from induction_lab.training.trainer import TrainingPlan, train

distance = script("essay.distance.experiment")
reading, runs = script("essay.distance.reading"), script("essay.distance.networks")


def test_the_script_writes_a_table_verdicts_and_a_picture_and_trains_once(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runs.os, "cpu_count", lambda: 1)
    for name, value in {"SMALL_PROMPTS": 2, "LARGE_PROMPTS": 2}.items():
        monkeypatch.setattr(reading, name, value)
    arguments = ["--models", "induction-2l", "--seeds", "2", "--steps", "2", "--period", "10", "--out", str(tmp_path)]
    distance.main(arguments)
    table = pd.read_csv(tmp_path / "distance.csv")
    assert set(table["model"]) == {"attention", "GRU", "LSTM", "induction-2l"}
    assert set(table["prompts"]) == {"copy", "near", "unrelated"} and table["length"].max() == 1024
    inside, past, recurrent, large = verdicts_of(tmp_path / "distance.json")
    assert [each["outcome"] for each in (inside, past, recurrent)] == ["not tested"] * 3  # nothing is learnt in 2 steps
    assert {each["source"] for each in json.loads((tmp_path / "distance.json").read_text())} == {"essay §2.1"}
    assert "induction-2l, gap 1" in large["numbers"] and (tmp_path / "distance.png").exists()
    distance.main(["--tables", str(tmp_path / "distance.csv"), "--out", str(tmp_path / "again")])
    again = verdicts_of(tmp_path / "again" / "distance.json")
    assert [each["numbers"] for each in again] == [each["numbers"] for each in (inside, past, recurrent, large)]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    runs.trained(2, 2, cores=1)
    assert len(written) == 6 and written == {path: path.stat().st_mtime_ns for path in written}


def test_copies_are_read_as_scores_and_whole_matrices_say(bundled):
    prompts = repeated_tokens(bundled, n_prompts=3, period=6, gap=9)
    scores = score_heads(bundled, prompts, scores=["prefix_matching"])
    heads = reading.induction_heads(bundled, prompts.tokens)
    found = reading.read_some(bundled, prompts.tokens, 6, 9, heads)
    torch.testing.assert_close(found["loss"].mean().item(), scores.loss_by_copy[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["first_loss"].mean().item(), scores.loss_by_copy[0], atol=1e-4, rtol=1e-4)
    _, cache = bundled.hooked.run_with_cache(prompts.tokens)
    logits, slow, right = bundled.logits(prompts.tokens), [], []
    for prompt in range(3):
        for t in range(16, 21):  # of the second copy all tokens but the last
            slow += [cache[f"blocks.{layer}.attn.hook_pattern"][prompt, head, t, t - 14] for layer, head in heads]
            right.append(bool(logits[prompt, t].argmax() == prompts.tokens[prompt, t + 1]))
    torch.testing.assert_close(found["induction"].mean(), torch.stack(slow).mean(), atol=1e-5, rtol=1e-4)
    assert found["accuracy"].mean().item() == pytest.approx(sum(right) / len(right))


def test_another_block_in_place_of_the_copy_is_not_foretold(bundled):
    tokens = repeated_tokens(bundled, n_prompts=4, period=6, gap=9).tokens
    other = reading.unrelated(tokens, 6)
    assert torch.equal(other[:, :-6], tokens[:, :-6]) and not torch.equal(other[:, -6:], tokens[:, -6:])
    heads = reading.induction_heads(bundled, tokens)
    accuracy = [float(reading.read_some(bundled, some, 6, 9, heads)["accuracy"].mean()) for some in (tokens, other)]
    assert accuracy[0] > 0.9 > 0.1 >= accuracy[1]


def test_moving_the_gap_keeps_the_tokens_and_brings_the_copies_together():
    tokens = torch.tensor([[0, 1, 2, 7, 8, 9, 1, 2]])
    assert reading.moved_near(tokens, 2).tolist() == [[0, 7, 8, 1, 2, 9, 1, 2]]


def test_recurrent_networks_have_as_many_parameters_as_attention_within_five_percent():
    sizes = {kind: runs.size(runs.new_network(kind, 0)) for kind in runs.KINDS}
    assert all(abs(size / sizes["attention"] - 1) < 0.05 for size in sizes.values())


def test_blocks_come_back_whole_and_no_token_is_in_two_of_them():
    data = runs.ReturningBlocks()
    rows = data.draw(torch.Generator().manual_seed(0), n_prompts=20, n_ctx=128)
    assert rows.shape == (20, 128) and bool((rows[:, 0] == 0).all()) and 1 <= rows[:, 1:].min() <= rows.max() < 32
    again = data.draw(torch.Generator().manual_seed(0), n_prompts=20, n_ctx=128)
    assert torch.equal(rows, again)
    for row in rows.tolist():
        follows: dict[int, set[int]] = {}
        for here, then in zip(row[1:], row[2:], strict=False):
            follows.setdefault(here, set()).add(then)
        assert sum(len(then) > 1 for then in follows.values()) <= data.most  # only the last token of each block
    copies = data.copies(torch.Generator().manual_seed(0), n_prompts=5, gap=9)
    assert copies.shape == (5, 22) and torch.equal(copies[:, 1:7], copies[:, -6:])
    assert not (copies[:, 1:7, None] == copies[:, None, 7:16]).any()


def test_a_network_with_a_gru_learns_from_the_same_trainer():
    class Constant:
        d_vocab = 32

        def draw(self, generator, *, n_prompts, n_ctx):
            return torch.arange(n_ctx).repeat(n_prompts, 1) % 4

    network = runs.new_network("GRU", 0)
    history = train(network, Constant(), TrainingPlan(steps=40, batch=2, peak_rate=1e-2, warm_up=0, every=20))
    assert history[-1]["train_loss"] < 0.5 < history[0]["train_loss"] + 0.5


def test_a_verdict_follows_the_numbers():
    def rows(kind, seed, accuracy, near=0.8):
        gaps = [*reading.SMALL_GAPS, 1011]
        shared = {"model": kind, "seed": seed, "trained_length": 128, "chance": 1 / 31, "heads": 1}
        return [
            {**shared, "prompts": prompts, "gap": gap, "length": gap + 13, "accuracy": value,
             "accuracy_error": 0.01, "loss": 1.0, "loss_error": 0.1, "first_loss": 3.4,
             "induction": 0.5, "induction_error": 0.01, "n_prompts": 8, "parameters": 1000}
            for gap in gaps
            for prompts, value in (("copy", accuracy(gap)), ("near", near))
        ]  # fmt: skip

    def table(attention, recurrent, near=0.8):
        kinds = {"attention": attention, "GRU": recurrent, "LSTM": recurrent}
        return pd.DataFrame([r for kind, f in kinds.items() for seed in range(5) for r in rows(kind, seed, f, near)])

    flat, falling = table(lambda gap: 0.95, lambda gap: 0.95 / gap), table(lambda gap: 0.8 / gap, lambda gap: 0.95)
    assert (
        distance.attention_verdict(flat).outcome == distance.past_verdict(flat).outcome == "holds with a caveat"
    )  # one recipe
    assert distance.recurrent_verdict(flat).outcome == "holds"
    full = distance.recurrent_verdict(table(lambda gap: 0.95, lambda gap: 0.95 / gap, near=0.1))
    assert full.outcome == "holds with a caveat" and "not the distance alone" in full.caveat
    unlearnt = distance.recurrent_verdict(table(lambda gap: 0.95, lambda gap: 0.3 / gap))
    assert unlearnt.outcome == "not tested" and "never learnt" in unlearnt.caveat
    assert distance.attention_verdict(falling).outcome == "does not hold here"
    assert distance.recurrent_verdict(falling).outcome == "does not hold here"
    unlearnt = table(lambda gap: 0.03, lambda gap: 0.03)
    assert distance.attention_verdict(unlearnt).outcome == "not tested"

    def large(accuracy, near):
        models = ("smollm2-135m", "gemma3-270m")
        return pd.DataFrame([row for name in models for row in rows(name, 0, accuracy, near)])

    assert distance.large_verdict(large(lambda gap: 0.5, 0.4)).outcome == "holds"
    assert distance.large_verdict(large(lambda gap: 0.5 / gap, 0.5)).outcome == "does not hold here"
    assert distance.large_verdict(large(lambda gap: 0.5, 0.1)).outcome == "not decided"  # no copies, however near


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "no-such-model/at-all"], "no-such-model"),
        (["--models", "induction-2l", "--period", "500"], "Take a smaller --period"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_sentence(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(distance, "trained", lambda *args: {})
    with pytest.raises(SystemExit, match=message):
        distance.main([*arguments, "--out", str(tmp_path)])


def test_numbers_out_of_range_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        distance.main(["--seeds", "0", "--out", str(tmp_path)])
    assert error.value.code == 2 and "--seeds must be at least 1" in capsys.readouterr().err
