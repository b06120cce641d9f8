"""A hub that publishes what a test says, and nothing else; no network."""

from types import SimpleNamespace

import pytest


def publishes(monkeypatch: pytest.MonkeyPatch, *branches: str, tags: tuple[str, ...] = ()) -> None:
    """Let the hub list these branches and tags of whatever model it is asked for."""
    refs = SimpleNamespace(
        branches=[SimpleNamespace(name=name) for name in branches], tags=[SimpleNamespace(name=name) for name in tags]
    )
    monkeypatch.setattr("huggingface_hub.list_repo_refs", lambda repo: refs)
