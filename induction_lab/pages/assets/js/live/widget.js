// The live page in a notebook's cell: the kernel answers, and knows what stands on it as the trait `scene`.

function render({ model, el }) {
  const frame = element("div");
  el.append(frame);
  const host = kernelHost(model, (silent) => app.fault(silent ? new Refused(app.say("silent")) : null));
  const app = mountLive(framed(frame, STYLE), { ...model.get("data"), scene: model.get("scene") }, host);
  app.keep = () => {
    model.set("scene", Object.fromEntries(KEPT_STATE.map((name) => [name, app.state[name]])));
    model.save_changes();
  };
  return () => {
    if (app.running) app.running.abort();
    host.close();
  };
}
