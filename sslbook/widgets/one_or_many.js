const IMAGES = 316;
const side = (width) => Math.min(width, 400);

export default explorer({
  height: (width) => side(width) + 26,
  read: (view, model) => [floats(view), model.get("cuts")],

  draw({ values: { arc, place, network, weights }, options, data: [frames, cuts], width }) {
    const chosen = options.network.indexOf(network) * options.weights.length + options.weights.indexOf(weights);
    const [pieces, regions] = [0, 1].map((k) => frames.slice((2 * chosen + k) * IMAGES, (2 * chosen + k + 1) * IMAGES));
    const images = Array.from({ length: arc + 1 }, (_, i) => i);
    // A line has its angle modulo 180°: the best one for all tangents has the mean of the doubled angles.
    const [c, s] = [Math.cos, Math.sin].map((f) => images.reduce((sum, i) => sum + f(2 * (i + 90) * RADIANS), 0));
    const best = Math.atan2(s, c) / 2;
    const one = 0.5 - Math.hypot(c, s) / (2 * images.length);
    const missed = (i) => Number.isNaN(pieces[i]) ? 1 : Math.cos(pieces[i] - i * RADIANS) ** 2;
    const many = images.reduce((sum, i) => sum + missed(i), 0) / images.length;
    const met = new Set(regions.slice(0, arc + 1));
    const cells = cuts[chosen].match(/M[^Z]*Z/g);

    const at = (degrees) => [1000 * Math.cos(degrees * RADIANS), -1000 * Math.sin(degrees * RADIANS)];
    const curve = (from, to, looks) =>
      `<path d="M${Array.from({ length: to - from + 1 }, (_, i) => at(from + i)).join("L")}" stroke="currentColor" ${looks}/>`;
    const stroke = (i, angle, colour, half) => {
      const [[x, y], dx, dy] = [at(i), half * Math.cos(angle), -half * Math.sin(angle)];
      return Number.isNaN(angle) ? "" :
        `<path d="M${x - dx} ${y - dy}L${x + dx} ${y + dy}" stroke="var(--${colour})" stroke-width="24"/>`;
    };
    const both = (i, half) => stroke(i, best, "c1", half) + stroke(i, pieces[i], "c0", half);
    const [x, y] = at(place);
    const size = side(width);
    const words = [["c1", "━", "one for all"], ["c0", "━", "own piece"], ["c2", "■", "regions met"]];
    const picture = `<g transform="translate(${width / 2} ${size / 2}) scale(${size / 2800})" fill="none">
      <path d="${[...met].map((k) => cells[k]).join("")}" fill="var(--c2)" fill-opacity="0.25"/>
      <path d="${cells[regions[place]]}" fill="var(--c2)" fill-opacity="0.6"/>
      <path d="${cuts[chosen]}" stroke="currentColor" stroke-opacity="0.4" stroke-width="5"/>
      ${curve(arc, IMAGES - 1, 'stroke-width="8" stroke-dasharray="10 30"')}${curve(0, arc, 'stroke-width="8"')}
      ${images.filter((i) => i % 12 === 6).map((i) => both(i, 100)).join("")}${both(place, 300)}
      <circle data-drag="place" cx="${x}" cy="${y}" r="95" fill="currentColor" fill-opacity="0.1" stroke="currentColor" stroke-width="8"/></g>
      ${legend(words, width, size + 18)}`;
    return {
      picture,
      label: `An arc of ${arc}° in a square that a projector cuts into ${cells.length} regions, of which the arc meets ${met.size}. ` +
        `The best direction for all its tangents misses ${written(one)} of them, the pieces of the projector ${written(many)}; ` +
        `that at ${place}° misses ${written(missed(place))}.`,
      numbers: { one, many, here: missed(place), met: met.size, regions: cells.length },
    };
  },

  drag(name, x, y, { width }) {
    const degrees = Math.atan2(side(width) / 2 - y, x - width / 2) / RADIANS;
    return { place: degrees < -22 ? degrees + 360 : degrees };
  },
});
