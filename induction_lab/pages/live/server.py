"""The live page over HTTP: the page itself, and the questions it asks as JSON.

It is for one machine: bound to 127.0.0.1, with a token in the address that every question must carry, and only under
the names that it was started by, so that no other page in the browser can ask (a foreign Origin, or a name that was
made to point here).
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from typing import Any

from induction_lab.pages.live.page import POLICY
from induction_lab.pages.live.shelf import Shelf
from induction_lab.pages.live.worker import Dropped, Job, Worker
from induction_lab.runtime.optional import library

MOST_BYTES = 64 * 1024  # of a question
LOOK = 0.03  # seconds between looks whether the page still waits
log = logging.getLogger("induction_lab.explore")


class LiveServer:
    """An application of Starlette that serves one page.

    Args:
        shelf: The models.
        page: Given the token, the page.
        names: Under which names it may be asked, such as `127.0.0.1:8000`; None: any.

    Attributes:
        token: What the address carries.
        app: The application.
    """

    def __init__(self, shelf: Shelf, page: Callable[[str], str], names: set[str] | None) -> None:
        """Ready to be run."""
        for needed in ("starlette", "uvicorn"):
            library(needed, extra="explore")
        from starlette.applications import Starlette
        from starlette.routing import Route

        self.shelf, self.names, self.token = shelf, names, secrets.token_urlsafe(16)
        self.worker = Worker()
        self._page = page
        routes = [
            Route("/", self._index, methods=["GET"]),
            Route("/ask/{what}", self._ask, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)

    async def _index(self, request: Any) -> Any:
        from starlette.responses import HTMLResponse

        refused = self._refused(request, request.query_params.get("token", ""))
        if refused is not None:
            return refused
        headers = {
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        return HTMLResponse(self._page(self.token), headers=headers)

    async def _ask(self, request: Any) -> Any:
        refused = self._refused(request, request.headers.get("x-token", ""))
        if refused is not None:
            return refused
        try:
            given = json.loads(await _body(request))
            if not isinstance(given, dict):
                raise ValueError("A question is a JSON object.")
            what = request.path_params["what"]
            return _json(await self._answer(request, what, given))
        except (ValueError, RecursionError) as error:
            return _json({"error": str(error)}, 400)
        except Dropped:
            return _json({"error": "dropped"}, 499)
        except Exception as error:  # whatever a model trips over: the page says so, and goes on
            log.exception("a question could not be answered")
            return _json({"error": f"{type(error).__name__}: {error}"}, 500)

    async def _answer(self, request: Any, what: str, given: dict[str, Any]) -> dict[str, Any]:
        job = self.worker.submit(self.shelf.work(what, given))
        future = asyncio.wrap_future(job)
        while not (await asyncio.wait([future], timeout=LOOK))[0]:
            if await request.is_disconnected():
                job.dropped.set()
                future.cancel()
                raise Dropped
        if what == "kinds":  # the last that a page asks of a model: while nobody waits, find what takes long
            self.worker.submit(lambda job: self._prepare(job, given.get("model")))
        return future.result()

    def _prepare(self, job: Job, name: Any) -> None:
        live = self.shelf.get(name)
        with job.watched(live.model, lasting=True):
            live.prepare()

    def _refused(self, request: Any, token: str) -> Any | None:
        """Why a request is not answered, as a response."""
        from starlette.responses import PlainTextResponse

        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if self.names is not None and host not in self.names:
            return PlainTextResponse("This page is served under another name.", 403)
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return PlainTextResponse("Another page may not ask.", 403)
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            return PlainTextResponse("The address lacks its token: open the one that was printed.", 403)
        return None


async def _body(request: Any) -> bytes:
    """What was sent, refused while it comes in where it is too much."""
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > MOST_BYTES:
            raise ValueError(f"A question has at most {MOST_BYTES:,} bytes.")
    return found


def _json(content: dict[str, Any], status: int = 200) -> Any:
    from starlette.responses import Response

    text = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return Response(text, status, {"Cache-Control": "no-store"}, media_type="application/json")
