import pytest
import torch
from families import random_network
from scripts import script, verdicts_of
from worded import worded, worded_folder

from induction_lab import HookedModel, capture, load_model
from induction_lab.models.head_weights import output_weight

subspaces, topics, senses, prose = (
    script(f"essay.{name}") for name in ("geometry.subspaces", "geometry.topics", "geometry.senses", "prose")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that knows every word of the openings and the prose."""
    said = tmp_path_factory.mktemp("subspaces") / "said.txt"
    said.write_text(" ".join((senses.DATA.read_text(), prose.TEXTS.read_text(), senses.NEUTRAL)))
    return worded_folder(said, said.parent / "words")


def test_bases_span_what_heads_write():
    model = worded()
    found = subspaces.bases(model)
    for layer in range(model.n_layers):
        for head, rows in enumerate(output_weight(model, layer)):
            basis = found[layer, head]
            torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)))
            torch.testing.assert_close(rows @ basis.T @ basis, rows, atol=1e-5, rtol=1e-5)


def test_a_norm_behind_the_heads_is_in_their_spaces():
    torch.manual_seed(0)
    model = HookedModel(random_network("gemma3"), name="gemma3")
    norm = model.anatomy.norm_after(0)
    assert norm is not None
    with torch.no_grad():
        norm.weight.normal_(0.0, 0.5)
    basis = subspaces.bases(model)[0]
    written = output_weight(model, 0) * (1 + norm.weight.detach())
    for head in range(model.n_heads):
        torch.testing.assert_close(written[head] @ basis[head].T @ basis[head], written[head], atol=1e-4, rtol=1e-4)


def test_spaces_overlap_by_their_principal_angles_and_random_ones_not_at_all():
    generator = torch.Generator().manual_seed(0)
    turned = [subspaces.turned(torch.zeros(8, 40), generator) for _ in range(60)]
    a, b = turned[:2]
    found = subspaces.space_overlaps(torch.stack([a, b, a]))
    angles = torch.linalg.svdvals(a @ b.T)
    assert float(found[0, 1]) == pytest.approx((float(angles.square().mean()) - 0.2) / 0.8, abs=1e-5)
    assert float(found[0, 2]) == pytest.approx(1.0, abs=1e-5)
    assert abs(sum(subspaces.within_layers(subspaces.space_overlaps(torch.stack(turned)), 60))) < 0.01
    apart = subspaces.space_overlaps(torch.eye(40)[:16].reshape(2, 8, 40))
    assert float(apart[0, 1]) == pytest.approx(-0.25)


def test_covariances_overlap_by_their_cosine_and_randomly_turned_ones_not_at_all():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 200, 20, generator=generator) * torch.linspace(3, 0, 20)
    turns = torch.linalg.qr(torch.randn(30, 20, 20, generator=generator))[0]
    cov = turns @ (x.mT @ x) @ turns.mT
    assert abs(subspaces.within_layers(subspaces.covariance_overlaps(cov), 30)[0]) < 0.02
    found = subspaces.covariance_overlaps(torch.stack([cov[0], cov[1], 4 * cov[0]]))
    cosine = torch.cosine_similarity(cov[0].flatten(), cov[1].flatten(), dim=0)
    chance = cov[0].trace() * cov[1].trace() / 20 / cov[0].norm() / cov[1].norm()
    assert float(found[0, 1]) == pytest.approx(float((cosine - chance) / (1 - chance)), abs=1e-5)
    assert float(found[0, 2]) == pytest.approx(1.0, abs=1e-5)


def test_covariances_are_of_what_heads_write_without_bos(folder):
    model = load_model(folder)
    found = subspaces.covariances(model, subspaces.bases(model))[subspaces.WRITTEN]
    prompts, _ = prose.as_tokens(model, prose.read_prose())
    rows = []
    for tokens, length in zip(prompts.tokens, prompts.lengths.tolist(), strict=True):
        rows.append(capture(model, tokens[None, :length], "result", layers=1)["result", 1][0, 1:, 2])
    direct = torch.cov(torch.cat(rows).T.double(), correction=0)
    torch.testing.assert_close(found[4 + 2].double(), direct, atol=1e-4, rtol=1e-3)


def test_pairs_are_of_one_layer_or_of_two():
    overlaps = torch.arange(36.0).reshape(6, 6)
    overlaps = (overlaps + overlaps.T) / 2
    within = [float(overlaps[a, a + 1]) for a in (0, 2, 4)]
    assert subspaces.within_layers(overlaps, 2) == pytest.approx(within)
    first = [float(overlaps[a, b]) for a in (0, 1) for b in (2, 3, 4, 5)]
    assert subspaces.between_layers(overlaps, 2)[0] == pytest.approx(sum(first) / 8)


def test_pulls_are_cosines_of_halves(folder):
    model, words = load_model(folder), senses.load_words(senses.DATA)[:3]
    read, labels = senses.read_words(model, words), words[0].labels
    found = subspaces.pulls(model, read, labels)
    heads = subspaces.head_outputs(model, read.z[:, 1])
    ways = [heads[:, start:6:2].mean(1) - heads[:, 6 + start :: 2].mean(1) for start in (0, 1)]
    own = [float(torch.cosine_similarity(ways[0][h], ways[1][h], dim=0)) for h in range(4, 8)]
    assert float(found[subspaces.OWN_PULL, subspaces.WITHIN][1]) == pytest.approx(sum(own) / 4, abs=1e-5)
    pairs = [(g, h) for g in range(4, 8) for h in range(4, 8) if g != h]
    other = [float(torch.cosine_similarity(ways[0][g], ways[1][h], dim=0)) for g, h in pairs]
    assert float(found[subspaces.PULLS, subspaces.WITHIN][1]) == pytest.approx(sum(other) / 12, abs=1e-5)


def test_it_writes_verdicts_and_a_picture(folder, tmp_path):
    subspaces.main(["--models", str(folder), "--words", "3", "--out", str(tmp_path)])
    assert (tmp_path / "subspaces.png").exists() and len(verdicts_of(tmp_path / "subspaces.json")) == 3
    subspaces.main(["--tables", str(tmp_path / "subspaces.csv"), "--out", str(tmp_path / "again")])


def test_too_few_words_are_told(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        subspaces.main(["--models", str(folder), "--words", "2", "--out", str(tmp_path)])
    assert "--words must be at least 3" in capsys.readouterr().err
