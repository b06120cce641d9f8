"""The floors of the building: each module imports only from modules below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "induction_lab"
FLOORS = [
    ["extras", "rich_display"],
    ["attention_config", "heads", "kernels", "layers", "losses", "packing", "phase_change", "progress", "prompts"]
    + ["separation", "settings", "significance", "tables", "targets"],
    ["attention", "chains", "documents", "draws", "model_store", "score_words"],
    ["effects", "forced", "results", "streams", "sweep_tables", "texts", "trajectory"],
    ["attention_only", "loss_pca"],
    ["clamping", "handbuilt", "models", "training"],
    ["head_weights", "lags", "loading", "reading", "recipes"],
    ["attention_profiles", "checkpoints", "runs", "sweep_prompts"],
    ["run_training", "snapshots"],
    ["stacked_runs"],
    ["many_runs"],
    ["norms"],
    ["activations", "answers", "composition", "editing", "metrics", "output_scores", "provenance", "rotary", "sources"],
    ["attribution", "exact_scores", "lens", "paths", "spread", "substitutes", "tempering"],
    ["circuits", "interventions", "turns"],
    ["ablations", "head_views", "score_parts", "senders", "terms", "probes"],
    ["path_patching", "shares"],
    ["head_scores", "ngrams"],
    ["circuit_search", "explanation", "evaluation"],
    ["following", "measurements", "report_data"],
    ["report_tables", "sweep_plan"],
    ["atlas", "cell_files", "estimates", "page_files"],
    ["cell_work", "report"],
    ["executors"],
    ["ray_executor"],
    ["sweeps"],
    ["attribution_plots", "circuit_plots", "effect_plots", "plots", "terminal"],
    ["training_axes"],
    ["trajectory_plots"],
    ["animations", "trajectory_sheets"],
    ["cli_parts"],
    ["cli_report", "cli_sweep", "cli_training"],
    ["cli"],
]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("induction_lab."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "induction_lab":
            names |= {alias.name for alias in node.names if (PACKAGE / f"{alias.name}.py").exists()}
    return names


def test_every_module_stands_on_a_floor():
    assert {name for floor in FLOORS for name in floor} == {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("level", range(len(FLOORS)))
def test_imports_go_down_only(level):
    below = {name for floor in FLOORS[:level] for name in floor}
    for module in FLOORS[level]:
        assert imported(PACKAGE / f"{module}.py") <= below, module


def test_no_module_holds_two_ideas():
    long = {path.stem: n for path in PACKAGE.glob("*.py") if (n := len(path.read_text().splitlines())) > 330}
    assert not long


def test_every_function_fits_on_a_screen():
    """The code of it, that is, without signature and docstring."""
    long = {}
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if lines > 60:
                    long[f"{path.stem}.{node.name}"] = lines
    assert not long


def test_every_public_name_is_there():
    import induction_lab

    assert set(induction_lab.__all__) == set(induction_lab._HOME)
    for name in induction_lab.__all__:
        assert getattr(induction_lab, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = induction_lab.nothing


def test_no_public_name_is_a_module_s_which_would_hide_it():
    import induction_lab

    assert not set(induction_lab.__all__) & {path.stem for path in PACKAGE.glob("*.py")}


@pytest.mark.parametrize("start", ["import induction_lab", "from induction_lab.cli import app"])
def test_import_brings_no_heavy_library(start):
    heavy = ("torch", "transformers", "transformer_lens", "pandas", "matplotlib", "scipy", "pyarrow", "ray", "plotly")
    heavy += ("jinja2",)
    code = f"import sys; {start}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
