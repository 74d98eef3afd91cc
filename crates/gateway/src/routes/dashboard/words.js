// How values read. What a node or a peer says may be hostile: it is cut, and what could disguise it is shown as such.

// Control characters, and those that reorder the text around them.
const DISGUISES = /[\p{Cc}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;

export const NONE = "–";

export function plain(value, max = 80) {
  if (value === null || value === undefined || value === "") return NONE;
  const text = [...String(value).slice(0, 4 * max)];
  const cut = text.length > max ? [...text.slice(0, max - 1), "…"] : text;
  return cut.join("").replace(DISGUISES, "\ufffd");
}

export function number(value) {
  return Number.isFinite(value) ? value.toLocaleString("en") : NONE;
}

// The time of day, as in the log.
export function clock(ms) {
  return Number.isFinite(ms) ? new Date(ms).toISOString().slice(11, 19) : NONE;
}

export function ago(ms) {
  return Number.isFinite(ms) ? `${span(Math.max(ms, 0))} ago` : NONE;
}

// In one unit, or two where the first is small.
export function span(ms) {
  if (!Number.isFinite(ms)) return NONE;
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return s < 600 && s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

// Down to milliseconds, for what was measured.
export function took(ms) {
  if (!Number.isFinite(ms)) return NONE;
  return ms < 1000 ? `${ms} ms` : ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : span(ms);
}

export function bytes(count) {
  if (!Number.isFinite(count)) return NONE;
  let size = count;
  for (const unit of ["B", "KiB", "MiB"]) {
    if (size < 1024) return unit === "B" ? `${size} B` : `${size.toFixed(1)} ${unit}`;
    size /= 1024;
  }
  return `${size.toFixed(1)} GiB`;
}

export function count(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}
