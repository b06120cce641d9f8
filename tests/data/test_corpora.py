import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from induction_lab.data import corpora as texts, text_files as documents
from induction_lab.data.corpora import TextFiles, TokenFile
from induction_lab.runtime.machine import CACHE_VARIABLE

WORDS = "the cat sat on the mat and the dog ran after a bird over hill and dale".split()


def write_some(folder: Path, n: int = 10, seed: int = 0) -> tuple[str, ...]:
    """`n` files of random sentences, the number of the file in each line."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        lines = (" ".join(rng.choice(WORDS, 6)) + f", said number {i}.\n" for _ in range(20))
        (folder / f"{i:02d}.txt").write_text("".join(lines))
    return (str(folder),)


def split_at_bos(tokens: np.ndarray) -> list[list[int]]:
    starts = [*np.flatnonzero(tokens == 0).tolist(), len(tokens)]
    assert starts[0] == 0
    return [tokens[a + 1 : b].tolist() for a, b in zip(starts, starts[1:], strict=False)]


def test_the_standard_library_is_there(tmp_path):
    text = TextFiles(d_vocab=400).prepare(tmp_path)
    assert text.d_vocab == 400 and len(text.train) > 1_000_000 and len(text.held_out) > 50_000
    assert "import" in text.tokenizer.decode(text.train[:2000].tolist())


def test_documents_come_back_whole_every_nth_in_the_part_held_out(tmp_path):
    files = write_some(tmp_path / "text")
    made = TextFiles(files, 290, held_out=0.2).prepare(tmp_path / "tokens")
    written = [path.read_text() for path in sorted((tmp_path / "text").iterdir())]
    for part, expected in (
        (made.train, [t for i, t in enumerate(written) if i % 5 != 4]),
        (made.held_out, written[4::5]),
    ):
        assert isinstance(part, np.memmap) and part.dtype == np.uint16
        assert [made.tokenizer.decode(document) for document in split_at_bos(part)] == expected
    assert made.d_vocab == 290 == len(made.tokenizer) and made.tokenizer.bos_token_id == 0
    assert made.facts["documents"] == 10 and made.facts["train_tokens"] == len(made.train)
    assert {path.name for path in made.folder.iterdir()} == {
        "train.bin", "held_out.bin", "tokenizer.json", "facts.json"
    }  # fmt: skip


def test_the_vocabulary_is_learnt_from_the_part_to_train_on_alone(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(("zebra " if i == 3 else "tiger lion ") * 200)
    learnt = TextFiles((str(tmp_path),), 262, held_out=0.25).prepare(tmp_path / "tokens")
    assert [learnt.tokenizer.decode(document) for document in split_at_bos(learnt.held_out)] == ["zebra " * 200]
    assert not any("z" in token for token in learnt.tokenizer.get_vocab() if len(token) > 1 and token != "<bos>")


def test_draws_are_pieces_of_the_part_that_is_asked_for(tmp_path):
    made = TextFiles(write_some(tmp_path / "text"), 280).prepare(tmp_path / "tokens")
    for held_out, part in ((False, made.train), (True, made.held_out)):
        windows = {tuple(w) for w in np.lib.stride_tricks.sliding_window_view(part, 11).tolist()}
        batch = made.draw(torch.Generator().manual_seed(0), n_prompts=50, n_ctx=12, held_out=held_out)
        assert batch.shape == (50, 12) and batch.dtype == torch.int64 and not batch[:, 0].any()
        assert all(tuple(row[1:]) in windows for row in batch.tolist())
    n_ctx = len(made.held_out)  # two places: the first and the last
    ends = made.draw(torch.Generator().manual_seed(0), n_prompts=20, n_ctx=n_ctx, held_out=True)[:, -1]
    assert set(ends.tolist()) == set(made.held_out[-2:].tolist())


def test_the_same_text_is_prepared_once_and_a_changed_one_or_other_settings_anew(tmp_path, monkeypatch):
    text = TextFiles(write_some(tmp_path / "text"), 280)
    first = text.prepare(tmp_path / "a")
    again = text.prepare(tmp_path / "b")  # elsewhere, the same bytes
    for name in ("train.bin", "held_out.bin", "tokenizer.json", "facts.json"):
        assert (first.folder / name).read_bytes() == (again.folder / name).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(texts, "_learn_vocabulary", lambda *_: pytest.fail("prepared twice"))
        assert text.prepare(tmp_path / "a").folder == first.folder
    others = [TextFiles(text.files, 281), TextFiles(text.files, 280, 0.3), TextFiles(text.files, 280, separator="\n")]
    folders = {other.prepare(tmp_path / "a").folder for other in others}
    (tmp_path / "text" / "00.txt").write_text("another cat, another mat")
    folders.add(text.prepare(tmp_path / "a").folder)
    assert len(folders | {first.folder}) == 5


def test_interrupted_nothing_is_left_and_what_a_killed_process_left_is_removed(tmp_path, monkeypatch):
    text = TextFiles(write_some(tmp_path / "text"), 280)
    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", lambda *args, **kinds: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(TextFiles, "_key", lambda self, files: "key")
        with pytest.raises(KeyboardInterrupt):
            text.prepare(tmp_path / "tokens")
        assert [path.name for path in (tmp_path / "tokens").iterdir() if path.is_dir()] == []
    key = text.prepare(tmp_path / "elsewhere").folder.name
    (tmp_path / "tokens" / f".{key}-part-dead").mkdir()
    (tmp_path / "tokens" / key).mkdir()  # without facts.json: not finished
    made = text.prepare(tmp_path / "tokens")
    assert len(made.train) and [p for p in (tmp_path / "tokens").iterdir() if p.is_dir()] == [made.folder]


def test_several_processes_may_prepare_at_once(tmp_path):
    files = write_some(tmp_path / "text", 30)
    code = f"from pathlib import Path; from induction_lab.data.corpora import TextFiles; print(len(TextFiles({files!r}, 280).prepare(Path({str(tmp_path / 'tokens')!r})).train))"  # noqa: E501
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate()[0] for run in runs]
    assert len(set(said)) == 1 and int(said[0]) > 1000 and not any(run.returncode for run in runs)


def test_killed_while_it_writes_the_next_call_starts_anew(tmp_path):
    text = TextFiles(write_some(tmp_path / "text"), 280)
    code = f"""
import time; from pathlib import Path; from induction_lab.data import corpora as texts
texts._write = lambda part, *rest: ((part / "train.bin").write_bytes(b"half"), time.sleep(60))
texts.TextFiles({text.files!r}, 280).prepare(Path({str(tmp_path / "tokens")!r}))
"""
    run = subprocess.Popen([sys.executable, "-c", code])
    for _ in range(400):
        if list((tmp_path / "tokens").glob(".*-part-*/train.bin")):
            break
        time.sleep(0.05)
    run.kill()
    run.wait()
    assert list((tmp_path / "tokens").glob(".*-part-*")) and not list((tmp_path / "tokens").glob("[!.]*"))
    assert len(text.prepare(tmp_path / "tokens").train) > 1000
    assert not list((tmp_path / "tokens").glob(".*-part-*"))


@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(st.text(alphabet="ab \n\t\u00a0é.'", max_size=60), max_size=12),
    separator=st.sampled_from(["", "|", "\n|\n", "|\n|"]),
    piece=st.integers(1, 20),
)
def test_pieces_are_the_documents_cut_where_tokens_begin(tmp_path_factory, parts, separator, piece):
    folder = tmp_path_factory.mktemp("text")
    whole = (separator or "\n").join(parts)
    (folder / "a.txt").write_text(whole, newline="")
    (folder / "b.txt").write_text("tail")
    expected = [d for d in (whole.split(separator) if separator else [whole]) if d] + ["tail"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE", piece)
        found = list(documents.pieces([folder / "a.txt", folder / "b.txt"], separator))
    joined = ["".join(text for number, text in found if number == n) for n in range(len(expected))]
    assert joined == expected and all(text for _, text in found)
    tokenizer = texts._learn_vocabulary([whole, "a b\n\na ab.\n  b"], 300)
    for n, document in enumerate(expected):
        in_pieces = [token for number, text in found if number == n for token in tokenizer.encode(text).ids]
        assert in_pieces == tokenizer.encode(document).ids


def test_pieces_of_long_texts_are_short_and_their_hash_is_the_text_s(tmp_path, monkeypatch):
    (tmp_path / "long.txt").write_text("".join(f"line {i} of many\n\n  {i}\n" for i in range(20_000)))
    found = documents.survey([tmp_path / "long.txt"], "")
    longest = max(len(text) for _, text in documents.pieces([tmp_path / "long.txt"], ""))
    assert found[0] == 1 and found[1] > 5 and longest < documents.PIECE + 100
    monkeypatch.setattr(documents, "PIECE", 1000)
    assert documents.survey([tmp_path / "long.txt"], "")[2] == found[2]
    assert documents.survey([tmp_path / "long.txt"], "line")[2] != found[2]


def test_the_progress_bar_ends_where_it_should(tmp_path, monkeypatch):
    seen = []

    @contextmanager
    def bar(total, description, *, shown):
        seen.extend([total, shown])
        yield seen.append

    monkeypatch.setattr(texts, "progress_bar", bar)
    TextFiles(write_some(tmp_path / "text"), 280).prepare(tmp_path / "tokens", progress=True)
    assert seen[1] is True and sum(seen[2:]) == seen[0] == 20


def test_a_text_that_says_bos_holds_its_letters(tmp_path):
    (tmp_path / "a.txt").write_text("one <bos> two " * 30)
    (tmp_path / "b.txt").write_text("<bos>")
    made = TextFiles((str(tmp_path),), 262, held_out=0.5).prepare(tmp_path / "tokens")
    assert (made.train == 0).sum() == (made.held_out == 0).sum() == 1
    assert made.tokenizer.decode(made.held_out[1:].tolist()) == "<bos>"


def test_files_folders_and_globs_are_found_hidden_ones_and_others_not(tmp_path):
    for name in ("a.txt", "b.log", "below/c.md", "below/d.py", ".hidden/e.txt", "below/.f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    root = tmp_path.resolve()
    assert sorted(documents.matches(str(tmp_path))) == [root / "a.txt", root / "below/c.md", root / "below/d.py"]
    assert documents.matches(str(tmp_path / "*.log")) == [root / "b.log"]
    assert sorted(documents.matches(str(tmp_path / "**" / "*.py"))) == [root / "below/d.py"]
    twice = TextFiles((str(tmp_path), str(tmp_path / "a.txt")))._paths()
    assert len(twice) == len(set(twice)) == 3


def test_large_vocabularies_take_four_bytes_a_token():
    assert texts._dtype(65_536) is np.uint16 and texts._dtype(65_537) is np.uint32


def test_without_a_folder_tokens_go_to_the_user_s_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    text = TextFiles(write_some(tmp_path / "text"), 280, held_out=0.0)
    made = text.open()
    assert made.folder.parent == tmp_path / "cache" / "texts" and len(made.held_out) == 0
    batch = text.draw(torch.Generator().manual_seed(1), n_prompts=3, n_ctx=9)
    assert torch.equal(batch, made.draw(torch.Generator().manual_seed(1), n_prompts=3, n_ctx=9))


def test_what_cannot_be_prepared_is_refused_and_named(tmp_path):
    tokens, some = tmp_path / "tokens", write_some(tmp_path / "text")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "file").write_text("")
    for text, message in (
        (TextFiles((str(tmp_path / "no*.txt"),)), r"No text files match '.*no\*\.txt'"),
        (TextFiles((*some, str(tmp_path / "latin.txt"))), r"latin\.txt cannot be read as UTF-8"),
        (TextFiles((str(tmp_path / "empty.txt"),)), "Text is wanted, got 1 empty"),
        (TextFiles((str(tmp_path / "text" / "00.txt"),)), "One document cannot be split"),
        (TextFiles(some, 5000), r"too few different words for 5000 tokens\. Ask for d_vocab=\d+ or less"),
    ):
        with pytest.raises(ValueError, match=message):
            text.prepare(tokens)
        assert not list(tokens.glob("[!.]*")) and not list(tokens.glob(".*-part-*"))
    with pytest.raises(ValueError, match="Tokens cannot be written to"):
        TextFiles(some, 280).prepare(tmp_path / "file")
    with pytest.raises(ValueError, match="holds no prepared tokens"):
        TokenFile(tmp_path)
    made = TextFiles(some, 280).prepare(tokens)
    with pytest.raises(ValueError, match=r"The text held out has \d+ tokens, too few for n_ctx=100000"):
        made.draw(torch.Generator(), n_prompts=1, n_ctx=100_000, held_out=True)
    with pytest.raises(ValueError, match="1 prompt or more"):
        made.draw(torch.Generator(), n_prompts=0, n_ctx=10)
    for wrong, message in (
        ({"d_vocab": 256}, "257 or more"),
        ({"held_out": 0.6}, "a share from 0 to 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            TextFiles(**wrong)
    with pytest.raises((ValueError, TypeError), match="files"):  # the type checker that tests run with is first
        TextFiles("a.txt")  # type: ignore[arg-type]
