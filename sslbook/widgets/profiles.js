const WIDE = 560;
const [TOP, BOTTOM, COLUMN] = [64, 46, 58]; // above and below the rows; width of a column of values
const rowHeight = (width) => (width < WIDE ? 42 : 30); // on a narrow page the words stand above each row
const MARKS = [
  (x, y, colour) => `<circle cx="${x}" cy="${y}" r="5" fill="${colour}"/>`,
  (x, y, colour) => `<path d="M${x - 7} ${y}l7 -7l7 7l-7 7Z" fill="none" stroke="${colour}" stroke-width="2"/>`,
];

const distance = (a, b) => Math.sqrt(mean(a.map((value, j) => (value - b[j]) ** 2)));

function median(values) {
  const [sorted, half] = [[...values].sort((a, b) => a - b), values.length / 2];
  return (sorted[Math.ceil(half) - 1] + sorted[Math.floor(half)]) / 2;
}

// Each column with mean 0 and standard deviation 1, a constant one 0.
function standardised(values) {
  const moments = values[0].map((_, j) => {
    const column = values.map((row) => row[j]);
    const centre = mean(column);
    const deviation = Math.sqrt(mean(column.map((value) => (value - centre) ** 2)));
    return [centre, deviation > 1e-12 * Math.max(...column.map(Math.abs)) ? deviation : Infinity];
  });
  return values.map((row) => row.map((value, j) => (value - moments[j][0]) / moments[j][1]));
}

// Three digits of the largest of the values.
function told(values, i) {
  const power = Math.floor(Math.log10(Math.max(...values.map(Math.abs)) || 1));
  return written(values[i], Math.min(6, Math.max(0, 2 - power)));
}

export default explorer({
  // The models, and for each group its rows, values[i][j] of model i in row j, these standardised, and the medians.
  read(view, model) {
    const [all, models] = [floats(view), model.get("models")];
    let at = 0;
    const groups = model.get("rows").map((rows) => {
      const values = models.map(() => Array.from(all.subarray(at, (at += rows.length))));
      const z = standardised(values);
      const pairs = z.flatMap((a, i) => z.slice(0, i).map((b, k) => [distance(a, b), models[i], models[k]]));
      const [any, paradigm, policy] = [() => true, (a, b) => a[1] === b[1], (a, b) => a[2] === b[2]].map((alike) =>
        median(pairs.filter(([, a, b]) => alike(a, b)).map(([d]) => d)));
      return { rows, values, z, medians: { all: any, paradigm, policy } };
    });
    return { models, groups };
  },

  height: (width, { values: { group }, options, data: { groups } }) =>
    TOP + BOTTOM + rowHeight(width) * groups[options.group.indexOf(group)].rows.length,

  draw({ values: { first, second, group }, options, data: { models, groups }, width, height }) {
    const { rows, values, z, medians } = groups[options.group.indexOf(group)];
    const pair = [first, second].map((name) => options.first.indexOf(name));
    const [a, b] = pair.map((i) => z[i]);
    const colours = pair.map((i, k) => models[i][3] ?? `var(--c${k})`);
    const narrow = width < WIDE;
    const tall = rowHeight(width);
    const left = narrow ? 10 : 12 + Math.min(7 * Math.max(...rows.map((row) => row.length)), 0.36 * width);
    const right = width - (narrow ? 10 : 2 * COLUMN + 8);
    const most = Math.max(...z.flat().map(Math.abs)) + 0.2;
    const X = (value) => (left + right) / 2 + ((value / most) * (right - left)) / 2;
    const end = height - BOTTOM;
    const texts = rows.map((_, j) => pair.map((i) => told(values.map((row) => row[j]), i)));

    const ticks = Array.from({ length: 2 * Math.floor(most) + 1 }, (_, k) => k - Math.floor(most)).map((value) =>
      `<path d="M${X(value)} ${TOP}V${end}" stroke="currentColor" opacity="${value ? 0.12 : 0.4}"/>
      <text x="${X(value)}" y="${end + 17}" text-anchor="middle">${written(value)}</text>`);
    const drawn = rows.map((row, j) => {
      const y = TOP + tall * (j + (narrow ? 0.72 : 0.5));
      const words = narrow ? y - 14 : y + 4.5;
      const all = z.map((place) => `M${X(place[j]).toFixed(1)} ${y - 5}v10`).join("");
      const beside = texts[j].map((text, k) =>
        `<text x="${width - (1 - k) * COLUMN}" y="${words}" text-anchor="end">${text}</text>`);
      return `<text x="0" y="${words}">${row}</text>${beside.join("")}
        <path d="${all}" stroke="currentColor" opacity="0.35"/>
        <path d="M${X(a[j])} ${y}H${X(b[j])}" stroke="currentColor" opacity="0.6"/>
        ${MARKS.map((mark, k) => mark(X([a, b][k][j]), y, colours[k])).join("")}`;
    });
    const legend = [first, second].map((name, k) => `${MARKS[k](8, 9 + 20 * k, colours[k])}
      <text x="22" y="${13.5 + 20 * k}" font-weight="bold">${name}</text>
      ${MARKS[k](width - (1 - k) * COLUMN - 14, TOP - 14, colours[k])}`);

    const differ = rows.map((row, j) => [row, Math.abs(a[j] - b[j])]).sort((one, other) => other[1] - one[1]);
    const named = differ.slice(0, 2).filter(([, much]) => much > 0).map(([row, much]) => `${row} (by ${much.toFixed(1)})`);
    const numbers = { most: named.join(" and ") || "nothing", distance: distance(a, b), ...medians };
    const listed = rows.map((row, j) => `${row} ${texts[j].join(" and ")}`);
    return {
      picture: ticks.join("") + drawn.join("") + legend.join("") +
        `<text x="${(left + right) / 2}" y="${end + 37}" text-anchor="middle">standard deviations from the mean</text>`,
      label: `${group}: ${first} beside ${second}, among ${models.length} models. ${listed.join("; ")}. In standard ` +
        `deviations over all models they differ most in ${numbers.most}; their distance is ${written(numbers.distance)}, ` +
        `the median of all pairs ${written(medians.all)}, of pairs of one paradigm ${written(medians.paradigm)}.`,
      numbers,
    };
  },
});
