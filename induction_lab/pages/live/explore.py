"""`explore`: a page on which a model answers, served on this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterable
from typing import Any

from induction_lab.pages.live.page import live_page
from induction_lab.pages.live.server import LiveServer
from induction_lab.pages.live.shelf import Explored, Shelf

LOCAL = ("127.0.0.1", "localhost", "::1")


def explore(
    models: Explored | Iterable[Explored] = (),
    text: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    browser: bool = True,
    wait: bool = True,
) -> Explorer:
    """Serve a page on which to type, look at what heads do, knock them out, and see what the model says then.

    >>> explore(load_model("smollm2-135m"), "Her friend Harry Potter met Hermione. We knew Harry")   # doctest: +SKIP

    Args:
        models: A model or its name, or several; also a training run, whose checkpoints stand on a slider. By default
            the bundled model.
        text: What stands on the page at first.
        host: Where to listen. Anywhere but on this machine itself others can use the page who know its address.
        port: Of the address; by default any that is free.
        browser: Whether to open the page in a browser.
        wait: Whether to stay here until somebody presses Ctrl-C; else it is served by a thread, until `close`.

    Returns:
        What is served: its `address`, and `close`.

    Raises:
        ValueError: If Starlette and uvicorn are not installed, the address cannot be had, or a model cannot be loaded.
    """
    served = Explorer(Shelf.of(models), text, host=host, port=port)
    if wait:
        open_page(served, browser)
    elif browser:
        webbrowser.open(served.address)
    return served


def open_page(served: Explorer, browser: bool, say: Callable[[str], None] = lambda line: None) -> None:
    """Say its address, open it in a browser if that is wanted, and serve until somebody presses Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):  # pressed as soon as the address is there
        say(f"{served.address}\nCtrl-C ends it.")
        if browser:
            webbrowser.open(served.address)
        served.join()
    with contextlib.suppress(KeyboardInterrupt):  # pressed again
        served.close()


class Explorer:
    """A page that is being served.

    Args:
        shelf: The models.
        text: What stands on it at first.
        host: Where to listen.
        port: 0: any that is free.

    Attributes:
        address: Of the page, with its token.
    """

    def __init__(self, shelf: Shelf, text: str | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen, and serve in a thread."""
        self._socket = _listening(host, port)
        number = self._socket.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        names = {f"{name}:{number}" for name in (shown, "localhost", "127.0.0.1")} if host in LOCAL else None
        self._live = LiveServer(shelf, lambda token: _page(shelf, text, token), names)
        self.address = f"http://{shown}:{number}/?token={self._live.token}"
        import uvicorn

        how: Any = {"log_level": "warning", "timeout_keep_alive": 30, "lifespan": "off", "access_log": False}
        self._server = uvicorn.Server(uvicorn.Config(self._live.app, **how))
        self._ended = threading.Event()  # a `Thread.join` that Ctrl-C interrupts takes its thread for ended
        threading.Thread(target=self._serve, daemon=True).start()

    def __repr__(self) -> str:
        """The address."""
        return f"Explorer({self.address!r})"

    def join(self) -> None:
        """Wait until it is closed."""
        while not self._ended.wait(0.5):
            pass

    def close(self) -> None:
        """Serve no more: what models are asked now is dropped."""
        self._live.worker.close()
        self._server.should_exit = True
        self._ended.wait(5)
        self._live.worker.join(5)
        self._socket.close()

    def _serve(self) -> None:
        try:
            self._server.run([self._socket])
        finally:
            self._ended.set()


def _page(shelf: Shelf, text: str | None, token: str) -> str:
    data = shelf.at_start(text) | {"token": token, "follows_address": True}
    return live_page(data, title=f"Explore {shelf.first}")


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":  # a port that was used a moment ago
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(64)  # at once: a browser may be there before the server runs
    except (OSError, OverflowError) as error:
        listening.close()
        raise ValueError(f"{host}:{port} cannot be listened on ({error}): choose another port, 0 for any.") from error
    return listening
