"""What is published: one version and one address, bounds that the tested set meets, a page of whole links."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import induction_lab
from induction_lab.runtime import optional

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
PINNED = {canonicalize_name(name): version for name, version in PINS.items()}


def text(name: str) -> str:
    return (ROOT / name).read_text()


def absolute(*given: str) -> str:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.absolute(*given)


def test_the_version_is_one():
    version = PROJECT["version"]
    assert induction_lab.__version__ == version
    assert f"\nversion: {version}\n" in text("CITATION.cff")
    assert f"version {version}" in text("README.md").partition("## Cite")[2]
    assert re.findall(r"^## (\S+)", text("CHANGELOG.md"), re.MULTILINE)[0] == version


def test_the_address_is_one():
    address = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"].get("repository")
    assert re.findall(r"^repository-code: (\S+)", text("CITATION.cff"), re.MULTILINE) == ([address] if address else [])


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_the_tested_set_meets_every_bound(extra):
    for requirement in map(Requirement, EXTRAS[extra] if extra else PROJECT["dependencies"]):
        bound = requirement.specifier
        assert [each.operator for each in bound] == [">="], f"{requirement}: a lower bound, and no other"
        assert bound.contains(PINNED[canonicalize_name(requirement.name)]), requirement


def test_extras_that_are_named_are_there():
    files = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *(ROOT / "induction_lab").rglob("*.py")]
    named = re.findall(
        r"pip install (?:-c \S+ )?(?:-e )?'(?:\.|induction-lab)\[([\w,]+)\]", "".join(map(Path.read_text, files))
    )
    named += re.findall(r"""library\([^)]*extra="(\w+)"\)""", "".join(map(Path.read_text, files)))
    assert named and set(",".join(named).split(",")) <= set(EXTRAS)
    with pytest.raises(ValueError, match=r"pip install 'induction-lab\[report\]'"):
        optional.library("not_there", extra="report")


def test_hooks_before_a_commit_use_the_tested_linter():
    assert set(re.findall(r'"ruff==([\d.]+)"', text(".pre-commit-config.yaml"))) == {PINS["ruff"]}


def test_workflows_run_what_is_run_here_on_the_versions_that_are_promised():
    versions = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    listed = ", ".join(f'"{each}"' for each in versions)
    assert f"python: [{listed}]" in text(".github/workflows/test.yml")
    assert PROJECT["requires-python"] == f">={versions[0]}"
    for name in ("test", "release"):
        targets = re.findall(r"run: make (\S+)", text(f".github/workflows/{name}.yml"))
        assert targets and all(f"\n{target}: " in text("Makefile") for target in targets)


def test_pictures_and_links_are_whole_where_the_page_is_read_elsewhere():
    page = absolute(text("README.md"), "https://example.org/of/it", "1.2.3")
    assert "](https://example.org/of/it/blob/v1.2.3/docs/scores.md)" in page
    assert re.findall(r"!\[[^]]*\]\((\S+?)\)", page) == [
        f"https://example.org/of/it/raw/v1.2.3/{picture}"
        for picture in re.findall(r"!\[[^]]*\]\((\S+?)\)", text("README.md"))
    ]
    for address in ("https://example.org/of/it", ""):
        assert not re.findall(r"\]\((?!https?://)", absolute(text("README.md"), address, "1.2.3"))
    assert "![" not in absolute(text("README.md"), "", "1.2.3")
