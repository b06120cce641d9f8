"""Run the first Python example of a page in the environment of this interpreter, and compare what it prints.

    python first_example.py README.md

Nothing but the installed package is needed; the folder of the page is not on the path.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLE = re.compile(r"^```python\n(.*?)^```\n\n^```\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"-?\d+\.\d+")


def main(page: str) -> None:
    """Fail where the example fails, or prints other words than the page shows, or numbers further off than .011."""
    match = EXAMPLE.search(Path(page).read_text(encoding="utf-8"))
    assert match, f"{page} shows no example with its output"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as empty:
        run = [sys.executable, "-W", "ignore", "-c", match[1]]
        done = subprocess.run(run, cwd=empty, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, end="")
    assert NUMBER.sub("#", done.stdout) == NUMBER.sub("#", match[2]), f"{page} shows\n{match[2]}"
    pairs = zip(NUMBER.findall(done.stdout), NUMBER.findall(match[2]), strict=True)
    assert all(abs(float(printed) - float(shown)) < 0.011 for printed, shown in pairs), f"{page} shows\n{match[2]}"


if __name__ == "__main__":
    main(sys.argv[1])
