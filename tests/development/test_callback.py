"""Training with and without the callback: the same bits, and what it says is what checkpoints say."""

import random

import numpy as np
import pytest
import torch
import transformers as hf
from families import INTERFACE, OUTSIDE

from induction_lab import (
    CheckpointFolder,
    HookedModel,
    InductionCallback,
    follow_training,
    repeated_tokens,
    score_heads,
)
from induction_lab.development.evaluation import default_prompts

DROPOUT = {"gpt2": dict(attn_pdrop=0.2, resid_pdrop=0.2, embd_pdrop=0.2), "llama": dict(attention_dropout=0.2)}


def network_of(family: str):
    torch.manual_seed(0)
    config = (INTERFACE | OUTSIDE)[family]()
    for name, value in DROPOUT.get(family, {}).items():
        setattr(config, name, value)
    return hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def data(n: int = 64) -> list[dict[str, torch.Tensor]]:
    rows = torch.randint(3, 300, (n, 12), generator=torch.Generator().manual_seed(1)).repeat(1, 2)
    return [{"input_ids": row, "labels": row} for row in rows]


def trained(folder, network, callbacks, *, steps=5, **how):
    arguments = hf.TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2, use_cpu=True,
        disable_tqdm=True, **{"logging_steps": 2, "report_to": "none", "save_strategy": "no", **how},
    )  # fmt: skip
    random.seed(1), np.random.seed(1)
    trainer = hf.Trainer(network, arguments, train_dataset=data(), callbacks=callbacks)
    trainer.train()
    return trainer


def bits(network) -> list[torch.Tensor]:
    return [value.detach().clone() for value in network.state_dict().values()]


def generators() -> list:
    """Python's own is left out where types are checked: beartype draws from it which items to look at."""
    return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "mistral", "bloom", "gptj"])
def test_training_ends_with_the_same_bits_with_and_without(family, tmp_path):
    found = []
    for callbacks in ([], [InductionCallback(every=2)]):
        network = network_of(family)
        trained(tmp_path, network, callbacks)
        hooks = [(len(part._forward_hooks), len(part._forward_pre_hooks), part.training) for part in network.modules()]
        found.append((bits(network), generators(), hooks, network.config._attn_implementation))
    for ours, theirs in zip(found[0][0], found[1][0], strict=True):
        assert torch.equal(ours, theirs)
    assert found[0][1:] == found[1][1:] and all(training for *_, training in found[0][2])
    assert callbacks[0].trajectory.steps == [0, 2, 4, 5]


def test_what_it_says_is_what_checkpoints_say_and_the_log_has_it(tmp_path):
    network = network_of("llama")
    prompts = repeated_tokens(HookedModel(network), n_prompts=4, period=8)
    callback = InductionCallback(every=2, prompts=prompts, path=tmp_path / "kept.parquet")
    trainer = trained(tmp_path, network, [callback], steps=4, save_strategy="steps", save_steps=2)
    how = {"prompts": {"prompts": prompts}, "scores": ("prefix_matching", "previous_token"), "probes": ()}
    followed = follow_training(CheckpointFolder(tmp_path), **how)
    for metric in ("prefix_matching", "previous_token"):
        ours, theirs = (some.heads(metric)[-2:] for some in (callback.trajectory, followed))
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    kept = type(followed).load(tmp_path / "kept.parquet")
    assert kept.steps == callback.trajectory.steps == [0, 2, 4]
    logged = {entry["step"]: entry for entry in trainer.state.log_history if "induction/prefix_matching" in entry}
    now = score_heads(HookedModel(network), prompts)
    assert set(logged) == {0, 2, 4}
    assert logged[4]["induction/prefix_matching"] == pytest.approx(float(now["prefix_matching"].max()), abs=1e-5)
    assert logged[4]["induction/loss_copy_2"] == pytest.approx(now.loss_by_copy[1], abs=1e-5)
    assert logged[0]["induction/loss_copy_1"] != logged[4]["induction/loss_copy_1"]


@pytest.mark.parametrize(("every", "logging"), [(2, 2), (1, 3), (3, 2)])
def test_the_training_loss_is_logged_where_it_would_be_without(every, logging, tmp_path):
    logs = []
    for callbacks in ([], [InductionCallback(every=every)]):
        network = network_of("gpt2")
        trainer = trained(tmp_path, network, callbacks, steps=6, logging_steps=logging)
        logs.append([(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry])
    assert logs[0] == logs[1] and [step for step, _ in logs[0]] == list(range(logging, 7, logging))


def test_the_trainers_loggers_are_told_too(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = InductionCallback(every=2)
    trained(tmp_path, network_of("llama"), [callback], report_to="tensorboard")
    (board,) = {path.parent for path in tmp_path.rglob("events.out*")}
    events = EventAccumulator(str(board))
    events.Reload()
    told = events.Scalars("train/induction/prefix_matching")
    assert [event.step for event in told] == [0, 2, 4, 5]
    assert told[-1].value == pytest.approx(callback.trajectory.best("prefix_matching").iloc[-1], abs=1e-6)


def test_by_default_it_reads_short_blocks_and_of_several_prompts_the_log_says_which(tmp_path):
    network = network_of("gpt2")
    model = HookedModel(network)
    named = {"short": repeated_tokens(model, n_prompts=2, period=5), "text": torch.arange(3, 20)[None].repeat(1, 2)}
    callbacks = [InductionCallback(every=5), InductionCallback(every=5, prompts=named, scores=["prefix_matching"])]
    trainer = trained(tmp_path, network, callbacks)
    assert callbacks[0].trajectory.table["prompts"].unique().tolist() == [next(iter(default_prompts(model)))]
    names = {name for entry in trainer.state.log_history for name in entry if name.startswith("induction/")}
    copies = {f"induction/{on}loss_copy_{i}" for on in ("", "short/", "text/") for i in (1, 2)}
    scores = {f"induction/{name}" for name in ("prefix_matching", "previous_token")}
    assert names == copies | scores | {"induction/short/prefix_matching", "induction/text/prefix_matching"}


@pytest.fixture
def module():
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network_of("gpt2")

        def training_step(self, batch):
            return self.network(**batch).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    return Module


def fitted(module, folder, callbacks):
    import lightning
    from lightning.pytorch.loggers import CSVLogger

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    loader = torch.utils.data.DataLoader(data(), batch_size=4, shuffle=True)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    logger = CSVLogger(folder, name="", version="")
    trainer = lightning.Trainer(max_steps=5, accelerator="cpu", callbacks=callbacks, logger=logger, **quiet)
    trainer.fit(module, loader)
    logger.save()
    return folder / "metrics.csv"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lightning_trains_with_the_same_bits_and_its_logger_is_told(module, tmp_path):
    callback = InductionCallback(every=2)
    plain, watched = module(), module()
    fitted(plain, tmp_path / "plain", [])
    states = generators()
    log = fitted(watched, tmp_path / "watched", [callback.lightning()])
    assert generators() == states
    assert all(torch.equal(a, b) for a, b in zip(bits(plain), bits(watched), strict=True))
    assert callback.trajectory.steps == [0, 2, 4, 5] and callback.trajectory.runs == ["Module"]
    assert "induction/prefix_matching" in log.read_text().splitlines()[0]
    now = score_heads(HookedModel(watched.network), default_prompts(HookedModel(watched.network))["period 20"])
    best = callback.trajectory.best("prefix_matching").iloc[-1]
    assert best == pytest.approx(float(now["prefix_matching"].max()), abs=1e-5)


def test_what_cannot_be_watched_is_refused_in_one_message(tmp_path, monkeypatch):
    for wrong, said in ((dict(every=0), "`every` must be at least 1"), (dict(path="x.txt"), "kept as .parquet")):
        with pytest.raises(ValueError, match=said):
            InductionCallback(**wrong)
    bidirectional = hf.BertLMHeadModel(
        hf.BertConfig(vocab_size=300, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(ValueError, match="can be measured: .*not causal"):
        trained(tmp_path, bidirectional, [InductionCallback()])
    spread = network_of("llama")
    next(spread.parameters()).ds_id = 0
    with pytest.raises(ValueError, match="follow_training\\(CheckpointFolder\\(folder\\)\\)"):
        trained(tmp_path, spread, [InductionCallback()])
    state = hf.TrainerState(is_world_process_zero=True)
    with pytest.raises(ValueError, match=r"Trainer\(model, args, …, callbacks=\[callback\]\)"):
        InductionCallback().on_train_begin(hf.TrainingArguments(str(tmp_path)), state, None, model=spread)
    monkeypatch.setitem(__import__("sys").modules, "lightning.pytorch", None)
    with pytest.raises(ValueError, match=r"pip install 'induction-lab\[lightning\]'"):
        InductionCallback().lightning()
