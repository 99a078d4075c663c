const [VIEWS, COLUMNS, TILE] = [12, 4, 34];
const STEPS = 11; // of the strength, by 10 %
const ROW = 4 + 4 * VIEWS + 1;

export default explorer({
  read: bytes,
  height: (width) => Math.round(width < 560 ? width * 1.3 : width * 0.46),

  draw({ values: { knob, strength }, options, data, width, height }) {
    const frames = STEPS * options.knob.length;
    const rows = new Float32Array(data.buffer, 0, frames * ROW);
    const frame = STEPS * options.knob.indexOf(knob) + strength / 10;
    const [kept, flipped, gray, apart, ...boxes] = rows.subarray(frame * ROW, (frame + 1) * ROW - 1);
    const end = (f) => 4 * rows.length + (f < 0 ? 0 : rows[(f + 1) * ROW - 1]);
    const [across, down] = [TILE * COLUMNS - 2, (TILE * VIEWS) / COLUMNS - 2];
    const sheet = (f, style) => `<image href="${webp(data.subarray(end(f - 1), end(f)))}" width="${across}" height="${down}"
      style="image-rendering: pixelated; ${style}"/>`;

    const narrow = width < 560;
    const side = Math.round(narrow ? 0.5 * width : 0.36 * width);
    const [x, y] = narrow ? [(width - side) / 2, 0] : [0, (height - side) / 2];
    const wide = narrow ? width : width - side - 24;
    const crops = Array.from({ length: VIEWS }, (_, i) => boxes.slice(4 * i, 4 * i + 4)).map(([top, left, h, w]) =>
      `<rect x="${left + 0.15}" y="${top + 0.15}" width="${w - 0.3}" height="${h - 0.3}"/>`);
    return {
      picture: `<g transform="translate(${x} ${y}) scale(${side / 32})">
        ${sheet(0, `clip-path: inset(0 ${across - 32}px ${down - 32}px 0)`)}
        <g fill="none" stroke="white" stroke-width="0.3" stroke-opacity="0.85">${crops.join("")}</g></g>
        <g transform="translate(${width - wide} ${narrow ? side + 16 : 0}) scale(${wide / across})">${sheet(frame, "")}</g>`,
      label: `An image, with the boxes of twelve crops, and its twelve views under ${knob} at ${strength} % of its ` +
        `strength: they keep ${written(kept, 0)} % of the area on average, ${flipped} are mirrored, ${gray} without colour.`,
      numbers: { kept, flipped, gray, apart },
    };
  },
});
