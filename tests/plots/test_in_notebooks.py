"""Every figure in a real kernel: a cell shows it once, whether it is the cell's value, kept, shown or closed."""

import re

import matplotlib.pyplot as plt
import pytest

from induction_lab import load_model, plot_all_scores, plot_head_scores, repeated_tokens, score_heads
from induction_lab.plots.style import Sheet

SETTING = """
import matplotlib.pyplot as plt
from induction_lab import *
plt.rcParams["figure.dpi"] = 20
model = load_model()
prompts = repeated_tokens(model, n_prompts=2, period=8)
scores = score_heads(model, prompts)
run = train_run(load_recipe("minute", steps=8), "run")
texts = run.stream().draw(__import__("torch").Generator().manual_seed(1), n_prompts=4, n_ctx=64)
followed = follow_training(run, texts=texts, kinds="induction")
"""
CALLS = {
    "animate_heads": "animate_heads(followed)",
    "plot_all_scores": "plot_all_scores(scores)",
    "plot_circuit": "plot_circuit(find_circuit(model, prompts))",
    "plot_composition": "plot_composition(composition_scores(model))",
    "plot_effects": "plot_effects(ablation_sweep(model, prompts), n_layers=2, n_heads=4)",
    "plot_eigenvalues": "plot_eigenvalues(ov_eigenvalues(model)[1, 3])",
    "plot_explanation": "plot_explanation(explain(model, prompts, n_random=0))",
    "plot_head_kinds": "plot_head_kinds(classify_heads(model, kinds='induction'))",
    "plot_head_scores": "plot_head_scores(scores)",
    "plot_heads_over_training": "plot_heads_over_training(followed, 'prefix_matching')",
    "plot_kinds_over_training": "plot_kinds_over_training(followed)",
    "plot_logit_attribution": "plot_logit_attribution(attribute_logits(model, prompts))",
    "plot_logit_lens": "plot_logit_lens(logit_lens(model, prompts))",
    "plot_loss": "plot_loss(scores)",
    "plot_loss_derivative": "plot_loss_derivative(followed)",
    "plot_loss_paths": "plot_loss_paths(loss_paths(followed))",
    "plot_model_analysis": "plot_model_analysis(followed)",
    "plot_over_training": "plot_over_training(followed, 'prefix_matching')",
    "plot_pattern": "plot_pattern(model, prompts[:1], 'L1H3')",
    "plot_score_by_layer": "plot_score_by_layer(scores)",
    "plot_score_comparison": "plot_score_comparison(scores, scores)",
    "plot_small_multiples": "plot_small_multiples({('a', 'b'): [followed]})",
    "plot_term_importance": "plot_term_importance({'a': term_importance(model, prompts)})",
}
SHEET, AXES = CALLS["plot_all_scores"], CALLS["plot_head_scores"]
WAYS = [
    *CALLS.values(),
    "kept = animate_heads(followed)",
    f"{SHEET};",
    f"figure = {SHEET}",
    "figure",  # of the cell before
    f"{AXES}.figure",
    f"{SHEET}; plt.show()",
    f"{AXES}; plt.show()",
    f"display({SHEET}); plt.close('all')",
    f"figure = {SHEET}; figure.savefig('kept.png')",
    f"figure, ax = plt.subplots(); {AXES[:-1]}, ax=ax)",
]


def test_every_public_figure_is_here():
    import induction_lab

    figures = {name for name in dir(induction_lab) if re.match("plot_|animate_", name)}
    assert figures == set(CALLS)


def test_each_cell_shows_one_image(tmp_path, monkeypatch, request):
    pytest.importorskip("ipykernel")
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    monkeypatch.delenv("MPLBACKEND")  # a kernel's own
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))
    notebook = new_notebook(cells=[new_code_cell(source) for source in (SETTING, *WAYS)])
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell.source: [output.get("data", {}) for output in cell.outputs] for cell in notebook.cells[1:]}
    images = {
        source: sum("image/png" in data or "data:image/gif" in data.get("text/html", "") for data in outputs)
        for source, outputs in shown.items()
    }
    assert {source: n for source, n in images.items() if n != 1} == {}


def test_outside_notebooks_pyplot_keeps_the_figure(tmp_path):
    figure = plot_all_scores(score_heads(load_model(), repeated_tokens(load_model(), n_prompts=2, period=8)))
    assert isinstance(figure, Sheet) and plt.fignum_exists(figure.number)
    with pytest.raises(NotImplementedError):
        figure._ipython_display_()
    assert plt.fignum_exists(figure.number)  # for plt.show()
    figure.savefig(tmp_path / "scores.png")
    assert isinstance(plot_head_scores([[0.0, 1.0]], "mine").figure, Sheet)
