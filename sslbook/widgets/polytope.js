const [N, REACH, ROWS] = [40, 6, 110];
const side = (width) => Math.min(width, 430);
const squared = (a, b) => (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2;
const cosine = (a, b) => (a[0] * b[0] + a[1] * b[1]) / Math.hypot(...a) / Math.hypot(...b);
const unit = (a) => a.map((v) => v / Math.hypot(...a));
const product = (a, b) => a.reduce((total, v, i) => total + v * b[i], 0);

// x with Gx = b for a positive definite G, by elimination.
function solve(G, b) {
  const rows = G.map((row, i) => [...row, b[i]]);
  rows.forEach((pivot, i) => rows.slice(i + 1).forEach((row) => {
    const factor = row[i] / pivot[i];
    pivot.forEach((v, j) => { row[j] -= factor * v; });
  }));
  const x = Array(b.length).fill(0);
  for (let i = b.length - 1; i >= 0; i--) x[i] = (rows[i].at(-1) - product(rows[i].slice(0, -1), x)) / rows[i][i];
  return x;
}

// θ ≥ 0 with the least ½θᵀGθ − bᵀθ, by the active sets of Lawson and Hanson.
function nonnegative(G, b) {
  let [theta, passive] = [Array(b.length).fill(0), []];
  for (let round = 0; round < 3 * b.length; round++) {
    const pull = b.map((v, i) => passive.includes(i) ? -Infinity : v - product(G[i], theta));
    const best = pull.indexOf(Math.max(...pull));
    if (!(pull[best] > 1e-13)) break;
    passive.push(best);
    for (;;) {
      const s = solve(passive.map((i) => passive.map((j) => G[i][j])), passive.map((i) => b[i]));
      const ratios = passive.map((i, p) => (s[p] > 0 ? Infinity : theta[i] / (theta[i] - s[p])));
      const step = Math.min(1, ...ratios);
      passive.forEach((i, p) => { theta[i] = ratios[p] === step ? 0 : theta[i] + step * (s[p] - theta[i]); });
      if (step === 1) break;
      passive = passive.filter((i) => theta[i] > 0);
    }
  }
  const least = 1e-6 * Math.max(...theta);
  return theta.map((v) => (v > least ? v : 0));
}

// What is left of a polygon where `height` is at most 0.
const cutOff = (polygon, height) => polygon.flatMap((p, i) => {
  const q = polygon[(i + 1) % polygon.length];
  const [a, b] = [height(p), height(q)];
  const crossing = [0, 1].map((d) => p[d] + (a / (a - b)) * (q[d] - p[d]));
  return [...(a <= 0 ? [p] : []), ...(a * b < 0 ? [crossing] : [])];
});

export default explorer({
  height: (width) => side(width) + 26,

  draw({ values: { x, y, k, bandwidth, kernel, points }, options, data, width }) {
    const first = 2 * N * options.points.indexOf(points);
    const all = Array.from({ length: N }, (_, i) => [data[first + 2 * i], data[first + 2 * i + 1]]);
    const [query, gaussian] = [[x, y], kernel === "gaussian"];
    const far = (p) => (gaussian ? squared(p, query) : -cosine(p, query));
    all.sort((p, q) => far(p) - far(q));
    const near = all.slice(0, k);
    const spread = 2 * bandwidth ** 2 * squared(near.at(-1), query);
    const kappa = (p, q) => (gaussian ? Math.exp(-squared(p, q) / spread) : (1 + cosine(p, q)) / 2);

    const G = near.map((p) => near.map((q) => kappa(p, q)));
    const b = near.map((p) => kappa(p, query));
    const theta = nonnegative(G, b);
    const chosen = near.map((_, i) => i).filter((i) => theta[i] > 0);
    const rejected = near.map((_, i) => i).filter((i) => theta[i] === 0);
    const cutBy = rejected.map((l) => chosen.find((j) => b[l] <= b[j] * G[j][l]));
    const cut = cutBy.filter((j) => j !== undefined).length;
    const corners = chosen.map((j) => (gaussian ? near[j] : unit(near[j])));
    const diameter = Math.sqrt(Math.max(...corners.flatMap((p) => corners.map((q) => squared(p, q)))));
    const error = 1 - 2 * product(theta, b) + product(theta, G.map((row) => product(row, theta)));

    const size = side(width);
    const { X, Y, frame } = axes({ width: size, height: size, x: [0, REACH], y: [0, REACH],
      xlabel: "first feature", ylabel: "second feature" });
    // Row by row, where one more candidate would become a neighbour.
    const rest = (p) => kappa(p, query) - chosen.reduce((sum, j) => sum + theta[j] * kappa(p, near[j]), 0);
    const step = REACH / ROWS;
    const strips = Array.from({ length: ROWS }, (_, r) => {
      const values = Array.from({ length: ROWS + 1 }, (_, c) => rest([c * step + 1e-9, (r + 0.5) * step]));
      const ends = values.flatMap((v, c) => {
        const before = c ? values[c - 1] : -1e-12;
        return (v > 0) === (before > 0) ? [] : [step * (c ? c - v / (v - before) : 0)];
      });
      if (ends.length % 2) ends.push(REACH);
      const [top, bottom] = [Y((r + 1) * step), Y(r * step)];
      return ends.map((at, i) => (i % 2 ? `H${X(at)}V${bottom}H${X(ends[i - 1])}Z` : `M${X(at)} ${top}`)).join("");
    });
    const box = [[0, 0], [REACH, 0], [REACH, REACH], [0, REACH]];
    const polygon = chosen.map((j) => near[j]).reduce((left, [u, v]) =>
      cutOff(left, (p) => (p[0] - u) * (u - x) + (p[1] - v) * (v - y)), box);
    const outline = gaussian
      ? `<path d="M${polygon.map(([u, v]) => `${X(u)} ${Y(v)}`).join("L")}Z" fill="none" stroke="currentColor" stroke-dasharray="5 3"/>` : "";
    const line = (p, q, looks) => `<path d="M${X(p[0])} ${Y(p[1])}L${X(q[0])} ${Y(q[1])}" stroke="${looks}"/>`;
    const dot = ([u, v], r, looks) => `<circle cx="${X(u)}" cy="${Y(v)}" r="${r}" ${looks}/>`;
    const marks = [
      ...rejected.map((l, i) => cutBy[i] === undefined ? "" : line(near[l], near[cutBy[i]], 'currentColor" stroke-opacity="0.3')),
      ...chosen.map((j) => line(query, near[j], 'var(--c1)" stroke-width="2')),
      ...all.slice(k).map((p) => dot(p, 1.8, 'opacity="0.5"')),
      ...rejected.map((l) => dot(near[l], 3.8, 'fill="none" stroke="currentColor"')),
      ...chosen.map((j) => dot(near[j], 4.8, 'fill="var(--c1)"')),
      dot(query, 11, 'data-drag="query" fill="var(--c0)" fill-opacity="0.35" stroke="var(--c0)" stroke-width="2"'),
    ];
    const words = [["c0", "●", "query"], ["c1", "●", "neighbour"], ["c2", "■", "room for more"]];
    return {
      picture: `<g transform="translate(${(width - size) / 2} 0)">${frame}<path d="${strips.join("")}" fill="var(--c2)"
        fill-opacity="0.25"/>${outline}${marks.join("")}</g>${legend(words, width, size + 18)}`,
      label: `A query at (${written(x, 2)}, ${written(y, 2)}) with ${k} candidates in the plane. ${chosen.length} of them are NNK ` +
        `neighbours; of the others, ${cut} are cut off by a single neighbour.`,
      numbers: { count: chosen.length, diameter, error, cut, others: rejected.length - cut },
    };
  },

  drag(name, x, y, { width }) {
    const size = side(width);
    const at = x - (width - size) / 2;
    return { x: ((at - 54) / (size - 62)) * REACH, y: ((size - 40 - y) / (size - 48)) * REACH };
  },
});
