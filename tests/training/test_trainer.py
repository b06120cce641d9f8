import shutil
import subprocess
import sys

import pytest
import torch
from folders import SUPPORT

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer
from induction_lab.data.training_streams import TiledBlocks, ZipfianTokens
from induction_lab.runtime.progress import progress_bar
from induction_lab.training.loss import training_loss
from induction_lab.training.trainer import BETAS, LOWEST_RATE, Trainer, TrainingPlan, train

SHAPE = AttentionOnlyConfig(n_heads=2, d_model=16, d_head=8, n_ctx=16, d_vocab=12)
STREAM = TiledBlocks(12, 2, 6)
PLAN = TrainingPlan(steps=20, batch=8, warm_up=4, peak_rate=5e-3, every=5, clip=0.5)


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def plain_loop(network, plan, seed, accumulate=1):
    """The same, with torch's own parts and the logits in full."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=plan.peak_rate, betas=BETAS, weight_decay=plan.weight_decay, fused=True
    )
    losses = []
    for step in range(plan.steps):
        tokens = STREAM.draw(generator, n_prompts=plan.batch, n_ctx=SHAPE.n_ctx)
        logits = network(tokens)[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
        optimizer.param_groups[0]["lr"] = plan.rate(step)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("positions", ["rotary", "learned", "shortformer"])
def test_training_is_a_plain_loop_with_torch_s_own_parts(positions):
    shape = AttentionOnlyConfig(**{**SHAPE.__dict__, "positions": positions})
    ours, plain = AttentionOnlyTransformer(shape), AttentionOnlyTransformer(shape)
    trainer = Trainer(ours, STREAM, PLAN, seed=3)
    losses = [trainer.advance().loss.item() for _ in range(PLAN.steps)]
    assert losses == pytest.approx(plain_loop(plain, PLAN, seed=3), abs=1e-6)
    torch.testing.assert_close(weights(ours), weights(plain), atol=1e-5, rtol=0)
    assert (weights(ours) - weights(AttentionOnlyTransformer(shape))).abs().max() > 0.01  # and it moved


def test_the_gradient_s_norm_is_that_before_clipping():
    trainer = Trainer(AttentionOnlyTransformer(SHAPE), STREAM, PLAN)
    tokens = STREAM.draw(torch.Generator().manual_seed(0), n_prompts=PLAN.batch, n_ctx=SHAPE.n_ctx)
    network = AttentionOnlyTransformer(SHAPE)
    torch.nn.functional.cross_entropy(network(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).norm().item()
    assert trainer.advance().gradient_norm.item() == pytest.approx(expected, rel=1e-5)
    assert expected > PLAN.clip


def test_two_batches_of_eight_make_one_of_sixteen():
    class Fixed(ZipfianTokens):
        rows = STREAM.draw(torch.Generator().manual_seed(1), n_prompts=16, n_ctx=SHAPE.n_ctx)
        taken = 0

        def draw(self, generator, *, n_prompts, n_ctx):
            rows = self.rows.roll(-Fixed.taken, 0)[:n_prompts]
            Fixed.taken += n_prompts
            return rows

    found = {}
    for batch, accumulate in [(16, 1), (8, 2), (8, 1)]:
        Fixed.taken = 0
        network = AttentionOnlyTransformer(SHAPE)
        trainer = Trainer(network, Fixed(12), TrainingPlan(steps=5, batch=batch, accumulate=accumulate))
        found[batch, accumulate] = [trainer.advance().loss.item() for _ in range(5)], weights(network)
    assert found[16, 1][0] == pytest.approx(found[8, 2][0], abs=1e-6)
    torch.testing.assert_close(found[16, 1][1], found[8, 2][1], atol=1e-5, rtol=0)
    assert found[16, 1][0] != pytest.approx(found[8, 1][0], abs=1e-4)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    found = []
    for seed in (0, 0, 1):
        network = AttentionOnlyTransformer(SHAPE)
        found.append((train(network, STREAM, PLAN, seed=seed, look=lambda n: {"seen": 1}), weights(network)))
    (first, bits), (again, same), (other, others) = found
    assert first == again and torch.equal(bits, same)
    assert first != other and not torch.equal(bits, others)
    assert [record["step"] for record in first] == [5, 10, 15, 20] and first[0]["seen"] == 1
    assert first[-1]["train_loss"] < first[0]["train_loss"]


def test_training_leaves_global_random_state_threads_and_checks_alone():
    network, before, threads = AttentionOnlyTransformer(SHAPE), torch.random.get_rng_state(), torch.get_num_threads()

    def trip(network):
        raise KeyError("look")

    with pytest.raises(KeyError):
        train(network, STREAM, PLAN, look=trip)
    assert torch.equal(torch.random.get_rng_state(), before) and torch.get_num_threads() == threads
    with pytest.raises(ValueError, match="must lie in"):
        network(torch.tensor([[0, 12]]))


def test_a_network_that_was_run_for_inference_can_be_trained():
    shape = AttentionOnlyConfig(**{**SHAPE.__dict__, "n_ctx": 23})  # a length that no other test has rotated
    network = AttentionOnlyTransformer(shape)
    with torch.inference_mode():
        network(torch.zeros(1, 22, dtype=torch.long))
    assert Trainer(network, STREAM, PLAN).advance().loss > 0


def test_a_trainer_goes_on_from_its_state_with_the_same_bits():
    whole, cut = (Trainer(AttentionOnlyTransformer(SHAPE), STREAM, PLAN) for _ in range(2))
    losses = [whole.advance().loss.item() for _ in range(8)]
    first = [cut.advance().loss.item() for _ in range(3)]
    state = {name: tensor.clone() for name, tensor in cut.state().items()}
    again = Trainer(AttentionOnlyTransformer(SHAPE, seed=9), STREAM, PLAN, seed=9)
    again.restore(state)
    assert again.step == 3
    assert first + [again.advance().loss.item() for _ in range(5)] == losses
    assert torch.equal(weights(whole.network), weights(again.network))
    del state["generator"]
    with pytest.raises(KeyError):
        again.restore(state)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_loses_the_same():
    code = (
        "from killing import RECIPE, SHAPE\n"
        "from dataclasses import replace\n"
        "from induction_lab.models.attention_only.network import AttentionOnlyTransformer\n"
        "from induction_lab.training.trainer import Trainer\n"
        "shape = replace(SHAPE, n_layers=1)\n"
        "for compiled in (False, True):\n"
        "    plan = replace(RECIPE.training, compile=compiled)\n"
        "    trainer = Trainer(AttentionOnlyTransformer(shape), RECIPE.data, plan)\n"
        "    print(*(trainer.advance().loss.item() for _ in range(3)))\n"
    )  # by itself, because annotations that are checked cannot be compiled
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SUPPORT)
    assert done.returncode == 0, done.stderr
    plain, compiled = ([float(loss) for loss in line.split()] for line in done.stdout.splitlines())
    assert plain == pytest.approx(compiled, abs=1e-5) and plain[2] < plain[0]


def test_bfloat16_learns_about_the_same_in_float32_weights():
    found = {}
    for precision in ("float32", "bfloat16"):
        network = AttentionOnlyTransformer(SHAPE)
        trainer = Trainer(network, STREAM, TrainingPlan(steps=20, batch=8, precision=precision))
        found[precision] = [trainer.advance().loss.item() for _ in range(10)]
        assert weights(network).dtype == torch.float32
    assert found["float32"] == pytest.approx(found["bfloat16"], abs=0.03)
    assert found["float32"] != found["bfloat16"]


def test_the_rate_rises_rests_and_falls():
    plan = TrainingPlan(steps=100, warm_up=10, peak_rate=1.0, decay=0.4)
    assert [plan.rate(step) for step in (0, 4, 9, 10, 60)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0])
    assert [plan.rate(step) for step in (70, 80, 98, 99)] == pytest.approx([0.75, 0.5, 0.05, 0.025])
    assert TrainingPlan(steps=100, warm_up=0, peak_rate=1.0, decay=1.0).rate(0) == 1.0
    assert TrainingPlan(steps=1000, peak_rate=1.0).rate(999) == LOWEST_RATE


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [
        (100, 30, [0, 1, 2, 4, 8, 16, 30, 60, 90, 100]),
        (90, 30, [0, 1, 2, 4, 8, 16, 30, 60, 90]),
        (8, 50, [0, 1, 2, 4, 8]),
        (7, 50, [0, 1, 2, 4, 7]),
        (3, 1, [0, 1, 2, 3]),
        (1, 1, [0, 1]),
    ],
)
def test_checkpoints_are_0_powers_of_two_multiples_and_the_last(steps, every, expected):
    assert TrainingPlan(steps=steps, every=every).checkpoints == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(steps=0), "`steps` must be at least 1, got 0"),
        (dict(accumulate=0), "`accumulate` must be"),
        (dict(peak_rate=0.0), "`peak_rate` must be positive"),
        (dict(peak_rate=float("nan")), "`peak_rate` must be positive, got nan"),
        (dict(peak_rate=float("inf")), "`peak_rate` must be finite"),
        (dict(weight_decay=float("nan")), "`weight_decay` must be 0 or more"),
        (dict(warm_up=-1), "`warm_up` must be 0 or more"),
        (dict(decay=1.5), "share of the steps"),
    ],
)
def test_impossible_plans_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingPlan(**changes)


def test_a_stream_of_more_tokens_than_the_network_s_is_refused():
    with pytest.raises(ValueError, match="The stream has 13 tokens, the network only 12"):
        Trainer(AttentionOnlyTransformer(SHAPE), TiledBlocks(13, 2, 6), PLAN)


def test_the_loss_s_gradients_reach_whoever_is_before_it():
    network = AttentionOnlyTransformer(SHAPE)
    tokens = STREAM.draw(torch.Generator().manual_seed(0), n_prompts=4, n_ctx=SHAPE.n_ctx)
    hidden = network(tokens[:, :-1], return_type="hidden")
    training_loss(hidden.flatten(0, 1), network.W_U, tokens[:, 1:].flatten()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_a_bar_that_is_shown_takes_notes_and_starts_where_it_is_told(capsys):
    with progress_bar(10, "work", shown=True, done=4) as tick:
        tick(3, "loss 1.0")
        tick(1)
    with progress_bar(10, "work", shown=False) as tick:
        tick(3, "loss 1.0")
    assert capsys.readouterr().out == ""
