// What of a reply was heard, and what was not; words that were sought, in a text.

/** `text` cut where the user ceased to hear it. */
export function splitHeard(text: string, heard: string | null): { heard: string; unheard: string } {
  if (heard === null) return { heard: text, unheard: "" };
  if (text.startsWith(heard)) return { heard, unheard: text.slice(heard.length) };
  // The two may differ in white space: go along both, and compare what is not.
  let i = 0;
  for (const letter of heard) {
    if (/\s/.test(letter)) continue;
    while (i < text.length && /\s/.test(text[i]!)) i += 1;
    if (text.startsWith(letter, i)) i += letter.length;
    else return { heard, unheard: "" };
  }
  return { heard: text.slice(0, i), unheard: text.slice(i) };
}

export interface Piece { text: string; hit: boolean }

/** `text` in pieces, those that are `sought` marked; in any case. */
export function marked(text: string, sought: string): Piece[] {
  const wanted = sought.trim();
  if (!wanted) return [{ text, hit: false }];
  const pieces: Piece[] = [];
  const pattern = new RegExp(wanted.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/\s+/g, "\\s+"), "giu");
  let reached = 0;
  for (const found of text.matchAll(pattern)) {
    if (found.index > reached) pieces.push({ text: text.slice(reached, found.index), hit: false });
    pieces.push({ text: found[0], hit: true });
    reached = found.index + found[0].length;
  }
  if (reached < text.length) pieces.push({ text: text.slice(reached), hit: false });
  return pieces;
}

/** `text` around the first hit, `chars` long at most. */
export function excerpt(text: string, sought: string, chars = 200): string {
  const at = text.toLowerCase().indexOf(sought.trim().toLowerCase());
  if (text.length <= chars) return text;
  const from = Math.max(0, Math.min(at - chars / 3, text.length - chars));
  return `${from > 0 ? "… " : ""}${text.slice(from, from + chars).trim()}${from + chars < text.length ? " …" : ""}`;
}
