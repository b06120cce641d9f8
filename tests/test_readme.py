"""The README's example does what it shows, and its map is the package's."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_first_example_prints_what_is_shown_below_it(smollm2, capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    shown = re.search(r"```python\n.*?```\n\n```\n(.*?)```", README, re.DOTALL).group(1)
    exec(compile(code, "README.md", "exec"), {})
    number = re.compile(r"\d+\.\d+")
    printed = capsys.readouterr().out
    assert number.sub("#", printed) == number.sub("#", shown)
    assert [float(n) for n in number.findall(printed)] == pytest.approx(
        [float(n) for n in number.findall(shown)], abs=0.011
    )


def test_the_module_map_names_every_module():
    named = set(re.findall(r"(\w+)\.py", README[README.index("## Modules") :]))
    assert {path.stem for path in (ROOT / "induction_lab").glob("*.py")} - {"__init__"} <= named


def test_every_picture_is_there():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).read_bytes()[:4] == (b"GIF8" if path.endswith(".gif") else b"\x89PNG"), path


def test_every_target_of_the_makefile_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (demo|test|bench|figures)`?", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
