"""What users read is plain English: phrases that sent readers back to the dictionary do not come again."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READ = [path for path in (ROOT / "induction_lab").rglob("*") if path.suffix in (".py", ".js", ".j2", ".toml")]
READ += [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
ODD = {
    "late less early": "late minus early",
    "less their mean": "minus their mean",
    "less baseline": "minus baseline",
    "less what it adds": "minus what it adds",
    "foreseen by whoever": "predicted by a model that copies",
    "that everybody wants": "what it is",
    ": dear,": "slow",
    "are dear": "are slow",
}


@pytest.mark.parametrize("odd", ODD)
def test_no_odd_phrase_is_read(odd):
    assert [str(path) for path in READ if odd in path.read_text(encoding="utf-8")] == [], f"say: {ODD[odd]}"
