from collections import Counter

import pytest
import torch
from hypothesis import example, given, settings, strategies as st

from induction_lab.data.markov import (
    doubly_stochastic,
    in_context_bigrams,
    in_context_unigrams,
    stationary_distribution,
)
from induction_lab.data.random_tokens import random_rows
from induction_lab.data.training_streams import (
    STREAMS,
    MarkovChains,
    ScatteredCopies,
    TiledBlocks,
    TriggerBigrams,
    ZipfianTokens,
)

SMALL = {
    "tiled": TiledBlocks(20, shortest=2, longest=9),
    "tiled, Zipfian": TiledBlocks(20, shortest=2, longest=9, left_out=(4,), exponent=1.0),
    "scattered": ScatteredCopies(20, shortest=2, longest=9, longest_gap=3),
    "scattered, Zipfian": ScatteredCopies(20, shortest=2, longest=9, longest_gap=3, exponent=1.0),
    "zipfian": ZipfianTokens(20),
    "markov": MarkovChains(4),
    "markov, doubly stochastic": MarkovChains(4, doubly_stochastic=True),
    "triggers": TriggerBigrams(20, n_triggers=3),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiled_slowly(d_vocab, lengths, generator, n_prompts, n_ctx):
    """Row after row, as the bundled model's training drew it."""
    rows = []
    for pick in torch.randint(len(lengths), (n_prompts,), generator=generator).tolist():
        block = torch.randint(1, d_vocab, (lengths[pick],), generator=generator).tolist()
        rows.append([0] + [block[i % len(block)] for i in range(n_ctx - 1)])
    return torch.tensor(rows)


def scattered_slowly(d_vocab, lengths, longest_gap, generator, n_prompts, n_ctx):
    rows = []
    for pick in torch.randint(len(lengths), (n_prompts,), generator=generator).tolist():
        length = lengths[pick]
        block = torch.randint(1, d_vocab, (length,), generator=generator).tolist()
        row = [0]
        for gap in torch.randint(longest_gap + 1, (n_ctx // length + 1,), generator=generator).tolist():
            row += torch.randint(1, d_vocab, (gap,), generator=generator).tolist() + block
        rows.append(row[:n_ctx])
    return torch.tensor(rows)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    d_vocab=st.integers(2, 300),
    shortest=st.integers(1, 10),
    more=st.integers(0, 10),
    room=st.integers(0, 60),
    gap=st.integers(0, 9),
    n_prompts=st.integers(1, 50),
)
def test_copies_are_bit_for_bit_those_of_the_row_by_row_loop(seed, d_vocab, shortest, more, room, gap, n_prompts):
    lengths, n_ctx = range(shortest, shortest + more + 1), shortest + more + room + 1
    shape = {"n_prompts": n_prompts, "n_ctx": n_ctx}
    ours, theirs = seeded(seed), seeded(seed)
    for _ in range(2):  # the second batch shows that the generator was left where the loop leaves it
        tiled = TiledBlocks(d_vocab, shortest, shortest + more).draw(ours, **shape)
        assert torch.equal(tiled, tiled_slowly(d_vocab, lengths, theirs, **shape))
        scattered = ScatteredCopies(d_vocab, shortest, shortest + more, gap).draw(ours, **shape)
        assert torch.equal(scattered, scattered_slowly(d_vocab, lengths, gap, theirs, **shape))


def test_lengths_left_out_are_never_drawn_and_the_rest_as_the_bundled_model_s_training_drew_them():
    stream = TiledBlocks(256, 4, 60, left_out=(20, 33, 50))
    lengths = [n for n in range(4, 61) if n not in (20, 33, 50)]
    assert stream.lengths == tuple(lengths)
    drawn = stream.draw(seeded(1), n_prompts=48, n_ctx=128)
    assert torch.equal(drawn, tiled_slowly(256, lengths, seeded(1), 48, 128))


@pytest.mark.parametrize("name", SMALL)
def test_every_stream_draws_bos_then_tokens_of_its_vocabulary_and_the_same_twice(name):
    stream = SMALL[name]
    state = torch.random.get_rng_state()
    batch = stream.draw(seeded(), n_prompts=300, n_ctx=33)
    assert batch.shape == (300, 33) and batch.dtype == torch.int64
    assert not batch[:, 0].any() and set(batch[:, 1:].unique().tolist()) == set(range(1, stream.d_vocab))
    assert torch.equal(batch, stream.draw(seeded(), n_prompts=300, n_ctx=33))
    assert not torch.equal(batch, stream.draw(seeded(1), n_prompts=300, n_ctx=33))
    assert torch.equal(state, torch.random.get_rng_state())  # torch's own generator is left alone
    assert stream.draw(seeded(), n_prompts=1, n_ctx=10).shape == (1, 10)


def test_streams_go_by_name():
    for name, kind in STREAMS.items():
        assert kind().draw(seeded(), n_prompts=2, n_ctx=40).shape == (2, 40), name


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.5])
def test_tokens_have_zipfian_frequencies(exponent):
    expected = torch.arange(1, 20, dtype=torch.float64) ** -exponent
    expected = expected / expected.sum()
    for stream in (
        ZipfianTokens(20, exponent),
        TiledBlocks(20, 30, 30, exponent=exponent),
        ScatteredCopies(20, 10, 20, exponent=exponent),
    ):
        tokens = stream.draw(seeded(), n_prompts=4000, n_ctx=31)[:, 1:]
        seen = torch.bincount(tokens.flatten(), minlength=20)[1:] / tokens.numel()
        torch.testing.assert_close(seen.double(), expected, atol=0.01, rtol=0)


def test_zipfian_copies_still_copy():
    for row in TiledBlocks(64, 5, 9, exponent=1.0).draw(seeded(), n_prompts=50, n_ctx=64):
        assert any(torch.equal(row[1 + p :], row[1:-p]) for p in range(5, 10))
    for row in ScatteredCopies(500, 6, 6, 8, exponent=0.2).draw(seeded(), n_prompts=50, n_ctx=64):
        windows = Counter(tuple(window) for window in row[1:].unfold(0, 6, 1).tolist())
        assert windows.most_common(1)[0][1] >= 3  # 63 tokens hold 4 times 6 + 8 and some


def test_a_chain_runs_by_its_transitions_from_its_stationary_distribution():
    class OneChain(MarkovChains):
        def transitions(self, generator, n_prompts):
            return torch.tensor([[0.1, 0.9, 0.0], [0.0, 0.5, 0.5], [0.7, 0.0, 0.3]]).double().expand(n_prompts, 3, 3)

    stream = OneChain(3)
    states = stream.draw(seeded(), n_prompts=5000, n_ctx=33)[:, 1:] - 1
    chain = stream.transitions(seeded(), 1)[0]
    pairs = torch.zeros(3, 3).double()
    for here, there in zip(states[:, :-1].flatten().tolist(), states[:, 1:].flatten().tolist(), strict=True):
        pairs[here, there] += 1
    torch.testing.assert_close(pairs / pairs.sum(1, keepdim=True), chain, atol=0.01, rtol=0)
    assert not pairs[chain == 0].any()
    long_run = torch.linalg.matrix_power(chain, 200)[0]
    for place in (0, 1, 31):  # stationary from the first state on
        torch.testing.assert_close(torch.bincount(states[:, place]) / 5000, long_run.float(), atol=0.03, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n_states=st.integers(2, 12),
    concentration=st.sampled_from([1e-4, 0.01, 0.1, 1.0, 30.0, 1e5]),
    both=st.booleans(),
)
@example(seed=4141180, n_states=6, concentration=30.0, both=True)  # what is short of 1 is rounding alone
def test_transitions_are_chances_and_the_long_run_stays_as_it_is(seed, n_states, concentration, both):
    chains = MarkovChains(n_states, concentration, both).transitions(seeded(seed), 20)
    assert (chains >= 0).all()
    torch.testing.assert_close(chains.sum(-1), torch.ones(20, n_states).double(), atol=1e-9, rtol=0)
    if both:
        torch.testing.assert_close(chains.sum(-2), torch.ones(20, n_states).double(), atol=1e-9, rtol=0)
    frequencies = stationary_distribution(chains)
    torch.testing.assert_close(frequencies.sum(-1), torch.ones(20).double())
    torch.testing.assert_close((frequencies[:, None] @ chains)[:, 0], frequencies, atol=1e-6, rtol=0)


@pytest.mark.parametrize("concentration", [0.05, 1.0, 4.0])
def test_rows_have_the_moments_of_a_dirichlet_distribution(concentration):
    rows = random_rows((40_000, 3), concentration, seeded())
    torch.testing.assert_close(rows.mean(0), torch.full((3,), 1 / 3).double(), atol=0.01, rtol=0)
    variance = (1 / 3) * (2 / 3) / (3 * concentration + 1)
    torch.testing.assert_close(rows.var(0), torch.full((3,), variance).double(), atol=0.004, rtol=0)


def test_scaling_to_doubly_stochastic_keeps_the_cross_ratios_and_what_is_so_already():
    matrix = random_rows((1, 4, 4), 1.0, seeded())
    scaled = doubly_stochastic(matrix)
    ratio = [m[0, 0, 0] * m[0, 1, 1] / (m[0, 0, 1] * m[0, 1, 0]) for m in (matrix, scaled)]
    torch.testing.assert_close(ratio[0], ratio[1], rtol=1e-4, atol=0)  # rows and columns were scaled, nothing else
    torch.testing.assert_close(doubly_stochastic(scaled), scaled, rtol=1e-5, atol=1e-8)
    triangular = torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]).double()  # only its limit, the identity, is
    assert (doubly_stochastic(triangular)[0] - torch.eye(2)).abs().max() < 0.02


def test_doubly_stochastic_chains_visit_all_states_alike_and_others_do_not():
    spread = {}
    for both in (False, True):
        tokens = MarkovChains(3, doubly_stochastic=both).draw(seeded(), n_prompts=200, n_ctx=1000)[:, 1:]
        shares = torch.stack([(tokens == state).float().mean(1) for state in (1, 2, 3)])
        spread[both] = float((shares - 1 / 3).abs().mean())
    assert spread[True] < 0.02 and spread[False] > 0.1


def predictors_slowly(row, n_states, concentration):
    unigrams, bigrams = [], []
    for t, token in enumerate(row):
        counts = [sum(other == state for other in row[: t + 1]) for state in range(1, n_states + 1)]
        pairs = [
            sum(row[s] == token != 0 and row[s + 1] == state for s in range(t)) for state in range(1, n_states + 1)
        ]
        for out, seen in ((unigrams, counts), (bigrams, pairs)):
            out.append([(n + concentration) / (sum(seen) + n_states * concentration) for n in seen])
    return unigrams, bigrams


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 4), min_size=12, max_size=12), min_size=1, max_size=4),
    concentration=st.sampled_from([0.1, 1.0, 3.0]),
)
def test_predictors_count_what_the_prompt_held_so_far(rows, concentration):
    tokens = torch.tensor(rows)
    slow = [predictors_slowly(row, 4, concentration) for row in rows]
    for i, predict in enumerate((in_context_unigrams, in_context_bigrams)):
        found = predict(tokens, 4, concentration=concentration)
        torch.testing.assert_close(found, torch.tensor([both[i] for both in slow]))
        beginning = predict(tokens[:, :7], 4, concentration=concentration)
        torch.testing.assert_close(beginning, found[:, :7])  # nothing later is seen


def test_bigrams_predict_chains_better_than_unigrams_and_those_better_than_chance():
    def loss(predictions, tokens):
        right = predictions[:, 1:-1].gather(2, tokens[:, 2:, None] - 1)
        return float(-right.log().mean())

    tokens = MarkovChains(3).draw(seeded(), n_prompts=300, n_ctx=100)
    unigrams, bigrams = loss(in_context_unigrams(tokens, 3), tokens), loss(in_context_bigrams(tokens, 3), tokens)
    assert bigrams < unigrams - 0.1 and unigrams < 1.0986 - 0.05  # ln 3
    tokens = MarkovChains(3, doubly_stochastic=True).draw(seeded(), n_prompts=300, n_ctx=100)
    assert abs(loss(in_context_unigrams(tokens, 3), tokens) - 1.0986) < 0.03  # says nothing


def test_after_a_trigger_comes_its_output_and_elsewhere_the_world_s_bigrams():
    stream = TriggerBigrams(12, n_triggers=3, concentration=0.5)
    triggers = set(stream.world.triggers.tolist())
    batch = stream.draw(seeded(), n_prompts=2000, n_ctx=64).tolist()
    outputs, pairs = [], torch.zeros(11, 11).double()
    for row in batch:
        given = {}
        for here, there in zip(row[1:], row[2:], strict=False):
            if here in triggers:
                assert given.setdefault(here, there) == there and there not in triggers
            else:
                pairs[here - 1, there - 1] += 1
        outputs += [given.get(trigger) for trigger in sorted(triggers)]
    usual = [t - 1 for t in range(1, 12) if t not in triggers]
    torch.testing.assert_close(
        (pairs / pairs.sum(1, keepdim=True))[usual], stream.world.bigrams[usual], atol=0.02, rtol=0
    )
    seen = Counter(output for output in outputs if output)
    assert set(seen) == {t + 1 for t in usual} and min(seen.values()) > 0.85 * max(seen.values())  # uniform
    first = torch.tensor([row[1] for row in batch])
    torch.testing.assert_close(
        torch.bincount(first, minlength=12)[1:] / 2000, stream.world.first.float(), atol=0.04, rtol=0
    )


def test_triggers_are_the_commonest_tokens_and_the_world_is_its_seed_s():
    world = TriggerBigrams(30).world
    common = sorted(range(29), key=lambda i: -float(world.first[i]))[:5]
    assert world.triggers.tolist() == sorted(i + 1 for i in common)
    assert torch.equal(world.bigrams, TriggerBigrams(30).world.bigrams)
    assert not torch.equal(world.bigrams, TriggerBigrams(30, world_seed=1).world.bigrams)


def test_trigger_outputs_are_told_from_a_trigger_s_second_occurrence_on():
    stream = TriggerBigrams(20, n_triggers=3)
    tokens = stream.draw(seeded(), n_prompts=40, n_ctx=50)
    found = stream.trigger_outputs(tokens)
    triggers = stream.world.triggers.tolist()
    slow = [[x in triggers and x in row[:t] for t, x in enumerate(row)] for row in tokens.tolist()]
    assert found.tolist() == slow and found.any()
    for row, mask in zip(tokens.tolist(), found.tolist(), strict=True):
        for t in (t for t in range(49) if mask[t]):
            assert row[t + 1] == row[row.index(row[t]) + 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TiledBlocks(1), "`d_vocab` must be 2 or more"),
        (lambda: TiledBlocks(shortest=0), "1 token or more"),
        (lambda: TiledBlocks(shortest=9, longest=8), "`shortest` <= `longest`"),
        (lambda: TiledBlocks(shortest=4, longest=5, left_out=(4, 5)), "must leave a length between 4 and 5"),
        (lambda: TiledBlocks(exponent=-1.0), "`exponent` must be 0"),
        (lambda: ScatteredCopies(exponent=float("nan")), "`exponent` must be 0"),
        (lambda: ScatteredCopies(longest_gap=-1), "`longest_gap` must be 0 or more"),
        (lambda: ZipfianTokens(exponent=float("inf")), "`exponent` must be 0"),
        (lambda: MarkovChains(1), "`n_states` must be 2 or more"),
        (lambda: MarkovChains(concentration=0.0), "`concentration` must be positive"),
        (lambda: TriggerBigrams(concentration=-1.0), "`concentration` must be positive"),
        (lambda: TriggerBigrams(7, n_triggers=6), "`n_triggers` must be between 1 and 5"),
        (lambda: TriggerBigrams(n_triggers=0), "`n_triggers` must be between 1 and 62"),
        (lambda: TiledBlocks().draw(seeded(), n_prompts=2, n_ctx=31), "Blocks must fit behind BOS"),
        (lambda: ScatteredCopies().draw(seeded(), n_prompts=2, n_ctx=12), "Blocks must fit behind BOS"),
        (lambda: ZipfianTokens().draw(seeded(), n_prompts=0, n_ctx=12), "1 prompt or more"),
        (lambda: MarkovChains().draw(seeded(), n_prompts=1, n_ctx=1), "2 tokens or more"),
        (lambda: MarkovChains().transitions(seeded(), -1), "1 prompt or more"),
        (lambda: TriggerBigrams().draw(seeded(), n_prompts=1, n_ctx=0), "2 tokens or more"),
        (lambda: in_context_unigrams(torch.tensor([[0, 4]]), 3), "a state, 1 to 3, got tokens from 0 to 4"),
        (lambda: in_context_bigrams(torch.tensor([[0, 1]]), 3, concentration=0.0), "`concentration` must be positive"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
