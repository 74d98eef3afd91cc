// Asks the node: JSON routes, and the stream of events. Every wait and every buffer has a bound.

const ANSWER_MS = 5000;
const ANSWER_BYTES_MAX = 4 << 20;
// The node says something every 15 s, if only that it is there.
const SILENCE_MS = 40000;
const LINE_CHARS_MAX = 64 << 10;
// One node may be below another path of the same site.
const KEPT = `lattice.token ${new URL("./", location).pathname}`;

// An answer that is none of success. Without a status, nothing came at all.
export class Refusal extends Error {
  constructor(message, status, after) {
    super(message);
    this.status = status;
    this.after = after;
  }
}

// The token, in this tab alone.
export const token = {
  value: null,
  load() {
    try { this.value = sessionStorage.getItem(KEPT); } catch { /* Storage is off: it is not kept. */ }
  },
  keep() {
    try { if (this.value) sessionStorage.setItem(KEPT, this.value); } catch { /* As above. */ }
  },
  forget() {
    this.value = null;
    try { sessionStorage.removeItem(KEPT); } catch { /* As above. */ }
  },
};

// The JSON at `path`, relative to this page, and when the node said it by its own clock.
export async function json(path) {
  const answer = await send(path, "application/json", AbortSignal.timeout(ANSWER_MS));
  const body = await read(answer);
  const at = Date.parse(answer.headers.get("date") ?? "");
  return { body, at: Number.isFinite(at) ? at : Date.now() };
}

// What is missing, by `/readyz`, which refuses with it.
export async function missing() {
  const answer = await fetch("readyz", options("application/json", AbortSignal.timeout(ANSWER_MS)));
  const body = await read(answer);
  return { missing: Array.isArray(body.missing) ? body.missing.slice(0, 8) : [] };
}

// Hands each event to `heard` until the stream ends, which is always an error.
export async function follow(path, opened, heard) {
  const control = new AbortController();
  let silence = setTimeout(() => control.abort(), ANSWER_MS);
  try {
    const answer = await send(path, "text/event-stream", control.signal);
    opened();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      clearTimeout(silence);
      silence = setTimeout(() => control.abort(), SILENCE_MS);
      const { done, value } = await reader.read();
      if (done) throw new Refusal("the stream ended");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      if (rest.length > LINE_CHARS_MAX) throw new Refusal("a line of the stream has no end");
      // The node writes the data of an event in one line.
      for (const line of lines) if (line.startsWith("data:")) heard(JSON.parse(line.slice(5)));
    }
  } finally {
    clearTimeout(silence);
    control.abort();
  }
}

function options(accept, signal) {
  const headers = { Accept: accept };
  if (token.value) headers.Authorization = `Bearer ${token.value}`;
  return { headers, signal, cache: "no-store", credentials: "same-origin", redirect: "error" };
}

async function send(path, accept, signal) {
  const answer = await fetch(path, options(accept, signal)).catch(() => { throw new Refusal(`${path}: no answer`); });
  if (answer.ok) return answer;
  const after = Number(answer.headers.get("retry-after")) * 1000 || 0;
  const problem = await read(answer).catch(() => ({}));
  throw new Refusal(problem.detail ?? `${path}: ${answer.status}`, answer.status, after);
}

async function read(answer) {
  const parts = [];
  let size = 0;
  const reader = answer.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return JSON.parse(await new Blob(parts).text());
    size += value.byteLength;
    if (size > ANSWER_BYTES_MAX) {
      await reader.cancel();
      throw new Refusal("the answer is too large for this page", answer.status);
    }
    parts.push(value);
  }
}
