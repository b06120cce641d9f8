import json

import pandas as pd
import pytest
import torch
from hub import publishes

from induction_lab import HookedModel, Prompts, induction_circuit, repeated_tokens, score_heads
from induction_lab.behaviour.losses import loss_derivative, loss_per_token
from induction_lab.development.evaluation import default_prompts
from induction_lab.development.following import follow_training
from induction_lab.development.trajectory import Trajectory
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.training.checkpoints import Checkpoints, Revisions
from induction_lab.weights.probes_over_training import PROBES, weight_probes


class Given:
    """Checkpoints from models at hand; remembers which were asked for."""

    def __init__(self, models, name="a"):
        self.models, self.name, self.steps, self.asked = models, name, list(models), []

    def model(self, step):
        self.asked.append(step)
        return self.models[step]


def random_model(seed, **changes):
    return HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=40, n_ctx=32, **changes), seed=seed))


@pytest.fixture(scope="module")
def models():
    return {step: random_model(step) for step in (0, 50, 100)}


@pytest.fixture(scope="module")
def texts():
    tokens = torch.randint(1, 40, (12, 32), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    return Prompts(tokens)


@pytest.fixture(scope="module")
def followed(models, texts):
    return follow_training(Given(models), texts=texts)


def test_from_random_weights_to_the_handbuilt_circuit_scores_go_from_chance_to_one():
    end = induction_circuit(d_vocab=48, n_ctx=48)
    start = AttentionOnlyTransformer(end.cfg, seed=0)
    run = Given({0: HookedModel(start), 100: HookedModel(end)}, "circuit")
    copies = repeated_tokens(run.model(0), period=10, n_repeats=4).tokens
    trajectory = follow_training(run, texts=copies)
    for name in ("period 19", "gap 9"):
        for score in ("prefix_matching", "previous_token", "induction_stripe"):
            early, late = trajectory.best(score, prompts=name)
            assert early < 0.2 and late > 0.99, (name, score)
        assert trajectory.series("loss_by_copy", prompts=name, index=2)[100] < 1e-3
        assert trajectory.best("duplicate_token", prompts=name)[100] < 0.2  # no head of the circuit does that
    for memory in ("output_memory", "key_memory", "position_memory"):
        early, late = trajectory.best(memory)
        assert early < 0.5 and late > 0.97, memory
    assert trajectory.series("prefix_matching", head="L0H1")[100] < 0.2  # nor does this head
    assert abs(trajectory.series("icl_score")[0]) < 0.3 and trajectory.series("icl_score")[100] < -3


def test_head_scores_are_those_of_score_heads(followed, models):
    for name, prompts in default_prompts(models[0]).items():
        scores = score_heads(models[50], prompts)
        for score in scores.scores:
            on = {"copying": "distinct 25", "ov_copying": "weights"}.get(score, name)
            torch.testing.assert_close(followed.heads(score, on)[1], scores[score])
            error = followed.series(score, prompts=on, head="L1H2", column="standard_error")[50]
            assert error == pytest.approx(float(scores.standard_errors[score][1, 2]), abs=1e-7)
        loss = [followed.series("loss_by_copy", prompts=name, index=copy)[50] for copy in (1, 2)]
        assert loss == pytest.approx(scores.loss_by_copy)


def test_probes_are_those_of_the_weights_with_the_first_prompts_previous_token_heads(followed, models):
    prompts = default_prompts(models[0])
    first = prompts["period 12"]
    previous = score_heads(models[100], first, scores=["previous_token"])["previous_token"]
    probed = weight_probes(models[100], previous_token=previous, offset=11)
    assert set(probed.values) == set(PROBES) - {"position_memory"}
    for name, values in probed.values.items():
        torch.testing.assert_close(followed.heads(name, "weights")[2], values, equal_nan=True)


def test_losses_on_texts_are_means_over_them_with_their_errors(followed, models, texts):
    losses = loss_per_token(models[50].logits(texts.tokens), texts.tokens).double()
    slopes = loss_derivative(losses.mean(0))
    for index in (1, 7, 31):
        of = losses[:, index - 1]
        assert followed.series("loss", index=index)[50] == pytest.approx(float(of.mean()))
        error = followed.series("loss", index=index, column="standard_error")[50]
        assert error == pytest.approx(float(of.std() / 12**0.5))
        assert followed.series("loss_derivative", index=index)[50] == pytest.approx(float(slopes[index - 1]))
    assert followed.series("mean_loss")[50] == pytest.approx(float(losses.mean()))
    # 32 tokens: early is index 4, late 28, each with two more on either side
    gain = losses[:, 25:30].mean(1) - losses[:, 1:6].mean(1)
    assert followed.provenance["texts"]["icl_score"] == "icl_score_4_28_window_2"
    assert followed.series("icl_score")[50] == pytest.approx(float(gain.mean()))
    assert followed.series("icl_score", column="standard_error")[50] == pytest.approx(float(gain.std() / 12**0.5))


def test_token_losses_are_of_one_fixed_token_of_each_text(followed, models, texts):
    losses = {step: loss_per_token(model.logits(texts.tokens), texts.tokens) for step, model in models.items()}
    for text in range(12):
        series = followed.series("token_loss", index=text)
        places = [
            {i for i, loss in enumerate(losses[step][text].tolist()) if loss == pytest.approx(series[step], abs=1e-5)}
            for step in models
        ]
        assert set.intersection(*places)
    other = follow_training(Given(models), texts=texts, scores=(), probes=(), seed=1, n_token_losses=5)
    assert len(other.table.loc[other.table["metric"] == "token_loss", "index"].unique()) == 5
    assert any(other.series("token_loss", index=i)[0] != followed.series("token_loss", index=i)[0] for i in range(5))


def test_padding_counts_for_nothing(models, texts):
    lengths = torch.full((12,), 32)
    lengths[:6] = 9
    padded = texts.tokens.clone()
    padded[:6, 9:] = 0
    found = follow_training(Given(models), texts=Prompts(padded, lengths), scores=(), probes=(), steps=[0])
    losses = loss_per_token(models[0].logits(texts.tokens), texts.tokens)
    assert found.series("loss", index=8)[0] == pytest.approx(float(losses[:, 7].mean()))
    assert found.series("loss", index=9)[0] == pytest.approx(float(losses[6:, 8].mean()))
    of_long = losses[6:, 25:30].mean() - losses[6:, 1:6].mean()
    assert found.series("icl_score")[0] == pytest.approx(float(of_long), abs=1e-6)
    for text in range(6):
        assert found.series("token_loss", index=text)[0] in losses[text, :8].tolist()


def test_indices_of_the_icl_score_can_be_chosen(models, texts):
    ask = {"texts": texts, "scores": (), "probes": (), "steps": [0]}
    found = follow_training(Given(models), early=3, late=30, **ask)
    assert found.provenance["texts"]["icl_score"] == "icl_score_3_30"
    losses = loss_per_token(models[0].logits(texts.tokens), texts.tokens).mean(0)
    assert found.series("icl_score")[0] == pytest.approx(float(losses[29] - losses[2]), abs=1e-6)
    with pytest.raises(ValueError, match="Use longer prompts"):
        follow_training(Given(models), early=3, late=40, **ask)


def test_weights_change_scores_and_nothing_else_does(models, texts):
    same = follow_training(Given({0: models[0], 7: models[0]}), texts=texts)
    first, second = (same.table.loc[same.table["step"] == step].drop(columns="step") for step in (0, 7))
    assert first.reset_index(drop=True).equals(second.reset_index(drop=True))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_what_is_in_the_file_is_not_measured_again(models, texts, tmp_path, followed, suffix):
    path, run = tmp_path / f"t{suffix}", Given(models)
    follow_training(run, texts=texts, path=path, steps=[50])
    assert run.asked == [50]
    run.asked.clear()
    resumed = follow_training(run, texts=texts, path=path)
    assert sorted(run.asked) == [0, 50, 100]  # 50 only to see that it is the same run
    for table in (resumed.table, Trajectory.load(path).table):
        pd.testing.assert_frame_equal(table, followed.table, rtol=1e-12)
    assert resumed.provenance == json.loads(json.dumps(followed.provenance)) | {
        "weights_sha256": resumed.provenance["weights_sha256"],
        "left_out": {why: [50, 0, 100] for why in followed.provenance["left_out"]},
    }
    run.asked.clear()
    assert follow_training(run, texts=texts, path=path).steps == [0, 50, 100] and run.asked == [0]


def test_a_run_that_stops_half_way_keeps_what_it_has(models, tmp_path):
    class Failing(Given):
        def model(self, step):
            if step == 100:
                raise KeyboardInterrupt
            return super().model(step)

    path = tmp_path / "t.parquet"
    with pytest.raises(KeyboardInterrupt):
        follow_training(Failing(models), path=path, probes=())
    assert Trajectory.load(path).steps == [0, 50]
    assert follow_training(Given(models), path=path, probes=()).steps == [0, 50, 100]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"probes": ()}, "probes"),
        ({"scores": ("resting",)}, "scores"),
        ({"seed": 1}, "texts"),
        ({"texts": None}, "texts"),
        ({"prompts": {"mine": torch.tensor([[0, 3, 4, 3, 4]])}}, "prompts"),
    ],
)
def test_a_file_made_with_other_settings_is_not_gone_on_with(models, texts, tmp_path, changed, named):
    ask = {"texts": texts, "scores": ("previous_token",), "probes": ("output_memory",), "path": tmp_path / "t.csv"}
    follow_training(Given(models), steps=[0], **ask)
    with pytest.raises(ValueError, match=f"t.csv was made with other {named}: .* asked for. Give another path"):
        follow_training(Given(models), **ask | changed)


def test_a_file_of_another_run_is_not_gone_on_with(models, tmp_path):
    ask = {"probes": (), "path": tmp_path / "t.csv"}
    follow_training(Given(models), steps=[0], **ask)
    with pytest.raises(ValueError, match="other run: a there, b asked for"):
        follow_training(Given(models, "b"), **ask)
    with pytest.raises(ValueError, match="other weights at step 0"):
        follow_training(Given({0: models[50], 50: models[0]}), **ask)
    with pytest.raises(ValueError, match="other model"):
        follow_training(Given({0: random_model(0, n_heads=2)}), **ask)


@pytest.mark.parametrize("factor", [float("nan"), 1e30])
def test_a_checkpoint_that_diverged_is_left_out_and_said(models, texts, tmp_path, factor):
    diverged = AttentionOnlyTransformer(models[0].network.cfg, seed=0)
    with torch.no_grad():
        for parameter in diverged.parameters():
            parameter *= factor
    run = Given({0: HookedModel(diverged), 50: models[50]})
    trajectory = follow_training(run, texts=texts, path=tmp_path / "t.json")
    assert trajectory.table["value"].notna().all()
    assert trajectory.heads("prefix_matching")[-1].isfinite().all()
    if factor != factor:
        assert trajectory.steps == [50]
        assert trajectory.provenance["left_out"]["everything: its weights are not finite"] == [0]
        run.asked.clear()
        assert follow_training(run, texts=texts, path=tmp_path / "t.json").steps == [50] and run.asked == [50]
    else:
        assert trajectory.provenance["left_out"]["ov_copying on weights: no finite number"] == [0]


def test_what_a_model_or_prompts_have_not_is_left_out_with_the_reason(models):
    run = Given({0: random_model(0, n_layers=1, positions="learned")})
    plain = torch.tensor([[0, *range(5, 15)]])
    trajectory = follow_training(run, prompts={"plain": plain})
    left_out = trajectory.provenance["left_out"]
    assert left_out["prefix_matching on plain: it reads nothing on these prompts"] == [0]
    assert left_out["composition_K: there is no earlier layer to read"] == [0]
    assert any(why.startswith("preferred_offset: ") for why in left_out)
    assert "prefix_matching" not in trajectory.metrics and "previous_token" in trajectory.metrics


def test_without_scores_or_prompts_there_are_still_probes(models):
    no_scores = follow_training(Given(models), scores=())
    assert set(no_scores.metrics) == set(PROBES) - {"position_memory"}
    short = follow_training(Given(models), scores=(), prompts={"short": torch.tensor([[0, 3]])})
    assert any("previous_token scores were not given" in why for why in short.provenance["left_out"])
    no_prompts = follow_training(Given(models), prompts={})
    assert set(no_prompts.metrics) == set(PROBES) - {"position_memory", "qk_matching", "key_memory"}


def test_default_prompts_fit_context_and_vocabulary():
    usual = default_prompts(HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig())))
    assert list(usual) == ["period 20", "gap 9"]
    assert (usual["gap 9"].period, usual["gap 9"].gap) == (20, 9)
    tight = default_prompts(HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=4, n_ctx=16))))
    assert list(tight) == ["period 2", "gap 1"]
    with pytest.raises(ValueError, match="has room for no repeated prompts"):
        default_prompts(HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=2))))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"steps": [0, 3]}, "a has the checkpoints 0, 50, 100; asked for 3"),
        ({"steps": []}, "asked for none"),
        ({"scores": ["nothing"]}, r"Unknown scores \['nothing'\]; there are prefix_matching"),
        ({"probes": "key_memory"}, r"Unknown probes \['key_memory'\]"),
        ({"prompts": {"texts": torch.tensor([[0, 1]])}}, r"may not be called \['texts'\]"),
        ({"prompts": {"x": torch.tensor([[0, 99]])}}, r"Tokens must lie in \[0, 40\)"),
        ({"n_token_losses": 13}, "must lie in 0 … 12"),
        ({"path": "t.txt"}, "kept as .parquet, .csv, .json"),
    ],
)
def test_bad_input_is_refused(models, texts, ask, message):
    with pytest.raises(ValueError, match=message):
        follow_training(Given(models), texts=texts, **ask)


def test_revisions_are_the_published_snapshots(monkeypatch, models):
    seen = []

    def load(name, **how):
        seen.append((name, how))
        return models[0]

    monkeypatch.setattr("induction_lab.training.checkpoints.load_model", load)
    publishes(monkeypatch, "main", "step0", "step1", "step512")
    pythia = Revisions("EleutherAI/pythia-70m", [0, 512], dtype="bfloat16")
    assert isinstance(pythia, Checkpoints) and follow_training(pythia, scores=["resting"], probes=()).steps == [0, 512]
    revisions = [how["revision"] for _, how in seen]
    assert revisions == ["step0", "step512"] and seen[0][0] == "EleutherAI/pythia-70m"
    assert seen[0][1] == {"revision": "step0", "device": None, "dtype": "bfloat16"}


def test_revisions_that_are_not_here_say_so_once_and_clearly(monkeypatch):
    with pytest.raises(ValueError, match="'EleutherAI/pythia-70m' has no training checkpoints.* nor could it be fetch"):
        follow_training(Revisions("EleutherAI/pythia-70m", [512, 1000]))
    steps = (0, *(2**n for n in range(10)), *range(1000, 143_001, 1000))
    publishes(monkeypatch, *(f"step{step}" for step in steps))
    with pytest.raises(ValueError, match="'EleutherAI/pythia-70m' at revision step512 could not be loaded.*no network"):
        follow_training(Revisions("EleutherAI/pythia-70m", [512, 1000]))
    with pytest.raises(ValueError, match="no step 3 .*: 0, 1, 2, 4, …, 142000, 143000. Near it: 1, 2, 4, 8"):
        Revisions("EleutherAI/pythia-70m").model(3)
    with pytest.raises(ValueError, match="must be different and not negative"):
        Revisions("EleutherAI/pythia-70m", [0, 0])
