export default explorer({
  draw({ values: { beta, batch }, options, data, width, height }) {
    const row = options.batch.indexOf(batch);
    const count = data.length / options.batch.length;
    const s = Array.from(data.slice(row * count, (row + 1) * count));
    const unscaled = s.map((value) => Math.exp(beta * (value - s[0])));
    const sum = unscaled.reduce((a, b) => a + b);
    const p = unscaled.map((value) => value / sum);
    const entropy = -p.reduce((total, value) => total + (value && value * Math.log(value)), 0);
    const expected = p.reduce((total, value, l) => total + value * s[l], 0);
    const gap = beta * (s[0] - expected) + Math.log(count) - entropy;

    const effective = Math.exp(entropy);
    const { X, Y, frame } = axes({ width, height, x: [0, count], y: [0, 1.1 * p[0]],
      xlabel: "negatives, the most similar first", ylabel: "weight" });
    const bars = p.map((value, l) => `<path d="M${X(l)} ${Y(0)}V${Y(value)}H${X(l + 0.85)}V${Y(0)}Z"
      fill="var(--c${l < effective ? 1 : 0})"/>`);
    const even = Y(1 / count);
    return {
      picture: `${frame}${bars.join("")}
        <path d="M${X(0)} ${even}H${X(count)}" stroke="currentColor" stroke-dasharray="2 3"/>
        <text x="${X(count)}" y="${even - 6}" text-anchor="end">all alike</text>`,
      label: `Bars of the weights of ${count} negatives, sorted by similarity. At β = ${beta} the largest is ` +
        `${written(p[0])}, and ${effective.toFixed(1)} negatives count.`,
      numbers: { effective, entropy, largest: p[0], gap },
    };
  },
});
