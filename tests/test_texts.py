import pytest
import torch

from induction_lab.texts import read_texts, standard_library, text_batches


def test_text_survives_the_round_trip_and_batches_are_pieces_of_it(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat. " * 50 + "Grüße, 猫!")
    text = read_texts([tmp_path / "a.txt"], 300)
    assert text.tokenizer.decode(text.tokens) == (tmp_path / "a.txt").read_text()
    assert text.d_vocab <= 300 and int(text.tokens.min()) > 0  # BOS is not in it
    batch = text_batches(text, 12, torch.Generator().manual_seed(0), n_prompts=20)
    windows = {tuple(window.tolist()) for window in text.tokens.unfold(0, 11, 1)}
    assert batch.shape == (20, 12) and not batch[:, 0].any()
    assert all(tuple(row[1:].tolist()) in windows for row in batch)


def test_every_place_can_be_drawn_the_last_too(tmp_path):
    (tmp_path / "a.txt").write_text("abcdef")
    text = read_texts([tmp_path / "a.txt"], 257)
    rows = text_batches(text, 5, torch.Generator().manual_seed(0), n_prompts=200)[:, 1:]
    assert {text.tokenizer.decode(row) for row in rows} == {"abcd", "bcde", "cdef"}


def test_the_standard_library_is_there():
    text = standard_library(400)
    assert text.d_vocab == 400 and len(text.tokens) > 1_000_000
    assert "import" in text.tokenizer.decode(text.tokens[:2000])


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"a\.txt cannot be read as UTF-8"):
        read_texts([tmp_path / "a.txt"])
    with pytest.raises(ValueError, match="got none"):
        read_texts([])
