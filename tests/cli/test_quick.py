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


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "openai-gpt", "ctrl", "transfo-xl-wt103"]
)
def test_ids_of_the_hub_without_an_owner_are_near_none_of_ours(name):
    from induction_lab.models.store import locate

    assert locate(name) == name
