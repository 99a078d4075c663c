const STRENGTHS = { small: "2 2.5", moderate: "9 3", large: "" };
const CURVES = [["direction", "singular value"], ["direction", "singular value"],
  ["distance, over that of random pairs", "share of the anchors"]];
const WIDE = 620;

export default explorer({
  // Epochs, curves[c][t][s], and measures[m][t][s] = [mean, deviation], as `_gather` makes them.
  read(view, model) {
    const all = floats(view);
    let at = 4;
    const take = (n) => Array.from(all.subarray(at, (at += n)));
    const [count, ...sizes] = all.subarray(0, 4);
    const frames = (n) => Array.from({ length: count }, () => Object.keys(STRENGTHS).map(() => take(n)));
    const epochs = take(count);
    const measures = model.get("controls").find(({ name }) => name === "measure").options;
    return { epochs, curves: sizes.map(frames), measures: measures.map(() => frames(2)) };
  },

  height: (width) => (width < WIDE ? 560 : 310),

  draw({ values: { epoch, curve, measure }, options, data: { epochs, curves, measures }, width, height }) {
    const away = epochs.map((kept) => Math.abs(kept - epoch));
    const t = away.indexOf(Math.min(...away));
    const which = options.curve.indexOf(curve);
    const [lines, seen] = [curves[which], measures[options.measure.indexOf(measure)]];
    const names = Object.keys(STRENGTHS);
    const panel = width < WIDE ? { width, height: height / 2 } : { width: width / 2, height };

    const histogram = which === 2;
    const place = (j) => (histogram ? (2 * (j + 0.5)) / lines[0][0].length : j + 1);
    const values = lines.flat(2);
    const visible = (value) => value > (histogram ? 0.005 : 0);
    const last = Math.max(...lines.flat().map((line) => line.findLastIndex(visible)));
    const greatest = Math.max(...values);
    const least = Math.min(...values.filter((value) => value > 1e-6 * greatest));
    const log = !histogram && greatest > 30 * least;
    const left = axes({ ...panel, top: 24, x: [histogram ? 0 : 1, place(last)], y: [log ? least : 0, 1.05 * greatest],
      log: log ? "y" : "", xlabel: CURVES[which][0], ylabel: CURVES[which][1] });
    const ends = seen.flat().flatMap(([mean, deviation]) => [mean - deviation, mean + deviation]);
    const [low, high] = [Math.min(...ends), Math.max(...ends)];
    const margin = 0.06 * (high - low || 1);
    const right = axes({ ...panel, top: 24, x: [epochs[0], epochs.at(-1)], y: [Math.min(0, low - margin), high + margin],
      xlabel: "epoch", ylabel: "mean over the seeds" });

    const path = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
    const line = (name, points) => `<path d="${path(points)}" fill="none" stroke="var(--${name})" stroke-width="2"
      stroke-dasharray="${STRENGTHS[name]}"/>`;
    const inside = (value) => (log ? Math.max(value, least) : value);
    const shown = names.map((name, s) =>
      line(name, lines[t][s].slice(0, last + 1).map((value, j) => [left.X(place(j)), left.Y(inside(value))])));
    const through = names.map((name, s) => {
      const band = (sign) => seen.map((row, k) => [right.X(epochs[k]), right.Y(row[s][0] + sign * row[s][1])]);
      const now = [right.X(epochs[t]), right.Y(seen[t][s][0])];
      return `<path d="${path([...band(1), ...band(-1).reverse()])}Z" fill="var(--${name})" opacity="0.18"/>` +
        line(name, band(0)) + `<circle cx="${now[0]}" cy="${now[1]}" r="4.5" fill="var(--${name})"/>`;
    });
    const legend = names.map((name, s) => `<tspan fill="var(--${name})" font-weight="bold" dx="${s ? 10 : 0}">${name}</tspan>`);
    const at = right.X(epochs[t]);
    return {
      picture: `${left.frame}<text x="${panel.width - 8}" y="14" text-anchor="end">${legend.join("")}</text>${shown.join("")}
        <g transform="translate(${width - panel.width} ${height - panel.height})">${right.frame}
        <text x="${panel.width - 8}" y="14" text-anchor="end">${measure}</text>
        <path d="M${at} 24V${panel.height - 40}" stroke="currentColor" stroke-dasharray="3 3"/>${through.join("")}</g>`,
      label: `At epoch ${epochs[t]}, for small, moderate and large augmentations: ${curve}, and ${measure} ` +
        `${names.map((name, s) => `${written(seen[t][s][0])} (${name})`).join(", ")}.`,
      numbers: Object.fromEntries(names.flatMap((name, s) =>
        [[name, seen[t][s][0]], [`${name}_deviation`, seen[t][s][1]]])),
    };
  },
});
