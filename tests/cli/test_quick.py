"""What needs no weights answers before any library of numbers is loaded."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "transformer_lens", "pandas", "numpy", "matplotlib", "scipy", "pyarrow", "jaxtyping")
CODE = f"""
import sys
from induction_lab.cli.app import main
try:
    main()
finally:
    print("loaded:", *[name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--version", "induction-lab"),
        ("--help", "explain"),
        ("score --help", "--prompts"),
        ("models", "smollm2-135m"),
        ("train", "minute"),
        ("train --list", "minute"),
        ("train minutes", "Did you mean minute?"),
        ("get smolm2-135m", "Did you mean smollm2-135m?"),
        ("score smollm2-135", "Did you mean smollm2-135m?"),
        ("explain attn-only-2", "Did you mean attn-only-2l?"),
        ("circuit ./nothing", "There is no file or folder ./nothing."),
        ("score ./nothing", "There is no file or folder ./nothing."),
        ("report ./nothing", "There is no file or folder ./nothing."),
        ("explore ./nothing", "There is no file or folder ./nothing."),
        ("plot nothing.csv", "There is no file nothing.csv."),
        ("report --explanation nothing.json", "There is no file nothing.json."),
        ("activity", "A text is wanted"),
    ],
)
def test_no_library_of_numbers_is_loaded_for(arguments, said, tmp_path):
    command = [sys.executable, "-c", CODE, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert said in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


NOT_FOR_NUMBERS = ("scipy.stats", "sympy", "matplotlib", "plotly", "ray", "torch._dynamo", "torch._inductor")
NOT_FOR_NUMBERS += ("transformers", "transformer_lens", "datasets")
NOT_FOR_SCORES = (*NOT_FOR_NUMBERS, "scipy", "pandas", "pyarrow", "PIL", "rich", "typer")


def test_loading_and_scoring_our_own_model_loads_torch_and_little_else():
    code = (
        "import sys, induction_lab; model = induction_lab.load_model(); "
        "scores = induction_lab.score_heads(model); "
        f"print(*[each for each in {NOT_FOR_SCORES} if each in sys.modules]); "
        "scores.to_dataframe(); print('pandas' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "True True"]


MEASURED = {
    "score": "score_heads(model, prompts, chance_test=True)",
    "circuit": "find_circuit(model, prompts)",
    "explain": "explain(model, prompts, n_random=1)",
    "heads": "classify_heads(model, prompts, causal=False).overlaps()",
    "patterns": "capture(model, prompts, ['pattern', 'v'], heads='L1H0')",
}


def test_measuring_loads_no_library_that_it_does_not_need():
    names = "capture, classify_heads, explain, find_circuit, load_model, repeated_tokens, score_heads"
    lines = ["import sys", f"from induction_lab import {names}"]
    lines += ["model = load_model()", "prompts = repeated_tokens(model, n_prompts=2, distinct=True)"]
    for name, call in MEASURED.items():
        lines += [call, f"print({name!r}, *[each for each in {NOT_FOR_NUMBERS} if each in sys.modules])"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(MEASURED)


def test_a_report_of_our_own_model_loads_neither_transformers_nor_matplotlib(tmp_path):
    code = (
        "import sys, induction_lab as lab; lab.write_report(lab.load_model(), 'report.html', n_prompts=2); "
        f"print(*[each for each in {NOT_FOR_NUMBERS} if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] in ("", "plotly")  # which draws the page


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "openai-gpt", "ctrl", "transfo-xl-wt103"]
)
def test_ids_of_the_hub_without_an_owner_are_near_none_of_ours(name):
    from induction_lab.models.store import locate

    assert locate(name) == name
