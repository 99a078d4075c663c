const MEASURES = ["linear", "knn", "mlp", "style", "ratio", "rebuilt", "active"]; // as `SHOWN` in Python
const WIDE = 620;

export default explorer({
  read: (view, model) => [bytes(view), model.get("names")],
  height: (width) => (width < WIDE ? 420 : 280),

  draw({ values: { cell, content }, options, data: [data, names], width, height }) {
    const row = MEASURES.length + 1;
    const numbers = new Float32Array(data.buffer, 0, 2 + names.length * row);
    const [rows, columns] = numbers;
    const of = (k, name) => numbers[2 + k * row + MEASURES.indexOf(name)];
    const end = (k) => 4 * numbers.length + (k < 0 ? 0 : numbers[2 + k * row + row - 1]);
    const measure = MEASURES[options.content.indexOf(content)];
    const [style, told] = ["style", measure].map((name) => names.map((_, k) => of(k, name)));
    const around = (values) => {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      return [low - 0.15 * (high - low || 0.1), high + 0.15 * (high - low || 0.1)];
    };
    const narrow = width < WIDE;
    const panel = { width: narrow ? width : 0.5 * width, height: 280 };
    const { X, Y, frame } = axes({ ...panel, left: 62, top: 26, x: around(style), y: around(told),
      xlabel: "style, R² of the crop", ylabel: `content, ${content}` });
    const dots = names.map((_, k) => `<circle cx="${X(style[k])}" cy="${Y(told[k])}" r="${k === cell ? 7 : 4}"
      fill="var(--c${k === cell ? 1 : 0})"/>`);
    const left = narrow ? 4 : panel.width + 16;
    const wide = width - left - 4;
    const tall = Math.min((wide * rows) / columns, height - 60 - (narrow ? 280 : 0));
    const top = narrow ? 300 : 100;
    return {
      picture: `${frame}${dots.join("")}
        <text x="${panel.width - 8}" y="16" text-anchor="end" font-weight="bold" fill="var(--c1)">${names[cell]}</text>
        <text x="${left}" y="${top - 8}">views; below, as the run draws them</text>
        <image href="${webp(data.subarray(end(cell - 1), end(cell)))}" x="${left}" y="${top}" width="${wide}" height="${tall}"
          preserveAspectRatio="xMinYMin" style="image-rendering: pixelated"/>`,
      label: `Cell ${cell}, ${names[cell]}: content ${written(told[cell])} by the ${content}, style ${written(style[cell])}, ` +
        `beside the other cells, and views with their reconstructions.`,
      numbers: { content: told[cell], style: style[cell], ratio: of(cell, "ratio"), rebuilt: of(cell, "rebuilt"),
        active: of(cell, "active") },
    };
  },
});
