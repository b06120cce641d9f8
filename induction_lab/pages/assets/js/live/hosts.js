// Who answers: a server, the model inside the page, or a notebook's kernel. Each has `ask(what, given, signal)`.

class Refused extends Error {} // the question was answered by a message for the person
const PATIENCE = 5000; // milliseconds until a kernel that says nothing is said to

function hostOf(data) {
  return data.packed ? pageHost(data.packed) : serverHost(data.token);
}

function serverHost(token) {
  return {
    async ask(what, given, signal) {
      const answer = await fetch(`ask/${what}`, { method: "POST", headers: { "Content-Type": "application/json", "X-Token": token }, body: JSON.stringify(given), signal });
      const type = answer.headers.get("content-type") || "";
      const found = type.includes("json") ? await answer.json() : { error: await answer.text() };
      if (!answer.ok) throw new Refused(found.error);
      return found;
    },
  };
}

// Models by name, each made when it is first asked.
function pageHost(packed) {
  const made = {}, of = (name) => (made[name] = made[name] || new SmallModel(packed[name]));
  return {
    async ask(what, given, signal) {
      await new Promise((done) => setTimeout(done)); // what is typed meanwhile comes first
      if (signal && signal.aborted) throw new DOMException("dropped", "AbortError");
      try { return of(given.model).answer(what, given); } catch (error) { throw new Refused(error.message); }
    },
  };
}

// A notebook's widget: questions and answers are messages, told apart by a number and by who asked, as one widget may be
// shown twice. `says(true)` is called where the kernel does not even take a question, `says(false)` when it does again.
function kernelHost(widget, says) {
  const waiting = new Map(), own = Math.random().toString(36).slice(2);
  let last = 0, patience = null, silent = false;

  function heard(answer) {
    const one = waiting.get(answer.id);
    if (!one) return;
    clearTimeout(patience);
    patience = null;
    if (silent) says((silent = false));
    if (answer.taken) return;
    waiting.delete(answer.id);
    if (answer.error === undefined) one.resolve(answer.found);
    else one.reject(new Refused(answer.error));
  }

  function drop(id, reject) {
    if (!waiting.delete(id)) return;
    widget.send({ drop: id });
    reject(new DOMException("dropped", "AbortError"));
  }

  widget.on("msg:custom", heard);
  return {
    ask(what, given, signal) {
      const id = `${own}.${++last}`;
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject });
        if (signal) signal.addEventListener("abort", () => drop(id, reject));
        if (patience === null) patience = setTimeout(() => says((silent = true)), PATIENCE);
        widget.send({ id, what, given });
      });
    },
    close() {
      clearTimeout(patience);
      widget.off("msg:custom", heard);
    },
  };
}
