const [SIZE, SHOWN, STEP, COPIES] = [32, 100, 5, 8];
const ROW = 2 + SHOWN;
const FULL = { rotation: 2 * Math.PI, scaling: Math.LN2, shear: 1, translation: 16 };
// exp(−ε G) of a point: where the copy moved by ε takes its values from.
const BACK = {
  rotation: (e, x, y) => [Math.cos(e) * x + Math.sin(e) * y, Math.cos(e) * y - Math.sin(e) * x],
  scaling: (e, x, y) => [Math.exp(-e) * x, Math.exp(-e) * y],
  shear: (e, x, y) => [x - e * y, y],
  translation: (e, x, y) => [x - e, y],
};
const WORDS = {
  rotation: (e) => `${written((e * 180) / Math.PI, 0)}°`,
  scaling: (e) => `×${written(Math.exp(e), 2)}`,
  shear: (e) => written(e, 2),
  translation: (e) => `${written(e, 1)} pixels`,
};

function moved(picture, group, e) {
  const middle = (SIZE - 1) / 2;
  return picture.map((_, i) => {
    const [x, y] = BACK[group](e, (i % SIZE) - middle, middle - Math.floor(i / SIZE));
    const [column, row] = [Math.floor(x + SIZE / 2), Math.floor(SIZE / 2 - y)];
    return Math.min(column, row) >= 0 && Math.max(column, row) < SIZE ? picture[row * SIZE + column] : 0;
  });
}

function cosine(a, b) {
  const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
  return dot(a, b) / Math.max(Math.sqrt(dot(a, a) * dot(b, b)), 1e-12);
}

export default explorer({
  height: (width) => Math.round(width < 560 ? 0.5 * width + 310 : 0.42 * width),

  draw({ values: { group, picture, reach }, options, data, width, height }) {
    const [groups, pictures] = [options.group.length, options.picture.length];
    const steps = 100 / STEP + 1;
    const which = options.picture.indexOf(picture);
    const frame = (which * groups + options.group.indexOf(group)) * steps + reach / STEP;
    const [rank, energy, ...shares] = data.subarray(frame * ROW, (frame + 1) * ROW);
    const start = pictures * groups * steps * ROW + which * SIZE * SIZE;
    const original = data.subarray(start, start + SIZE * SIZE);
    const largest = (reach / 100) * FULL[group];
    const copies = Array.from({ length: COPIES }, (_, k) => moved(original, group, (largest * k) / (COPIES - 1)));

    const narrow = width < 560;
    const [tile, gap] = [(narrow ? width : 0.5 * width) / 4, 4];
    const top = narrow ? 0 : (height - 2 * tile - 24) / 2;
    const sheet = copies.map((copy, k) => {
      const [x, y, side] = [(k % 4) * tile, top + Math.floor(k / 4) * tile, tile - gap];
      return image(copy.map((value) => 255 * value), SIZE, SIZE, x, y, side) +
        `<rect x="${x}" y="${y}" width="${side}" height="${side}" fill="none" stroke="currentColor" opacity="0.5"/>`;
    });
    const chart = { width: narrow ? width : 0.48 * width, height: narrow ? 280 : height };
    const { X, Y, frame: frameMarkup } = axes({ ...chart, top: 14, right: 14, x: [0, SHOWN], y: [1e-5, 1], log: "y",
      xlabel: "direction", ylabel: "share of the variance" });
    const seen = shares.filter((share) => share > 1e-5);
    const bars = seen.map((share, j) => `<path d="M${X(j)} ${Y(1e-5)}V${Y(share)}H${X(j + 0.8)}V${Y(1e-5)}Z"
      fill="var(--c${j < energy ? 0 : 5})"/>`);
    const words = `${WORDS[group](0)} … ${WORDS[group](largest)}`;
    return {
      picture: `${sheet.join("")}
        <text x="${2 * tile}" y="${top + 2 * tile + 16}" text-anchor="middle">${group}: ${words}</text>
        <g transform="translate(${width - chart.width} ${height - chart.height})">${frameMarkup}${bars.join("")}</g>`,
      label: `Eight copies of ${picture} under ${group}, ${words}, and the bars of the shares of the variance of such ` +
        `copies by direction: rank ${rank}, of which ${energy} hold 99 %.`,
      numbers: { rank, energy, similarity: cosine(copies[0], copies[COPIES - 1]) },
    };
  },
});
