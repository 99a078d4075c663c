const [GROUPS, REACH] = [6, 3.2];
const side = (width) => Math.min(width, 420);

export default explorer({
  height: side,

  draw({ values: { views: J, sigma2, prior, decoder }, data, width }) {
    const weight = 10 ** decoder;
    const within = weight / (weight + prior / sigma2);
    const between = (J * weight) / (J * weight + prior);
    const pull = (1 - 1 / J) / sigma2 + 1 / J ** 2;
    const v = 1 / (weight + prior * pull);
    const sum = (values) => values.reduce((a, b) => a + b, 0);
    const groups = Array.from({ length: GROUPS }, (_, k) => {
      const u = [0, 1].map((d) => Array.from({ length: J }, (_, j) => data[2 * (GROUPS * j + k) + d]));
      const centre = u.map((values) => sum(values) / J);
      const mu = u.map((values, d) => values.map((value) => between * centre[d] + within * (value - centre[d])));
      const inside = sum(u.flatMap((values, d) => values.map((value) => (value - centre[d]) ** 2)));
      return { u, centre, mu, inside, square: sum(centre.map((c) => c * c)) };
    });
    const mean = (of) => sum(groups.map(of)) / GROUPS;
    const inside = mean((g) => g.inside);
    const square = mean((g) => g.square);
    const error = (1 - within) ** 2 * inside + J * (1 - between) ** 2 * square;
    const log2pi = Math.log(2 * Math.PI);
    const reconstruction = -0.5 * weight * (error + 2 * J * v) - J * (log2pi - Math.log(weight));
    const entropy = J * (Math.log(v) + 1 + log2pi);
    const quadratic = (within ** 2 * inside) / sigma2 + between ** 2 * square + 2 * J * pull * v;
    const log_prior = -0.5 * quadratic - J * (log2pi + Math.log(sigma2)) - log2pi;
    const all = [0, 1].map((d) => mean((g) => g.centre[d]));
    const apart = between ** 2 * J * sum(groups.map((g) => sum(g.centre.map((c, d) => (c - all[d]) ** 2))));
    const own = within ** 2 * inside * GROUPS;
    const ratio = own / (GROUPS * (J - 1)) / ((own + apart) / (GROUPS * J - 1));

    const size = side(width);
    const left = (width - size) / 2;
    const { X, Y, frame } = axes({ width: size, height: size, x: [-REACH, REACH], y: [-REACH, REACH],
      xlabel: "first latent", ylabel: "second latent" });
    const radius = X(Math.sqrt(v)) - X(0);
    const dots = groups.map(({ u, mu }, k) => u[0].map((_, j) => {
      const [x, y, a, b] = [X(u[0][j]), Y(u[1][j]), X(mu[0][j]), Y(mu[1][j])];
      return `<circle cx="${a}" cy="${b}" r="${radius}" fill="var(--c${k})" opacity="0.12"/>
        <path d="M${x} ${y}L${a} ${b}" stroke="var(--c${k})" opacity="0.6"/>
        <circle cx="${x}" cy="${y}" r="3" fill="none" stroke="var(--c${k})"/>
        <circle cx="${a}" cy="${b}" r="3" fill="var(--c${k})"/>`;
    }).join(""));
    return {
      picture: `<g transform="translate(${left} 0)">${frame}${dots.join("")}</g>`,
      label: `Six groups of ${J} views in a plane. The posterior means keep ${written(within, 2)} of the spread within a ` +
        `group and ${written(between, 2)} of the distance of its mean from 0, with a standard deviation of ${written(Math.sqrt(v), 2)}.`,
      numbers: { reconstruction, entropy, log_prior, ratio },
    };
  },
});
