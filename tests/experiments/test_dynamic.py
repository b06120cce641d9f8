import pandas as pd
import pytest
import torch
from scripts import script, verdicts_of
from worded import worded_folder

from induction_lab import load_model
from induction_lab.internals.residual_stream import residual_streams

dynamic, prose = script("essay.dynamic"), script("essay.prose")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return worded_folder(prose.TEXTS, tmp_path_factory.mktemp("dynamic") / "words")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


def hooked(model, tokens, name, change):
    hooks = [(f"blocks.{layer}.attn.{name}", change(layer)) for layer in range(model.n_layers)]
    with torch.inference_mode():
        return model.hooked.run_with_hooks(tokens, fwd_hooks=hooks)


def test_pieces_are_the_prose(model):
    found = dynamic.pieces(model)
    assert found.shape[1] == 97 and len(found) > 4 and not len(found) % 2 and (found[:, 0] == model.bos_token_id).all()
    ids = model.tokenizer(prose.read_prose()[0].text, add_special_tokens=False)["input_ids"]
    assert found[0, 1:].tolist() == ids[:96]


def test_another_pattern_is_what_a_hook_puts_in(model):
    tokens = dynamic.pieces(model, 4)
    streams = residual_streams(model, tokens)
    means = {layer: dynamic.mean_pattern(seen) for layer, seen in streams.attention.items()}
    with torch.inference_mode():
        found = model.unembed(streams.run(0, lambda attention: dynamic.attend_by(attention, means[attention.layer])))
    expected = hooked(
        model, tokens, "hook_pattern", lambda layer: lambda pattern, hook: means[layer].expand_as(pattern)
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_temperature_is_what_a_hook_puts_under_the_scores(model):
    tokens = dynamic.pieces(model, 4)
    streams = residual_streams(model, tokens)
    with torch.inference_mode():
        found = model.unembed(streams.run(0, lambda attention: dynamic.at_temperature(attention, 0.5)))
        plain = model.unembed(streams.run(0, lambda attention: dynamic.at_temperature(attention, 1.0)))
    expected = hooked(model, tokens, "hook_attn_scores", lambda layer: lambda scores, hook: scores / 0.5)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    logs = model.logits(tokens)[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])
    torch.testing.assert_close(dynamic.loss(model, streams, streams.normalised).mean(), -logs.mean().detach())
    assert (found - plain).abs().max() > 0.1


@pytest.mark.parametrize(
    ("positions", "outcome"), [(1.9, "holds with a caveat"), (1.1, "does not hold here"), (4.0, "not decided")]
)
def test_dynamic_is_what_mean_patterns_lose(positions, outcome):
    losses = {dynamic.AS_IT_IS: 1.0, dynamic.POSITIONS: positions, dynamic.MEANS: 2.0}
    table = pd.DataFrame(
        [
            {"model": "gemma3", "half": i % 2, "piece": i // 2, "change": change, "loss": loss * (1 + 0.01 * i)}
            for change, loss in losses.items()
            for i in range(8)
        ]
    )
    heads = pd.DataFrame({"model": ["gemma3"] * 3, "away": [0.1, 0.5, 0.9]})
    assert dynamic.by_content(table, heads).outcome == outcome


@pytest.mark.parametrize(("best", "outcome"), [(0.5, "does not hold here"), (1.0, "not decided")])
def test_best_is_the_temperature_that_gains_most_on_other_pieces(best, outcome):
    table = pd.DataFrame(
        [
            {"model": "gemma3", "half": i % 2, "piece": i // 2, "change": str(t)}
            | {"loss": 1 + abs(t - best) + 0.01 * i * (t == best)}
            for t in dynamic.TEMPERATURES
            for i in range(8)
        ]
    )  # fmt: skip
    assert dynamic.as_sharp(table).outcome == outcome


def test_it_writes_tables_verdicts_and_a_picture(folder, tmp_path):
    dynamic.main(["--models", str(folder), "--pieces", "4", "--out", str(tmp_path)])
    verdicts = verdicts_of(tmp_path / "dynamic.json")
    assert len(verdicts) == 2 and (tmp_path / "dynamic.png").is_file()
    assert (
        len(pd.read_csv(tmp_path / "dynamic.csv")) == 4 * 10 and len(pd.read_csv(tmp_path / "dynamic_heads.csv")) == 8
    )


@pytest.mark.parametrize(
    ("given", "message"), [(["--models", "induction-2l"], "no tokenizer"), (["--pieces", "3"], "--pieces must be")]
)
def test_a_mistake_is_told(given, message, folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        dynamic.main(["--models", str(folder), "--out", str(tmp_path / "out"), *given])
    assert stopped.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "out").exists()
