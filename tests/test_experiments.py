import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from induction_lab import HeadScores, HookedModel, load_model, repeated_tokens, score_heads
from induction_lab.attention_only import AttentionOnlyTransformer

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def script(name: str):
    """An experiment as a module."""
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_find_induction_heads_writes_scores_and_pictures(tmp_path, capsys):
    script("find_induction_heads").main(["--prompts", "4", "--out", str(tmp_path)])
    stem = "find_induction_heads_attn-only-2l"
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}.csv", f"{stem}.csv.json", f"{stem}_scores.png", f"{stem}_by_layer.png", f"{stem}_loss.png",
        f"{stem}_patterns.png",
    }  # fmt: skip
    written = HeadScores.load(tmp_path / f"{stem}.csv")
    model = load_model()
    direct = score_heads(model, repeated_tokens(model, n_prompts=4), scores=["prefix_matching"])
    torch.testing.assert_close(written["prefix_matching"], direct["prefix_matching"], atol=1e-5, rtol=0)
    assert "nats on the first" in capsys.readouterr().out


def test_the_bundled_model_is_trained_on_periods_it_is_not_examined_on():
    training = script("train_bundled_model")
    generator = torch.Generator().manual_seed(0)
    for row in torch.cat([training.BATCHES(generator) for _ in range(3)]):
        assert row[0] == 0 and (row[1:] > 0).all()
        assert any(torch.equal(row[1 + p :], row[1:-p]) for p in training.PERIODS)
    assert not set(training.PERIODS) & set(training.UNSEEN)


def test_an_untrained_model_fails_the_examination_and_is_not_written(tmp_path):
    training = script("train_bundled_model")
    checks = training.examine(HookedModel(AttentionOnlyTransformer(training.CONFIG).eval()))
    assert not any(ok for _, ok in checks.values())
    with pytest.raises(SystemExit, match="was not written"):
        training.main(["--steps", "1", "--quiet", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_the_bundled_model_passes_the_examination(bundled):
    assert all(ok for _, ok in script("train_bundled_model").examine(bundled).values())
