// Who answers: a server, the model inside the page, or a notebook's kernel. Each has `ask(what, given, signal)`.

class Refused extends Error {} // the question was answered by a message for the person

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

function pageHost(packed) {
  const small = new SmallModel(packed);
  return {
    async ask(what, given, signal) {
      await new Promise((done) => setTimeout(done)); // what is typed meanwhile comes first
      if (signal && signal.aborted) throw new DOMException("dropped", "AbortError");
      try { return small.answer(what, given); } catch (error) { throw new Refused(error.message); }
    },
  };
}

// A notebook's widget: questions and answers are messages, told apart by a number.
function kernelHost(widget) {
  const waiting = new Map();
  let last = 0;
  widget.on("msg:custom", (answer) => {
    const one = waiting.get(answer.id);
    if (!one) return;
    waiting.delete(answer.id);
    if (answer.error === undefined) one.resolve(answer.found);
    else one.reject(new Refused(answer.error));
  });
  return {
    ask(what, given, signal) {
      const id = ++last;
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject });
        if (signal) signal.addEventListener("abort", () => { waiting.delete(id); widget.send({ drop: id }); reject(new DOMException("dropped", "AbortError")); });
        widget.send({ id, what, given });
      });
    },
  };
}
