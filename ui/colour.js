// Colours of owners. The same names get the same colours on every page and in every browser; those
// that are shown together get different ones as long as there are enough. A short label goes with
// each, for whom colours do not tell apart.

const HUES = 24;

/** Each hue in two shades. */
const PLACES = 2 * HUES;

/** FNV-1a over the characters. */
function hash(text) {
  let value = 0x811c9dc5;
  for (const character of text) {
    value = Math.imul(value ^ character.codePointAt(0), 0x01000193) >>> 0;
  }
  return value;
}

/** Gives each name a hue (degrees), a shade (0 or 1) and a label (A, B, … Z, AA, …). A name's own
 *  place is by its hash; where that, or one that looks alike, is taken, it is the next that is not. */
export function palette(names) {
  const taken = [];
  const colours = new Map();
  for (const name of [...new Set(names)].sort()) {
    const place = free(hash(name) % PLACES, taken);
    taken.push(place);
    const hue = Math.round(((place % HUES) * 360) / HUES);
    colours.set(name, { hue, shade: place < HUES ? 0 : 1, label: label(colours.size) });
  }
  return colours;
}

function free(own, taken) {
  // Beyond that many there is no room to keep apart.
  if (taken.length >= PLACES) return own;
  for (const apart of taken.length < HUES / 3 ? [2, 1, 0] : taken.length < HUES ? [1, 0] : [0]) {
    for (let step = 0; step < PLACES; step += 1) {
      // Steps of seven: neighbours in the list are not neighbours in hue.
      const place = (own + 7 * step) % PLACES;
      if (taken.every((other) => place !== other && (apart === 0 || distance(place, other) >= apart))) return place;
    }
  }
  return own;
}

/** Of the hues of two places, in steps around the circle. */
function distance(one, other) {
  const steps = Math.abs((one % HUES) - (other % HUES));
  return Math.min(steps, HUES - steps);
}

function label(index) {
  const letter = String.fromCharCode(65 + (index % 26));
  return index < 26 ? letter : label(Math.floor(index / 26) - 1) + letter;
}

/** Custom properties that the style sheet makes a colour of. */
export function colourVars(colour) {
  return { '--hue': colour.hue, '--shade': colour.shade };
}
