// What one anchor θ contributes, with its twin and its negatives: Prop. 3.1 and the forces along the circle.
function anchor(theta, twin, others, beta) {
  const s = others.map((other) => Math.cos(other - theta));
  const most = Math.max(...s);
  const nearest = others[s.indexOf(most)];
  const weights = s.map((value) => Math.exp(beta * (value - most)));
  const sum = weights.reduce((a, b) => a + b);
  const crowd = others.reduce((total, other, l) => total - (weights[l] / sum) * Math.sin(other - theta), 0);
  const pull = -beta * Math.cos(twin - theta);
  const loss = pull + beta * most + Math.log(sum);
  return { loss, bound: pull + beta * most + Math.log(s.length), nearest, crowd };
}

export default explorer({
  height: (width) => Math.min(width, 400) + 30,

  draw({ values: { beta, spread, images, turn }, data, width, height }) {
    const place = (i) => (360 * i) / images + (i ? 0 : turn);
    const angles = Array.from({ length: images }, (_, i) =>
      [0, 1].map((k) => (place(i) + spread * data[2 * i + k]) * RADIANS));
    const terms = angles.map(([theta, twin], i) => anchor(theta, twin, angles.filter((_, j) => j !== i).flat(), beta));
    const [loss, bound] = ["loss", "bound"].map((name) => mean(terms.map((term) => term[name])));

    const [cx, cy, radius] = [width / 2, height / 2 - 15, Math.min(width, 400) * 0.33];
    const at = (theta, r = 1) => [cx + radius * r * Math.cos(theta), cy - radius * r * Math.sin(theta)];
    const arrow = (theta, r, force, colour) => {
      if (Math.abs(force) < 0.02) return "";
      const [x, y] = at(theta, r);
      const [ux, uy] = [-Math.sin(theta) * Math.sign(force), -Math.cos(theta) * Math.sign(force)];
      const [tx, ty] = [x + 0.5 * radius * Math.abs(force) * ux, y + 0.5 * radius * Math.abs(force) * uy];
      const head = [[0, 0], [-7 * ux - 4 * uy, -7 * uy + 4 * ux], [-7 * ux + 4 * uy, -7 * uy - 4 * ux]];
      return `<path d="M${x} ${y}L${tx} ${ty}" stroke="var(--${colour})" stroke-width="2.5"/>
        <polygon points="${head.map(([dx, dy]) => `${tx + dx},${ty + dy}`).join(" ")}" fill="var(--${colour})"/>`;
    };
    const one = angles.map(([theta, twin], i) => {
      const [[x, y], [u, v], [a, b]] = [at(theta), at(twin), at(terms[i].nearest)];
      return `<path d="M${x} ${y}L${a} ${b}" stroke="var(--c1)" stroke-dasharray="2 4"/>` +
        arrow(theta, 1, Math.sin(twin - theta), "c0") +
        arrow(theta, 1.1, -Math.sin(terms[i].nearest - theta), "c1") + arrow(theta, 1.2, terms[i].crowd, "c2") +
        `<circle cx="${u}" cy="${v}" r="5.5" fill="none" stroke="currentColor" stroke-width="1.5"/>
        <circle cx="${x}" cy="${y}" r="5.5"/>`;
    });
    const [hx, hy] = at(place(0) * RADIANS, 0.78);
    const words = [["c0", "➔", "twin pulls"], ["c1", "➔", "nearest pushes"], ["c2", "➔", "all push"]];
    const picture = `<circle cx="${cx}" cy="${cy}" r="${radius}" fill="none" stroke="currentColor" opacity="0.35"/>
      ${one.join("")}
      <g data-drag="turn"><circle cx="${hx}" cy="${hy}" r="15" fill="currentColor" fill-opacity="0.1" stroke="currentColor"/>
      <text x="${hx}" y="${hy + 4.5}" text-anchor="middle">1</text></g>
      ${legend(words, width, height - 8)}`;
    return {
      picture,
      label: `${images} images on a circle, two views each, ${spread}° apart in spread. From each first view an arrow ` +
        `points to its twin, one away from the nearest negative and one away from all negatives together. ` +
        `Loss ${written(loss)}, upper bound ${written(bound)}.`,
      numbers: { loss, bound, gap: bound - loss, limit: Math.log(2 * (images - 1)) },
    };
  },

  drag(name, x, y, { values, width, height }) {
    const degrees = Math.atan2(height / 2 - 15 - y, x - width / 2) / RADIANS;
    return { turn: Math.round(degrees) };
  },
});
