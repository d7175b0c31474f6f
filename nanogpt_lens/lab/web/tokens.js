/* Text and token ids, and tokens as people may see them: visible, recognisable, unable to turn a line around.
   The same marks as nanogpt_lens/viz/tokens.py, but for the newline, which is typed here. */

const TOKEN_MARKS = { "\n": "⏎", "\r": "␍", "\t": "⇥", " ": "·", "\u00a0": "⍽" };
const HIDDEN_CHARACTER = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u;
const ODD_SPACE = /\p{Zs}/u;
const MARK_CHARACTER = /\p{Mn}/u;
const SYMBOL_CHARACTER = /\p{So}/u;

function visibleCharacter(characters, i) {
  const character = characters[i];
  if (character in TOKEN_MARKS) return TOKEN_MARKS[character];
  if (character === "\u200d" && i > 0 && i < characters.length - 1 && SYMBOL_CHARACTER.test(characters[i + 1])) return character;
  if (HIDDEN_CHARACTER.test(character) || ODD_SPACE.test(character)) {
    return `⟨${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  }
  return i === 0 && MARK_CHARACTER.test(character) ? "◌" + character : character;
}

/* A piece of text with its white space, control and direction characters made visible. */
export function visibleText(text, longest = 40) {
  const characters = Array.from(text);
  const shown = characters.slice(0, longest).map((_, i) => visibleCharacter(characters, i));
  return (shown.join("") || "∅") + (characters.length > longest ? "…" : "");
}

/* A name or a sentence from outside: spaces stay, what could turn the line around is made visible. */
export function plainWords(text, longest = 400) {
  return String(text ?? "").split(" ").map((word) => (word === "" ? "" : visibleText(word, longest))).join(" ").slice(0, longest);
}

/* The label of a token: its text made visible, or its number where there is no vocabulary. */
export function tokenLabel(payload, id, longest = 16) {
  const text = payload.vocab ? payload.vocab[id] : undefined;
  return text === undefined ? String(id) : visibleText(text, longest);
}

/* The token in a sentence: “n”, the space, the newline, token 12. */
export function tokenInWords(payload, id) {
  const text = payload.vocab ? payload.vocab[id] : undefined;
  if (text === undefined) return `token ${id}`;
  if (text === " ") return "the space";
  if (text === "\n") return "the newline";
  return `“${visibleText(text, 16)}”`;
}

/* Whether the page takes text; otherwise it takes ids. */
export function takesText(payload) {
  return payload.encode === "characters" && Array.isArray(payload.vocab);
}

/* The text of ids, as it is typed and written (not made visible). */
export function textOfIds(payload, ids) {
  return ids.map((id) => (payload.vocab ? payload.vocab[id] ?? "" : String(id))).join("");
}

/* What an input shows for ids: text, or numbers with spaces between. */
export function typedOf(payload, ids) {
  return takesText(payload) ? textOfIds(payload, ids) : ids.join(" ");
}

function idsOfText(payload, text) {
  const idOf = new Map(payload.vocab.map((token, id) => [token, id]));
  const plain = idOf.has("\r") ? text : text.replace(/\r\n?/g, "\n");
  return Array.from(plain).map((piece) => ({ piece, id: idOf.has(piece) ? idOf.get(piece) : null }));
}

function idsOfNumbers(payload, text) {
  const n = payload.config.n_tokens ?? payload.config.d_vocab;
  return text.split(/[\s,]+/).filter((word) => word !== "").map((piece) => {
    const id = /^\d{1,9}$/.test(piece) ? Number(piece) : null;
    return { piece, id: id !== null && id < n ? id : null };
  });
}

/* What was typed: the pieces with their ids (null: unknown), the ids or null, and a sentence where something is wrong. */
export function readTyped(payload, text) {
  const asText = takesText(payload);
  const all = asText ? idsOfText(payload, text) : idsOfNumbers(payload, text);
  const room = payload.config.n_ctx;
  const pieces = all.slice(0, room);
  const tooLong = all.length > room;
  const unknown = pieces.filter(({ id }) => id === null);
  const ids = unknown.length || !pieces.length ? null : pieces.map(({ id }) => id);
  return { pieces, ids, tooLong, problem: typedProblem(payload, pieces, unknown, tooLong) };
}

function typedProblem(payload, pieces, unknown, tooLong) {
  const asText = takesText(payload);
  if (unknown.length) {
    const names = [...new Set(unknown.map(({ piece }) => `“${visibleText(piece, 12)}”`))].slice(0, 5).join(", ");
    const last = (payload.config.n_tokens ?? payload.config.d_vocab) - 1;
    return asText ? `The model has no token for ${names}; the rest of the page stays at the last text that it can read.`
      : `${names}: expected whole numbers from 0 to ${last}, with spaces between.`;
  }
  if (!pieces.length) return `The model needs at least one ${asText ? "character" : "token"}.`;
  const unit = asText ? "characters" : "tokens";
  return tooLong ? `The model reads at most ${payload.config.n_ctx} ${unit}; what is over that is not taken.` : null;
}
