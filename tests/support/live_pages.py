"""The live page in a real browser: opened, waited for, typed on."""

import torch

from induction_lab.data.prompts import Prompts

TEXT = "5 9 17 33 21 5 9 17 33"  # for the bundled model


def opened(browser, address, *, width=1440, scheme="light", ready=True, **more):
    faults = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    if ready:
        settled(page)
    yield page
    context.close()
    assert not [fault for fault in faults if "400" not in fault]  # a refused question is in the browser's log


def settled(page):
    """What was asked for by the last click is there; waiting by selectors, as the page allows no `eval`."""
    page.wait_for_timeout(30)
    page.wait_for_selector("#live[data-state=ready]")
    return page


def written(page, text):
    page.fill("textarea.typed", text)
    return settled(page)


def prompt_of(model, text):
    return Prompts(torch.tensor([[model.bos_token_id, *map(int, text.split())]]))
