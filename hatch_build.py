"""The text that a package index shows: README.md with absolute addresses, made when the package is built.

The repository's address is one fact: `repository` in pyproject's `[tool.hatch.metadata.hooks.custom]`; where it is not
set, the address that GitHub gives to the workflow that builds. Pictures and links then lead to the release's tag.
Without an address pictures are left out, and links to files are their text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:)([^)\s]+)\)")


def absolute(readme: str, repository: str, version: str) -> str:
    """README.md as it can be read anywhere.

    Args:
        readme: Its text, whose links and pictures are relative.
        repository: Address of the repository on GitHub, or empty.
        version: Of the package; the release is tagged `v` and this.
    """

    def address(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if not repository:
            return "" if picture else text
        return f"{picture}[{text}]({repository}/{'raw' if picture else 'blob'}/v{version}/{target})"

    return LINK.sub(address, readme)


class CustomMetadataHook(MetadataHookInterface):
    """Fills in `readme` and `urls`, which pyproject leaves to the build."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Change the project's metadata in place."""
        repository = self.config.get("repository", "")
        if not repository and "GITHUB_REPOSITORY" in os.environ:
            repository = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}".format(**os.environ)
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute(text, repository, metadata["version"]),
        }
        if repository:
            changes = f"{repository}/blob/v{metadata['version']}/CHANGELOG.md"
            metadata["urls"] = {"Repository": repository, "Issues": f"{repository}/issues", "Changelog": changes}
