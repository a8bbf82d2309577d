// Colours of owners. The same names get the same colours on every page and in every browser; those
// that are shown together get different ones as long as there are enough. A short label goes with
// each, for whom colours do not tell apart.

const HUES = 24;

/** FNV-1a over the characters. */
function hash(text) {
  let value = 0x811c9dc5;
  for (const character of text) {
    value = Math.imul(value ^ character.codePointAt(0), 0x01000193) >>> 0;
  }
  return value;
}

/** Gives each name a hue (degrees), a shade (0 or 1) and a label (A, B, … Z, AA, …). */
export function palette(names) {
  const places = 2 * HUES;
  const taken = new Set();
  const colours = new Map();
  for (const name of [...new Set(names)].sort()) {
    let place = hash(name) % places;
    // Steps of seven: neighbours in the list are not neighbours in hue.
    while (taken.has(place) && taken.size < places) place = (place + 7) % places;
    taken.add(place);
    const hue = Math.round(((place % HUES) * 360) / HUES);
    colours.set(name, { hue, shade: place < HUES ? 0 : 1, label: label(colours.size) });
  }
  return colours;
}

function label(index) {
  const letter = String.fromCharCode(65 + (index % 26));
  return index < 26 ? letter : label(Math.floor(index / 26) - 1) + letter;
}

/** Custom properties that the style sheet makes a colour of. */
export function colourVars(colour) {
  return { '--hue': colour.hue, '--shade': colour.shade };
}
