"""Results are written and read the same way, and files that earlier versions wrote are still read."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from induction_lab import Effects, Explanation, HeadScores, InductionCircuit, LogitAttributions, Prompts, Trajectory
from induction_lab.results.saved import Loadable

BEFORE = Path(__file__).parent / "saved_before"
KINDS = {
    "head_scores": HeadScores,
    "effects": Effects,
    "circuit": InductionCircuit,
    "explanation": Explanation,
    "trajectory": Trajectory,
}


@dataclass(frozen=True)
class Counted(Loadable):
    """A result with one fact."""

    table: pd.DataFrame
    unit: str
    provenance: dict[str, Any] = field(default_factory=dict)
    _WHAT, _COLUMNS, _FACTS = "counts", ("n",), ("unit",)


COUNTED = Counted(pd.DataFrame({"n": range(12)}), "heads", {"seed": 3})


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_a_file_of_an_earlier_version_is_read_and_every_fact_in_it_written_as_it_was(tmp_path, name, suffix):
    found = KINDS[name].load(BEFORE / f"{name}.json")
    again = KINDS[name].load(found.save(tmp_path / f"again{suffix}"))
    written = again.save(tmp_path / f"{name}.json")
    before, now = json.loads((BEFORE / f"{name}.json").read_text()), json.loads(written.read_text())
    assert {fact: now[fact] for fact in before} == before
    assert set(now) - set(before) == ({"words"} if name == "head_scores" else set())  # what each score means
    assert again.provenance == {"model": "m", "seed": 0}


def test_attributions_are_written_as_they_were(tmp_path):
    values, tokens = torch.arange(18.0).view(3, 2, 3) / 4, torch.tensor([[0, 1, 1], [0, 2, 2]])
    facts = {"model": "m", "seed": 0}
    found = LogitAttributions("m", ("embedding", "L0H0", "bias"), values, Prompts(tokens), (1, 1), facts)
    written = found.save(tmp_path / "attributions.json")
    assert written.read_text() == (BEFORE / "logit_attributions.json").read_text()
    assert "L0H0" in found._repr_html_()


def test_a_result_needs_its_columns_and_its_facts(tmp_path):
    path = COUNTED.save(tmp_path / "counts.csv")
    again = Counted.load(path)
    assert (again.table["n"].tolist(), again.unit, again.provenance) == (list(range(12)), "heads", {"seed": 3})
    path.with_suffix(".csv.json").unlink()
    with pytest.raises(ValueError, match=r"counts.csv holds no readable counts: it lacks \['unit'\]"):
        Counted.load(path)
    path.write_text("m\n1\n")
    with pytest.raises(ValueError, match=r"counts.csv holds no readable counts: it lacks the columns \['n'\]"):
        Counted.load(path)
    with pytest.raises(ValueError, match="There is no file"):
        Counted.load(tmp_path / "other.csv")
    with pytest.raises(ValueError, match="Tables are kept as"):
        COUNTED.save(tmp_path / "counts.xlsx")


def test_columns_that_are_not_asked_for_are_not_read(tmp_path):
    path = Counted(COUNTED.table.assign(m=1), "heads").save(tmp_path / "counts.json")
    assert list(Counted.load(path).table) == ["n"]


def test_a_notebook_shows_the_first_rows_and_how_many_more_there_are():
    assert "2 more rows" in COUNTED._repr_html_()
    assert "more rows" not in Counted(COUNTED.table[:10], "heads")._repr_html_()
