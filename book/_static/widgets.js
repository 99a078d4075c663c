// Brings the widgets of a page to life without a kernel, in the place of the usual scripts from another site.
// Each widget is a module (`_esm`) with `render({ model, el })`; its state stands in the page, put there by its notebook.

class Model {
  constructor({ state, buffers = [] }) {
    this.state = { ...state };
    this.callbacks = {};
    for (const { path, data } of buffers) {
      const target = path.slice(0, -1).reduce((inner, key) => inner[key], this.state);
      target[path.at(-1)] = new DataView(Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)).buffer);
    }
  }
  get(name) {
    return this.state[name];
  }
  set(name, value) {
    const before = this.state[name];
    this.state[name] = value;
    if (before !== value) for (const callback of this.callbacks[`change:${name}`] ?? []) callback(this, value);
  }
  on(event, callback) {
    (this.callbacks[event] ??= []).push(callback);
  }
  off(event, callback) {
    this.callbacks[event] = (this.callbacks[event] ?? []).filter((other) => other !== callback);
  }
  // There is nobody to save to, or to send to.
  save_changes() {}
  send() {}
}

document.addEventListener("DOMContentLoaded", () => {
  const json = (kind) =>
    [...document.querySelectorAll(`script[type="application/vnd.jupyter.widget-${kind}+json"]`)].map((script) => [
      script,
      JSON.parse(script.textContent),
    ]);
  const models = {};
  for (const [, { state }] of json("state")) {
    for (const [id, entry] of Object.entries(state)) if (entry.state._esm) models[id] = new Model(entry);
  }
  const modules = {};
  const styled = new Set();
  for (const [script, { model_id }] of json("view")) {
    const model = models[model_id];
    if (model) wake(script, model).catch((error) => console.error("A widget could not start:", error));
  }

  async function wake(script, model) {
    const source = model.get("_esm");
    modules[source] ??= import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    const { default: widget } = await modules[source];
    if (!styled.has(model.get("_css"))) {
      document.head.append(Object.assign(document.createElement("style"), { textContent: model.get("_css") }));
      styled.add(model.get("_css"));
    }
    const el = document.createElement("div");
    script.after(el);
    try {
      await widget.render({ model, el });
    } catch (error) {
      el.remove();
      throw error;
    }
  }
});

// On paper nothing can be opened, so all that is folded is printed open.
const folded = () => document.querySelectorAll(".bd-article details:not([open])");
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...folded()];
  for (const part of opened) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of opened) part.open = false;
});
