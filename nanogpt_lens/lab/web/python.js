/* "Copy as Python": a complete script that gives the page's numbers with ngl.load and ngl.intervene. */
import { hookName } from "./sites.js";
import { interventionsOf, stackOf } from "./stack.js";
import { takesText, textOfIds } from "./tokens.js";

const PLAIN_ESCAPES = { "\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\" };

function escapedCharacter(character) {
  if (character in PLAIN_ESCAPES) return PLAIN_ESCAPES[character];
  const code = character.codePointAt(0);
  if (code < 127 ? code >= 32 : /[\p{L}\p{N}\p{P}\p{S}]/u.test(character)) return character;
  const hex = code.toString(16);
  if (code < 256) return `\\x${hex.padStart(2, "0")}`;
  return code < 65536 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}

/* A text as a Python string literal. */
export function pythonText(text) {
  return `"${Array.from(text, escapedCharacter).join("")}"`;
}

/* Plain JSON values as a Python literal. */
export function pythonLiteral(value) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return pythonText(value);
  if (typeof value === "number") return String(value);
  if (Array.isArray(value)) return `[${value.map(pythonLiteral).join(", ")}]`;
  return `{${Object.entries(value).map(([key, item]) => `${pythonText(key)}: ${pythonLiteral(item)}`).join(", ")}}`;
}

function promptLiteral(payload, ids) {
  return takesText(payload) ? pythonText(textOfIds(payload, ids)) : pythonLiteral(ids);
}

/* The lines that make a direction, and its name. */
function directionLines(payload, add, number) {
  const name = `direction_${number}`;
  if ("token" in add) {
    const column = `model.W_U[:, ${add.token}]`;
    return { name, lines: [`${name} = (${column} / ${column}.norm()).tolist()  # a token's unembedding, of length 1`] };
  }
  if ("neuron" in add) {
    const row = `model.W_out[${add.neuron[0]}, ${add.neuron[1]}]`;
    return { name, lines: [`${name} = (${row} / ${row}.norm()).tolist()  # what a neuron writes, of length 1`] };
  }
  if ("stored" in add) return { name, lines: [`${name} = ${pythonLiteral(payload.directions[add.stored])}`] };
  const { activation, layer, pos } = add.difference;
  const hook = `"${hookName(activation, layer)}"`;
  return {
    name,
    lines: [
      "_, clean_cache = model.run_with_cache(clean_tokens)",
      "_, other_cache = model.run_with_cache(other_tokens)",
      `${name} = (other_cache[${hook}][0, ${pos}] - clean_cache[${hook}][0, ${pos}]).tolist()`,
    ],
  };
}

function interventionLiteral(one, direction) {
  const { source, ...place } = one;
  const fields = Object.entries(place).map(([key, value]) => `${pythonText(key)}: ${pythonLiteral(value)}`);
  const written = direction ? `{"add": ${direction}, "scale": ${pythonLiteral(source.scale ?? 1)}}` : pythonLiteral(source ?? "zero");
  return `{${[...fields, `"source": ${written}`].join(", ")}}`;
}

function interventionLines(payload, interventions) {
  const before = [], list = [];
  interventions.forEach((one, i) => {
    const add = typeof one.source === "object" ? one.source.add : undefined;
    const direction = add && !Array.isArray(add) ? directionLines(payload, add, i + 1) : null;
    for (const line of direction?.lines ?? []) if (!before.includes(line)) before.push(line);
    list.push(`    ${interventionLiteral(one, direction?.name)},`);
  });
  return { before, list: list.length ? ["interventions = [", ...list, "]"] : ["interventions = []"] };
}

function measureLines(position, answer, wrong, text) {
  const known = Number.isInteger(answer);
  const lines = known ? [`position, answer = ${position}, ${answer}${text(answer)}`]
    : [`position = ${position}`, "answer = result.base[0, position].argmax().item()  # the likeliest without the interventions"];
  if (wrong === null) {
    lines.push(
      "rows = [logits[0, position].double().log_softmax(-1) for logits in (result.base, result.logits)]",
      "before, after = (row[answer].item() for row in rows)",
      'print(f"log P(answer) without: {before:.6f}")',
      'print(f"log P(answer) with:    {after:.6f}  ({after - before:+.6f})")',
    );
  } else {
    lines.push(
      `wrong = ${wrong}${text(wrong)}`,
      "rows = [logits[0, position].double() for logits in (result.base, result.logits)]",
      "before, after = ((row[answer] - row[wrong]).item() for row in rows)",
      'print(f"logit(answer) - logit(wrong) without: {before:.6f}")',
      'print(f"logit(answer) - logit(wrong) with:    {after:.6f}  ({after - before:+.6f})")',
    );
  }
  return lines;
}

/* The script for a state; where its answer is null, the script takes the likeliest. */
export function pythonOf(payload, state) {
  const interventions = interventionsOf(stackOf(state));
  const sources = interventions.map((one) => one.source);
  const { before, list } = interventionLines(payload, interventions);
  const differs = before.some((line) => line.includes("other_tokens"));
  const mean = sources.includes("mean") && payload.reference?.length;
  const other = state.other && (sources.includes("other") || differs);
  const text = (id) => (payload.vocab?.[id] === undefined ? "" : `  # ${pythonText(payload.vocab[id])}`);
  const made = [other ? "other=other" : "", mean ? "reference=reference" : ""].filter(Boolean);
  const lines = ["import nanogpt_lens as ngl"];
  if (differs) lines.splice(0, 1, "import torch", "", "import nanogpt_lens as ngl");
  lines.push("", `model = ${payload.code ?? `ngl.load(${pythonText(payload.load ?? payload.name)})`}`);
  if (payload.sha256) lines.push(`# SHA-256 of the checkpoint: ${payload.sha256.replace(/[^0-9a-f]/gi, "")}`);
  lines.push(`clean = ${promptLiteral(payload, state.tokens)}`);
  if (other) lines.push(`other = ${promptLiteral(payload, state.other)}`);
  if (differs) {
    lines.push(`clean_tokens = torch.tensor([${pythonLiteral(state.tokens)}])`, `other_tokens = torch.tensor([${pythonLiteral(state.other)}])`);
  }
  if (mean) lines.push("reference = [  # over these the averages are taken", ...payload.reference.map((row) => `    ${pythonLiteral(row)},`), "]");
  lines.push(...before, ...list);
  lines.push(`result = ngl.intervene(${["model", "clean", "interventions", ...made].join(", ")})`);
  lines.push(...measureLines(state.read ?? state.tokens.length - 1, state.answer, state.wrong, text));
  return lines.join("\n") + "\n";
}
