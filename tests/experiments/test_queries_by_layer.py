import pandas as pd
import pytest
import torch
from scripts import script, verdicts_of
from worded import worded_folder

from induction_lab import capture, load_model
from induction_lab.internals.residual_stream import residual_streams

by_layer, prose = script("essay.layers.queries_by_layer"), script("essay.prose")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that knows every word of the prose."""
    return worded_folder(prose.TEXTS, tmp_path_factory.mktemp("queries") / "words")


def within_queries(scores):
    """Pairs of one head's scores `[prompt, query, key]`, less their query's mean: written out."""
    found = []
    for prompt in scores:
        for query in range(by_layer.FIRST, len(prompt)):
            row = prompt[query, 1:query]
            found.append(row - row.mean())
    return torch.cat(found)


def test_scores_go_with_others_by_their_correlation_within_queries(folder):
    model = load_model(folder)
    tokens = torch.randint(2, model.d_vocab, (3, 20), generator=torch.Generator().manual_seed(0))
    streams = residual_streams(model, tokens)
    other = torch.randn(3, 20, model.d_model, generator=torch.Generator().manual_seed(1))
    found = by_layer.of_layer(streams, {by_layer.STATIC: other}, 1)
    acts = capture(model, tokens, ["attn_scores", "rot_q", "rot_k"])
    own = within_queries(acts["attn_scores", 1][:, 2])
    lower = streams.attention_at(1, streams.before[0], prompts=torch.arange(3))
    group = model.n_heads // lower.k.shape[1]
    given = streams.attention_at(1, other, prompts=torch.arange(3))
    for (name, way), q, k in (
        ((by_layer.STATIC, 1.0), given.q[:, 2], given.k[:, 2 // group]),
        ((by_layer.EMBEDDED, 0.0), lower.q[:, 2], lower.k[:, 2 // group]),
        ((by_layer.QUERY, 0.0), lower.q[:, 2], acts["rot_k", 1][:, :, 2 // group]),
        ((by_layer.KEY, 0.0), acts["rot_q", 1][:, :, 2], lower.k[:, 2 // group]),
    ):
        other = within_queries(q @ k.mT)
        share = float(torch.corrcoef(torch.stack([own, other]))[0, 1] ** 2)
        assert float(found[name, way][2]) == pytest.approx(share, abs=1e-4)
    first = by_layer.of_layer(streams, {}, 0)
    for name in (by_layer.EMBEDDED, by_layer.QUERY, by_layer.KEY):
        torch.testing.assert_close(first[name, 0.0], torch.ones(model.n_heads), atol=1e-4, rtol=0.0)


def test_tokens_are_read_by_themselves_or_with_few_before_them(folder):
    model = load_model(folder)
    tokens = torch.randint(2, model.d_vocab, (2, 9), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = model.bos_token_id
    neutral = model.tokenizer(by_layer.NEUTRAL, add_special_tokens=False)["input_ids"]
    alone = by_layer.by_themselves(model, tokens)
    few = by_layer.with_few_before(model, streams := residual_streams(model, tokens))
    for row, place in ((0, 5), (1, 8)):
        said = {1: [0, *neutral, int(tokens[row, place])], 4: [0, *tokens[row, place - 3 : place + 1].tolist()]}
        for found, context in ((alone, said[1]), (few, said[4])):
            direct = capture(model, torch.tensor([context]), "resid_pre", layers=1)["resid_pre", 1][0, -1]
            torch.testing.assert_close(found[1, row, place], direct, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(few[1, :, :4], streams.before[1][:, :4])


def test_what_is_put_in_by_distance_or_token_is_found_and_noise_is_not():
    generator = torch.Generator().manual_seed(0)
    n, tokens = 40, torch.randint(0, 6, (8, 40), generator=generator)
    away = (torch.arange(n)[:, None] - torch.arange(n)).clamp(min=0)
    noise = torch.randn(8, 1, n, n, generator=generator)
    distance = torch.randn(n, generator=generator)[away].expand(8, 1, -1, -1)
    token = torch.randn(6, generator=generator)[tokens][:, None, None].expand(-1, -1, n, -1)

    def centred(scores):
        pairs = by_layer.asked(n)
        scores = scores.masked_fill(~pairs, 0.0)
        return (scores - scores.sum(-1, keepdim=True) / pairs.sum(-1, keepdim=True).clamp(min=1)).masked_fill(~pairs, 0)

    for scores, shares in ((distance, [1.0, 0.0]), (token, [0.0, 1.0]), (noise, [0.0, 0.0])):
        scores = centred(scores)
        others = by_layer.by_distance(scores), by_layer.by_token(scores, tokens)
        assert [float(by_layer.goes_with(scores, each)) for each in others] == pytest.approx(shares, abs=0.05)


def test_it_writes_verdicts_and_a_picture(folder, tmp_path):
    by_layer.main(["--models", str(folder), "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "queries_by_layer.csv")
    assert table["value"].between(-1e-6, 1 + 1e-4).all() and (tmp_path / "queries_by_layer.png").exists()
    assert len(verdicts_of(tmp_path / "queries_by_layer.json")) == 2
    by_layer.main(["--tables", str(tmp_path / "queries_by_layer.csv"), "--out", str(tmp_path / "again")])
