"""A page that does to a widget what a notebook does: calls `render({model, el})`, carries messages, and has styles."""

import json
import queue

from induction_lab.pages.html import as_script

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A notebook</title><link rel="icon" href="data:,"><style>
:root { color-scheme: light dark; }
body { margin: 8px; font: 13px/1 serif; color: %(ink)s; background: %(paper)s; }
body * { letter-spacing: 3px; }
button, h2, p, li { color: #c00; text-transform: uppercase; }
</style></head><body><h2 id="own">In [1]:</h2><div id="cell"></div>
<script type="module">
const listeners = [], traits = %(traits)s;
window.widget = {
  sent: [], seen: [], saved: 0,
  get: (name) => traits[name],
  set: (name, value) => { traits[name] = value; },
  save_changes: () => { window.widget.saved += 1; window.widget.traits = traits; },
  on: (event, listener) => { if (event === "msg:custom") listeners.push(listener); },
  off: (event, listener) => { listeners.splice(listeners.indexOf(listener), 1); },
  send: (message) => { window.widget.sent.push(message); toKernel(JSON.stringify(message)); },
};
window.listeners = listeners;
const module = await import(URL.createObjectURL(new Blob([%(script)s], { type: "text/javascript" })));
window.show = (el) => module.default.render({ model: window.widget, el });
window.unshow = show(document.getElementById("cell"));
setInterval(async () => {
  for (const message of JSON.parse(await fromKernel())) {
    window.widget.seen.push(message);
    [...listeners].forEach((listen) => listen(message, []));
  }
}, 10);
</script></body></html>"""


def notebook(tab, messages, script, data, scene=None, *, ink="black", paper="white"):
    """Show a widget in a browser's tab; `messages` answers."""
    answers = queue.Queue()
    messages.send = answers.put

    def drained():
        found = []
        while not answers.empty():
            found.append(answers.get())
        return json.dumps(found)

    tab.expose_function("toKernel", lambda text: messages.receive(json.loads(text)))
    tab.expose_function("fromKernel", drained)
    inside = {"script": as_script(script), "traits": as_script({"data": data, "scene": scene or {}})}
    tab.set_content(PAGE % (inside | {"ink": ink, "paper": paper}))
    return tab
