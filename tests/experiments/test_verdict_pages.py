"""Pages of verdicts: built from the files alone, all links lead somewhere, English and Chinese say the same."""

import re
import warnings

import pytest
from scripts import EXPERIMENTS, script

FIGURES = EXPERIMENTS.parent / "figures"


@pytest.fixture(scope="module")
def module():
    return script("verdicts")


@pytest.fixture(scope="module")
def built(module):
    return module.pages(FIGURES)


@pytest.fixture(scope="module")
def found(module):
    return script("page_builder.found").read_verdicts(FIGURES, module.Verdict)


def save(module, folder, name="weather", **changes):
    given = {
        "claim": "It rains", "source": "a proverb", "criterion": "drops > 3", "numbers": {"today": "5 drops"},
        "control": "a roof: 0", "outcome": "holds",
    }  # fmt: skip
    module.save_verdicts([module.Verdict(**given | changes)], folder / f"{name}.json")


def test_pages_that_are_committed_are_what_the_files_in_figures_give(module, built):
    assert built == module.pages(FIGURES)
    there = {
        str(path.relative_to(EXPERIMENTS)) for path in [*EXPERIMENTS.glob("*.md"), *EXPERIMENTS.glob("pages/*.md")]
    }
    assert there == set(built)
    stale = [name for name, text in built.items() if (EXPERIMENTS / name).read_text() != text]
    assert not stale, f"{stale} are older than figures/: run `python -m experiments verdicts`"


def test_tables_inside_other_pages_are_what_the_files_give(module, found):
    tables, words = script("page_builder.tables"), script("page_builder.words").Words("en")
    for path in module.WITH_TABLES:
        page = path.read_text()
        assert tables.with_tables(page, found, words) == page, f"{path.name}: run `python -m experiments verdicts`"
    page = module.WITH_TABLES[0].read_text()
    for name, verdicts in found.verdicts.items():
        for i, verdict in enumerate(verdicts):
            link = f"../experiments/pages/{name}.md#claim-{i + 1}"
            assert (link in page) == verdict.source.startswith("essay §"), link
    for wrong, message in (
        ("# A page", "lacks one"),
        ("<!-- verdicts: rain -->\n<!-- end of verdicts -->", "rain: no"),
    ):
        with pytest.raises(ValueError, match=message):
            tables.with_tables(wrong, found, words)


def test_every_link_picture_and_anchor_of_the_pages_leads_somewhere(built):
    for name, text in built.items():
        links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:href|src)="([^"]+)"', text)
        assert links
        for file, _, anchor in (link.partition("#") for link in links):
            there = ((EXPERIMENTS / name).parent / file).resolve() if file else EXPERIMENTS / name
            assert there.exists(), f"{name}: {file}"
            titles = {title.lower() for title in re.findall(r"^#+ (.+)$", there.read_text(), re.M)} if anchor else set()
            assert not anchor or anchor in titles or f'id="{anchor}"' in there.read_text(), f"{name}: {file}#{anchor}"


def test_a_verdict_has_a_row_in_both_languages_and_a_page(module, tmp_path):
    save(module, tmp_path)
    pages = module.pages(tmp_path)
    row = "| [{}](pages/weather.md#claim-1) | {} | today: 5 drops | [`weather`](pages/weather.md) |"
    assert row.format("It rains", "✓ holds") in pages["README.md"]
    assert row.format("It rains （尚无译文）", "✓ 成立") in pages["README.zh.md"]
    page = pages["pages/weather.md"]
    assert "## 1. It rains" in page and "| today | 5 drops |" in page and "Control: a roof: 0" in page
    assert "Measured:" not in page and "What would have" not in page and "Caveat" not in page


def test_rows_stand_under_the_section_of_the_essay_or_the_paper(module, tmp_path):
    for name, source in {"a": "Olsson et al. 2022", "b": "essay §4", "c": "essay §2.1", "d": "seen here"}.items():
        save(module, tmp_path, name, claim=f"claim of {name}", source=source)
    page = module.pages(tmp_path)["README.md"]
    order = ["**§2 ", "claim of c", "**§4 ", "claim of b", "**Olsson et al. 2022**", "claim of a", "claim of d"]
    assert [page.index(each) for each in order] == sorted(page.index(each) for each in order)
    assert "| **§7 Summary** | no experiment of its own" in page


def test_a_figure_has_the_caption_of_its_script_or_what_its_claims_found(module, tmp_path):
    for name in ("weather_map", "weather_rose", "weather_old_map"):
        (tmp_path / f"{name}.png").touch()
    save(module, tmp_path, captions={"weather_map": "It rained on 5 days"})
    save(module, tmp_path, "weather_old", claim="It rained")
    pages = module.pages(tmp_path)
    assert "weather_map.png)\n\n*It rained on 5 days*" in pages["pages/weather.md"]
    assert "weather_rose.png)\n\n*It rains: **✓ holds** (today: 5 drops).*" in pages["pages/weather.md"]
    assert "weather_old_map" in pages["pages/weather_old.md"] and "weather_old" not in pages["pages/weather.md"]


def test_the_models_are_named_by_the_classes_the_words_or_the_table(module, tmp_path):
    save(module, tmp_path, "classes", **script("judging").votes({"smollm2-135m": True}))
    save(
        module, tmp_path, "words", numbers={"smollm2-135m": "1", "induction-2l": "2", "repeats-9-seed0": "3: not read"}
    )
    save(module, tmp_path, "table")
    (tmp_path / "table.csv").write_text("model,value\ngemma3-270m,1\n")
    rows = {line.split("`")[1]: line for line in module.pages(tmp_path)["README.md"].splitlines() if "| [It" in line}
    assert "| language models: ? not decided |" in rows["classes"]
    assert "| ✓ holds (small models + language models) | induction-2l: 2; smollm2-135m: 1 |" in rows["words"]
    assert "| ✓ holds (language models) |" in rows["table"]


def test_a_number_is_shortened_at_a_semicolon_outside_brackets():
    short = script("page_builder.found").shortened
    assert short("seed 0: 0.22 (never over; 0.4); loss 3") == "seed 0: 0.22 (never over; 0.4)"
    long = short("word " * 40)
    assert long.endswith("word …") and len(long) < 80


def test_the_map_of_the_essay_says_what_measures_a_sentence_and_what_is_missing(module, tmp_path, monkeypatch):
    essay_map = script("page_builder.essay_map")
    said = [
        {"section": "1", "says": ["rain", "雨"], "by": ["weather: It"], "missing": ["snow", "雪"]},
        {"section": "2", "says": ["sun", "日"], "by": ["distance"], "otherwise": ["clouds", "云"]},
        {"section": "3", "says": ["wind", "风"], "by": ["weather: It rains"], "otherwise": ["clouds", "云"]},
    ]
    monkeypatch.setattr(essay_map, "read", lambda name: {"sentence": said, "dimension": [], "detective": []})
    save(module, tmp_path)
    page, chinese = (module.pages(tmp_path)[f"pages/essay{each}.md"] for each in ("", ".zh"))
    assert "| 1 | rain<br>雨 | [It rains](weather.md#claim-1): ✓ holds<br>*in part; still missing*: snow |" in page
    assert "| **not measured**: clouds<br>`python -m experiments distance` measures it" in page
    assert page.count("clouds") == 1 and "2 of 3 sentences listed here have a verdict, 1 of these on a part" in page
    assert "| 2 | 日<br>sun | **尚未测量**：云<br>" in chinese


def test_every_word_is_there_in_both_languages():
    words = script("page_builder.words")
    frame = words.read("words")
    assert set(frame["en"]) == set(frame["zh"])
    assert set(frame["outcomes"]) == {*script("judging").OUTCOMES, script("judging").DIFFERS}
    assert all(len(each) == 5 for each in frame["outcomes"].values())
    used = set(re.findall(r'words\["(\w+)"', "".join(path.read_text() for path in words.HERE.glob("*.py"))))
    assert used <= set(frame["en"])
    with pytest.raises(ValueError, match="A language is one of en, zh, got 'fr'"):
        words.Words("fr")
    for name in ("dimension", "detective", "sentence"):
        for entry in words.read("essay")[name]:
            texts = [entry[key] for key in ("says", "missing", "otherwise") if key in entry]
            assert all(len(each) == 2 for each in texts) and (entry.get("by") or entry.get("missing"))


def test_what_claims_that_were_reworded_leave_behind_is_warned_of_and_no_failure(found):
    """Scripts reword their claims; the pages then fall back to English, or say that nothing is measured."""
    claims = {verdict.claim for verdicts in found.verdicts.values() for verdict in verdicts}
    translated = script("page_builder.words").Words("zh").translated
    essay_map = script("page_builder.essay_map")
    entries = [entry for entry in script("page_builder.words").read("essay").values() for entry in entry]
    told = {
        "Claims without Chinese, add them to claims.zh.toml": sorted(claims - set(translated)),
        "Chinese of claims that are in no file, take it out of claims.zh.toml": sorted(set(translated) - claims),
        "References of essay.toml to no claim": [by for entry in entries for by in essay_map.gone(found, entry)],
    }
    for what, which in told.items():
        if which:
            warnings.warn(f"{what}: {which}", stacklevel=1)
    assert claims & set(translated)
