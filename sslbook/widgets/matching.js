const NAMES = ["one", "two", "three", "four", "five", "six"];
const N = NAMES.length;
const each = (f) => NAMES.map((_, i) => f(i));
const grid = (f) => each((i) => each((j) => f(i, j)));
const turned = (square) => grid((i, j) => square[j][i]);
const diagonal = (square) => mean(each((i) => square[i][i]));
const logSumExp = (values) => {
  const most = Math.max(...values);
  return most + Math.log(values.reduce((total, value) => total + Math.exp(value - most), 0));
};

// log N P_ε by the iterations of `losses.sinkhorn`, with its start, tolerance and centred cost.
function logPlan(cosines, epsilon) {
  const [a, b] = [cosines, turned(cosines)].map((square) => square.map(mean));
  const logits = grid((i, j) => (cosines[i][j] - a[i] - b[j]) / epsilon);
  const top = logits.map((row) => Math.max(...row));
  let g = each((j) => -Math.max(...each((i) => logits[i][j] - top[i])));
  for (let k = 1; ; k++) {
    const f = each((i) => -logSumExp(each((j) => logits[i][j] + g[j])));
    g = each((j) => -logSumExp(each((i) => logits[i][j] + f[i])));
    if (k % 10) continue;
    const log = grid((i, j) => logits[i][j] + f[i] + g[j]);
    if (k === 1000 || mean(log.map((row) => Math.abs(Math.exp(logSumExp(row)) - 1))) <= 1e-3) return log;
  }
}

const radius = (width) => Math.min(width / 2.5, 170);

export default explorer({
  height: (width) => 2.4 * radius(width) + 26,

  draw({ values, width, height }) {
    const epsilon = 10 ** values.log_epsilon;
    const first = each((i) => (i / (N - 1)) * values.spread * RADIANS);
    const second = each((i) => first[i] + values[NAMES[i]] * RADIANS);
    const cosines = grid((i, j) => Math.cos(first[i] - second[j]));
    const log = logPlan(cosines, epsilon);
    // The gap is ε KL(J ‖ P) with J = I/N.
    const gap = -epsilon * diagonal(log);
    const misplaced = 1 - diagonal(log.map((row) => row.map(Math.exp)));
    const logits = grid((i, j) => cosines[i][j] / epsilon);
    const search = (square) => mean(square.map(logSumExp)) - diagonal(square);
    const info_nce = (epsilon / 2) * (search(logits) + search(turned(logits)));
    const most = (i, used) => i === N ? 0 : Math.max(...each((j) =>
      (used >> j) & 1 ? -Infinity : cosines[i][j] + most(i + 1, used | (1 << j))));
    const exact = most(0, 0) / N - diagonal(cosines);

    const at = (angle, r) => [width / 2 + r * radius(width) * Math.cos(angle), radius(width) * (1.2 - r * Math.sin(angle))];
    const lines = log.flatMap((row, i) => row.map((value, j) => Math.exp(value) < 0.004 ? "" :
      `<path d="M${at(first[i], 1)}L${at(second[j], 0.66 + 12 / radius(width))}" stroke="var(--c${i === j ? 0 : 1})"
        stroke-opacity="0.75" stroke-width="${12 * Math.exp(value)}"/>`));
    const points = each((i) => {
      const [[x, y], [u, v], [a, b]] = [at(first[i], 1), at(second[i], 0.66), at(first[i], 1.13)];
      return `<circle cx="${x}" cy="${y}" r="6"/><text x="${a}" y="${b + 4.5}" text-anchor="middle">${i + 1}</text>
        <g data-drag="${NAMES[i]}"><circle cx="${u}" cy="${v}" r="12" fill-opacity="0.1" stroke="currentColor"/>
        <text x="${u}" y="${v + 4.5}" text-anchor="middle">${i + 1}</text></g>`;
    });
    return {
      picture: `${lines.join("")}${points.join("")}<text x="${width / 2}" y="${height - 6}" text-anchor="middle"
        ><tspan fill="var(--c0)" font-weight="bold">━</tspan> true pair
        <tspan dx="14" fill="var(--c1)" font-weight="bold">━</tspan> other pair</text>`,
      label: `First views of six images on a ring, second views on a ring within; lines between them are as thick as the mass that ` +
        `the optimal plan puts there. At ε = ${written(epsilon)}, ${written(misplaced)} of it is off the true pairs.`,
      numbers: { epsilon, gap, info_nce, exact, misplaced },
    };
  },

  drag(name, x, y, { values, width }) {
    const angle = Math.atan2(1.2 * radius(width) - y, x - width / 2) / RADIANS;
    const turn = angle - (NAMES.indexOf(name) / (N - 1)) * values.spread;
    return { [name]: turn - 360 * Math.round(turn / 360) };
  },
});
