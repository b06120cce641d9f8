"""One text on a page: what it holds, that nothing in it runs but its own script, and the command that writes it."""

import json
import math
import re
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import pytest
from pages import HOSTILE, hostile_model

from induction_lab import classify_heads, induction_activity, repeated_tokens, write_activity, write_report


def data_of(path):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found)["tokens"]


class Spans(HTMLParser):
    """The tokens' spans as a browser reads them, and every element's name."""

    def __init__(self):
        super().__init__()
        self.spans, self.elements, self.inside = [], [], False

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.inside = "token" in (dict(attrs).get("class") or "").split()
        if self.inside:
            self.spans.append([dict(attrs), ""])

    def handle_data(self, data):
        if self.inside:
            self.spans[-1][1] += data

    def handle_endtag(self, tag):
        self.inside = False


def test_every_token_holds_how_it_was_predicted(bundled, tmp_path):
    found = induction_activity(bundled, repeated_tokens(bundled, n_prompts=1, period=9))
    path = write_activity(found, tmp_path / "text.html")
    tokens = data_of(path)
    predicted, heads = found.predicted, found.heads
    assert len(tokens) == len(predicted) == 19 and tokens[0]["nats"] is None and tokens[0]["heads"] == []
    for row, token in zip(predicted.to_dict("records"), tokens, strict=True):
        assert token["text"] == row["token"]
        if row["position"] == 0:
            continue
        ratio = math.exp(row["log_p_without"] - row["log_p"])
        share = max(0.0, 1 - ratio) if row["log_p"] >= math.log(0.01) else 0.0
        assert token["share"] == pytest.approx(share, abs=1e-3)
        behind = heads[heads["position"] == row["position"] - 1].set_index("label")
        assert {head["label"] for head in token["heads"]} == set(behind.index)
        for head in token["heads"]:
            assert head["attention"] == pytest.approx(behind.loc[head["label"], "attention"], abs=1e-4)
            assert head["logit"] == pytest.approx(behind.loc[head["label"], "logit"], abs=1e-4)
            assert head["at"] == (behind.loc[head["label"], "looks_at"] if head["at"] is not None else None)
    assert max(token["share"] for token in tokens[11:]) > 0.9 > 0.2 > max(token["share"] for token in tokens[:9])
    page = Spans()
    page.feed(path.read_text())
    assert [text for _, text in page.spans] == predicted["token"].tolist()
    assert f"--share: {tokens[-1]['share']}" == page.spans[-1][0]["style"]
    marked = ["counts" in span["class"].split() for span, _ in page.spans]
    assert marked[1:] == found.is_from_context.tolist()[:-1] and any(marked) and not all(marked[1:])
    assert "http" not in path.read_text().replace("http-equiv", "")  # it stands alone


def test_markup_in_tokens_and_names_is_text(tmp_path):
    model = hostile_model()
    found = induction_activity(model, "one two one two one", ["L2H0", "L1H1"])
    path = write_activity(found, tmp_path / "text.html")
    page = Spans()
    page.feed(path.read_text())
    assert page.elements.count("script") == 2 and "img" not in page.elements  # its data and its own script
    assert [text for _, text in page.spans] == found.tokens["token"].tolist()
    assert any("<img" in text for _, text in page.spans)
    assert HOSTILE not in path.read_text() and len(data_of(path)) == len(found.tokens)


def test_what_is_no_page_is_refused(bundled, tmp_path, monkeypatch, capsys):
    from induction_lab.cli.app import main

    found = induction_activity(bundled, repeated_tokens(bundled, n_prompts=1, period=5))
    with pytest.raises(ValueError, match=r"written to a page, .html, got 'text.pdf'"):
        write_activity(found, tmp_path / "text.pdf")
    monkeypatch.setattr("sys.argv", ["induction-lab", "activity", "--text", "a b", "--html", "text.pdf"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "written to a page" in capsys.readouterr().err


def test_the_command_writes_the_page_beside_the_table(tmp_path, monkeypatch, capsys, smollm2):
    from induction_lab.cli.app import main

    monkeypatch.chdir(tmp_path)
    arguments = ["--text", "The zorblat quexed.\nThe zorblat quexed.", "--heads", "L18H6", "--html", "pages/z.html"]
    monkeypatch.setattr("sys.argv", ["induction-lab", "activity", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None) and "z.html" in capsys.readouterr().out
    page = Spans()
    page.feed((tmp_path / "pages" / "z.html").read_text())
    assert "The zorblat" in "".join(text for _, text in page.spans).replace("\\n", "\n") and "br" in page.elements
    assert (tmp_path / "results" / "smollm2-135m_activity.csv").is_file()


def test_what_cannot_become_a_page_is_refused_before_anything_is_measured(bundled, tmp_path, command, unchecked):
    (tmp_path / "folder.html").mkdir()
    found = induction_activity(bundled, repeated_tokens(bundled, n_prompts=1, period=5))
    assert write_activity(found, tmp_path / "text.HTML").is_file()
    for write in (partial(write_activity, found), partial(write_report, bundled)):
        with pytest.raises(ValueError, match="folder.html is a folder; a file is wanted"):
            write(tmp_path / "folder.html")
    with pytest.raises(ValueError, match="`found` must be TextActivity, from `induction_activity`; got HeadKinds"):
        write_activity(classify_heads(bundled, kinds="previous-token"), tmp_path / "text.html")
    code, _, said = command("activity", "./no-model", "--text", "a b", "--html", "folder.html")
    assert code == 2 and "is a folder" in said  # before a model is looked for


def test_how_many_tokens_come_from_context_is_a_sentence(bundled, tmp_path):
    found = induction_activity(bundled, repeated_tokens(bundled, n_prompts=1, period=5), ["L1H3"])
    known = found.tokens["from_context"].notna()
    for lost, said in (
        (
            [],
            "none comes from context: no probability falls from 1 % or more to half or less when L1H3 is replaced by",
        ),
        ([3], "1 comes from context: its probability falls from 1 % or more to half or less when L1H3"),
        ([3, 4], "2 come from context: their probabilities fall from 1 % or more to half or less when L1H3"),
    ):
        nats = found.tokens["position"].isin(lost).astype(float).where(known)
        made = replace(found, tokens=found.tokens.assign(from_context=nats, log_p=math.log(0.01)))
        shown = " ".join(write_activity(made, tmp_path / "text.html").read_text().replace("&nbsp;", " ").split())
        assert f"Of 10 predicted tokens, {said}" in shown and made.chance in shown
