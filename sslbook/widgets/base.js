// Shared by all explorers, in front of the script of each. What a script may use: explorer, axes, image, floats, bytes.

// The bytes of a DataView as numbers; copied, because a live kernel sends them at any offset.
const copy = (view) => view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
const floats = (view) => new Float32Array(copy(view));
const bytes = (view) => new Uint8Array(copy(view));

const decimals = (step) => (String(step).split(".")[1] ?? "").length;

function written(value, digits = Number.isInteger(value) ? 0 : Math.abs(value) < 10 ? 3 : 1) {
  if (typeof value !== "number") return String(value);
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

const RADIANS = Math.PI / 180;
const mean = (values) => values.reduce((a, b) => a + b) / values.length;
const webp = (part) => `data:image/webp;base64,${btoa(Array.from(part, (b) => String.fromCharCode(b)).join(""))}`;

// Markup of entries [colour, mark, text] beside each other in the middle of the picture.
const legend = (entries, width, y) => entries.map(([colour, mark, text], i) => `<text x="${width / 2 + (i - 1) * Math.min(130, width / 3.2)}"
  y="${y}" text-anchor="middle"><tspan fill="var(--${colour})" font-weight="bold">${mark}</tspan> ${text}</text>`).join("");

// Markup of a (height, width) picture of gray bytes, `size` pixels wide with its corner at (x, y).
function image(pixels, width, height, x, y, size) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  const target = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) target.data.set([pixels[i], pixels[i], pixels[i], 255], 4 * i);
  context.putImageData(target, 0, 0);
  return `<image href="${canvas.toDataURL()}" x="${x}" y="${y}" width="${size}" height="${(size * height) / width}"
    style="image-rendering: pixelated"/>`;
}

// Axes over the ranges x and y: X and Y take data to pixels, frame is their markup. On a log axis the data stay as they are.
function axes({ width, height, x, y, xlabel, ylabel, log = "", left = 54, right = 8, top = 8, bottom = 40 }) {
  const scale = (range, logarithmic, from, to) => {
    const on = logarithmic ? Math.log10 : Number;
    const [low, high] = range.map(on);
    const power = 10 ** Math.floor(Math.log10((high - low) / 4));
    const step = [1, 2, 5, 10].map((k) => k * power).find((s) => (high - low) / s <= 5 && (!logarithmic || s >= 1));
    const place = (value) => from + ((on(value) - low) / (high - low)) * (to - from);
    // Of less than two decades powers of ten are too few.
    if (logarithmic && high - low < 2) {
      const digits = [0, 1, 2].flatMap((k) => [1, 2, 5].map((m) => m * 10 ** (Math.floor(low) + k)));
      const inside = digits.map((at) => Number(at.toPrecision(1))).filter((at) => on(at) >= low && on(at) <= high);
      return [place, inside.map((at) => [place(at), written(at, decimals(at))])];
    }
    const ticks = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) {
      const at = Number((k * step).toPrecision(12));
      const name = logarithmic ? `10<tspan dy="-5" font-size="10">${written(at, 0)}</tspan>` : written(at, decimals(at));
      ticks.push([place(logarithmic ? 10 ** at : at), name]);
    }
    return [place, ticks];
  };
  const [X, across] = scale(x, log.includes("x"), left, width - right);
  const [Y, up] = scale(y, log.includes("y"), height - bottom, top);
  const frame =
    across.map(([at, name]) => `<text x="${at}" y="${height - bottom + 17}" text-anchor="middle">${name}</text>`).join("") +
    up.map(([at, name]) => `<path d="M${left} ${at}H${width - right}" stroke="currentColor" opacity="0.15"/>
      <text x="${left - 6}" y="${at + 4}" text-anchor="end">${name}</text>`).join("") +
    `<path d="M${left} ${top}V${height - bottom}H${width - right}" fill="none" stroke="currentColor"/>
    <text x="${(left + width - right) / 2}" y="${height - 5}" text-anchor="middle">${xlabel}</text>
    <text x="13" y="${(top + height - bottom) / 2}" text-anchor="middle"
      transform="rotate(-90 13 ${(top + height - bottom) / 2})">${ylabel}</text>`;
  return { X, Y, frame };
}

/* An explorer as a module of the widget protocol.

   read(view, model): what `draw` gets as data; by default the trait `data` as float32.
   height(width, { values, options, data }): height of the picture, in pixels as all lengths.
   draw({ values, options, data, width, height }) → { picture, label, numbers }: the markup inside the <svg>, the
     sentence that describes it, and the numbers by name, which Python's replace once it has answered for these values.
     `options` are those of each choice.
   drag(name, x, y, { values, data, width, height }) → values to set, when the pointer moves what has data-drag=name. */
function explorer({ read = floats, height = (width) => Math.min(0.62 * width, 380), draw, drag }) {
  function render({ model, el }) {
    const id = `e${Math.random().toString(36).slice(2)}`;
    const controls = model.get("controls");
    const numbers = model.get("labels");
    el.classList.add("sslbook-explorer");
    el.innerHTML = `<style></style><div class="controls">${controls.map(({ name, label, options, min, max, step }) =>
      `<div><label for="${id}${name}">${label}</label>${options
        ? `<select id="${id}${name}" name="${name}">${options.map((o) => `<option>${o}</option>`).join("")}</select>`
        : `<output for="${id}${name}" aria-live="off"></output>
           <input type="range" id="${id}${name}" name="${name}" min="${min}" max="${max}" step="${step}">`}</div>`).join("")}
      </div><svg role="img"></svg><div class="numbers" role="status" aria-atomic="true"><span>${numbers.map(([name, label], i) =>
      `${i && label !== "±" ? "</span> <span>" : " "}${label} <output data-name="${name}" aria-live="off"></output>`).join("")}</span></div>`;
    el.firstChild.textContent =
      `figure.sslbook > svg[aria-label=${JSON.stringify(model.get("alt"))}] { display: none; }`;
    const svg = el.querySelector("svg");
    const part = (name) => el.querySelector(`[name="${name}"]`);
    const values = () => Object.fromEntries(controls.map(({ name }) => [name, model.get(name)]));
    const options = Object.fromEntries(controls.map((control) => [control.name, control.options]));
    let [data, drawnWidth] = [];
    const size = (width = el.clientWidth) => ({ width, height: Math.round(height(width, { values: values(), options, data })) });

    function update() {
      const [now, exact] = [values(), model.get("exact")];
      for (const { name, unit, step, options } of controls) {
        part(name).value = now[name];
        if (options) continue;
        const text = written(now[name], decimals(step)) + unit;
        part(name).setAttribute("aria-valuetext", text);
        part(name).previousElementSibling.value = text;
      }
      drawnWidth = el.clientWidth;
      if (!drawnWidth) return;
      data ??= read(model.get("data"), model);
      const { width, height } = size();
      const answered = controls.every(({ name }) => exact.at?.[name] === now[name]) ? exact : null;
      const drawn = draw({ values: now, options, data, width, height });
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("height", height);
      svg.setAttribute("aria-label", drawn.label);
      svg.innerHTML = drawn.picture;
      for (const [name] of numbers) {
        const output = el.querySelector(`[data-name="${name}"]`);
        output.dataset.value = answered?.[name] ?? drawn.numbers[name];
        output.value = written(answered?.[name] ?? drawn.numbers[name]);
      }
    }

    function set(changes) {
      for (const { name, min, max, step } of controls.filter(({ name }) => name in changes)) {
        const value = changes[name];
        const near = (v) => Number((min + step * Math.round((Math.min(max, Math.max(min, v)) - min) / step)).toFixed(decimals(step)));
        model.set(name, typeof value === "number" ? near(value) : value);
      }
      model.save_changes();
    }

    let held = null;
    const hold = (event) => {
      held = event.target.closest("[data-drag]")?.dataset.drag ?? null;
      if (held === null) return;
      svg.setPointerCapture(event.pointerId);
      event.preventDefault();
    };
    const move = (event) => {
      if (held === null) return;
      const box = svg.getBoundingClientRect();
      set(drag(held, event.clientX - box.left, event.clientY - box.top, { values: values(), data, ...size() }));
    };
    const release = () => { held = null; };
    svg.addEventListener("pointerdown", hold);
    svg.addEventListener("pointermove", move);
    for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, release);
    el.addEventListener("input", ({ target }) =>
      set({ [target.name]: target.type === "range" ? target.valueAsNumber : target.value }));
    // JupyterLab would take the arrow keys for itself.
    el.addEventListener("keydown", (event) => event.stopPropagation());

    const reread = () => { data = undefined; update(); };
    const followed = [...controls.map(({ name }) => name), "exact"];
    for (const name of followed) model.on(`change:${name}`, update);
    model.on("change:data", reread);
    const observer = new ResizeObserver(() => el.clientWidth !== drawnWidth && update());
    observer.observe(el);
    update();
    return () => {
      observer.disconnect();
      for (const name of followed) model.off(`change:${name}`, update);
      model.off("change:data", reread);
    };
  }
  return { render };
}
