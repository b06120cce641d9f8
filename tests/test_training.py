from functools import partial

import torch

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer
from induction_lab.training import scattered_copies, tiled_blocks, train

CONFIG = AttentionOnlyConfig()


def test_a_few_steps_learn_and_are_the_same_twice():
    runs = []
    for _ in range(2):
        network = AttentionOnlyTransformer(CONFIG, seed=0)
        history = train(network, partial(tiled_blocks, CONFIG, (4, 7)), steps=40, every=20, look=lambda n: {"seen": 1})
        runs.append((history, network.W_Q.detach()))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert [record["step"] for record in runs[0][0]] == [20, 40] and runs[0][0][0]["seen"] == 1
    start = train(AttentionOnlyTransformer(CONFIG, seed=0), partial(tiled_blocks, CONFIG, (4, 7)), steps=1, every=1)
    assert runs[0][0][-1]["train_loss"] < start[0]["train_loss"] - 0.1


def test_another_seed_draws_other_batches():
    a, b = (tiled_blocks(CONFIG, (4, 7), torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert not torch.equal(a, b)


def test_blocks_repeat_with_the_given_periods_after_bos():
    for row in tiled_blocks(CONFIG, (4, 7), torch.Generator().manual_seed(0)):
        assert row[0] == CONFIG.bos_token_id and (row[1:] > 0).all()
        assert any(torch.equal(row[1 + p :], row[1:-p]) for p in (4, 7))


def test_scattered_copies_hold_one_block_after_gaps_of_several_lengths():
    rows = scattered_copies(CONFIG, (5,), torch.Generator().manual_seed(0))
    distances = set()
    for row in rows:
        assert row[0] == CONFIG.bos_token_id and len(row) == CONFIG.n_ctx and (row[1:] > 0).all()
        windows = row[1:].unfold(0, 5, 1)
        same = (windows[:, None] == windows).all(-1).triu(1)
        assert same.any()  # some block of five comes again
        distances |= {int(d) for d in (same.nonzero()[:, 1] - same.nonzero()[:, 0])}
    assert {5, 9, 13} <= distances  # no gap, some gap, the longest
