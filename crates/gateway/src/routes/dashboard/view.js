// Puts what was asked onto the page. Text goes in as text alone, and only where it changed, so that what is selected or
// focused stays so.

import { judgePeer, nameOf } from "./judge.js";
import { NONE, ago, bytes, clock, count, number, plain, span, took } from "./words.js";

// More rows than these do not help anybody; the API has all of them.
const PEERS_MAX = 200;
const URLS_MAX = 20;
export const HEALS_MAX = 20;
const EVENTS_MAX = 200;

export const find = (id) => document.getElementById(id);

export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

function make(name, kind, text) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

function mark(element, kind) {
  if (element.className !== kind) element.className = kind;
}

// A hash by its beginning, which copies all of it.
class Copy {
  constructor(what, length = 8) {
    this.element = make("button", "copy");
    this.element.type = "button";
    this.element.addEventListener("click", () => copy(this.element, this.whole, what));
    Object.assign(this, { what, length });
  }

  set(value) {
    this.whole = value ? plain(value, 128) : null;
    this.element.disabled = !this.whole;
    set(this.element, this.whole ? this.whole.slice(0, this.length) : "none");
    const title = this.whole ? `Copy the ${this.what}: ${this.whole}` : "";
    if (this.element.title !== title) this.element.title = title;
    return this;
  }
}

async function copy(button, text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without TLS a page has no clipboard of its own: the selection has.
    const field = make("textarea", "unseen", text);
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  find("spoken").textContent = `Copied the ${what}`;
  button.classList.add("copied");
  setTimeout(() => button.classList.remove("copied"), 1200);
}

// A row of a table, with the name of each column for screens that have no room for a head.
class Row {
  constructor(names) {
    this.element = make("tr");
    this.element.setAttribute("role", "row");
    this.cells = {};
    for (const [key, name, kind] of names) {
      const cell = make("td", kind);
      cell.setAttribute("role", "cell");
      cell.dataset.name = name;
      this.cells[key] = this.element.appendChild(cell);
    }
  }

  add(key, ...children) {
    this.cells[key].append(...children);
  }
}

// One row for each key, in the order given; rows that stay are kept as they are.
class Rows {
  constructor(body, create) {
    Object.assign(this, { body, create, rows: new Map() });
  }

  update(items, key, fill) {
    const rows = new Map();
    for (const item of items) {
      const row = this.rows.get(key(item)) ?? this.create();
      rows.set(key(item), row);
      fill(row, item);
    }
    for (const [key, row] of this.rows) if (!rows.has(key)) row.element.remove();
    this.rows = rows;
    let at = this.body.firstElementChild;
    for (const { element } of rows.values()) {
      if (element === at) at = at.nextElementSibling;
      else this.body.insertBefore(element, at);
    }
  }
}

const root = new Copy("Merkle root", 12);
const own = new Copy("public key");
find("root").replaceChildren(root.element);
find("key").replaceChildren(own.element);

function health(status) {
  switch (status.health) {
    case "OPTIMAL": return ["ok", "each path reaches a peer"];
    case "P2P_ONLY": return status.http_sync_enabled ? ["differs", "HTTP reaches no peer"] : ["ok", "HTTP has no peers"];
    case "HTTP_ONLY": return ["http", status.enabled ? "P2P reaches no peer" : "P2P is disabled"];
    default: return ["lost", "no path reaches a peer"];
  }
}

const MODE = { P2P: "ok", HTTP: "http", NONE: "lost" };

export function showNode({ root: node, ready, state, status, moved }, now) {
  if (node) {
    set(find("name"), plain(node.name, 40));
    set(find("version"), plain(node.version, 20));
    mark(find("ready"), node.status === "ready" ? "ok" : "lost");
    set(find("ready"), node.status === "ready" ? "ready" : "not ready");
    const missing = (ready?.missing ?? []).map(({ service }) => plain(service, 20));
    set(find("ready-more"), missing.length > 0 ? `without ${missing.join(", ")}` : "all services answer");
    if (node.status !== "ready" && missing.length === 0) set(find("ready-more"), "");
  }
  if (state) {
    set(find("cluster"), plain(state.cluster, 40));
    own.set(state.public_key);
    root.set(state.merkle_root);
    set(find("root-more"), moved.root ? `for ${span(now - moved.root)}` : "no change seen yet");
    set(find("epoch"), plain(state.epoch));
    set(find("epoch-more"), moved.epoch ? `moved ${ago(now - moved.epoch)}` : "");
    set(find("keys"), number(state.state_size));
    const seal = state.seals?.at(-1);
    set(find("keys-more"), seal ? count(seal.tombstones, "tombstone") : "");
  }
  if (status) {
    mark(find("mode"), MODE[status.sync_mode] ?? "lost");
    set(find("mode"), plain(status.sync_mode));
    set(find("mode-more"), status.pinned ? `pinned to ${plain(status.pinned)}` : "chosen by itself");
    const [level, words] = health(status);
    mark(find("health"), level);
    set(find("health"), plain(status.health));
    set(find("health-more"), words);
  }
}

export function showVerdict({ level, title, reasons }) {
  document.body.dataset.level = level;
  set(find("verdict"), title);
  const list = find("reasons");
  while (list.children.length > reasons.length) list.lastChild.remove();
  reasons.forEach(({ level, text }, index) => {
    const item = list.children[index] ?? list.appendChild(make("li"));
    mark(item, level);
    set(item, text);
  });
}

function peerRow() {
  const row = new Row([
    ["peer", "Peer", "main"], ["state", "State"], ["path", "Path"], ["differs", "Differs"],
    ["lag", "Lag", "number"], ["backoff", "Backoff", "number"], ["heard", "Heard", "number"],
    ["errors", "Errors", "words"], ["strip", "Last 2 min"],
  ]);
  row.name = make("bdi", "name");
  row.key = new Copy("public key");
  row.state = make("span");
  row.path = make("span");
  row.failover = make("small");
  row.pips = make("span", "pips");
  row.pips.append(make("i"), make("i"), make("i"));
  row.differs = make("span");
  row.errors = make("span");
  row.error = make("bdi", "error");
  row.strip = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({ class: "strip", viewBox: "0 0 120 14", role: "img" })) {
    row.strip.setAttribute(key, value);
  }
  row.add("peer", row.name, row.key.element);
  row.add("state", row.state);
  row.add("path", row.path, row.failover);
  row.add("differs", row.pips, row.differs);
  row.add("errors", row.errors, row.error);
  row.add("strip", row.strip);
  return row;
}

const peers = new Rows(find("peers"), peerRow);
const STATE = { live: "ok", zombie: "differs", down: "lost" };

export function showPeers({ peers: known = [], url_errors: urls = [] }, now, strips, here) {
  const shown = known.slice(0, PEERS_MAX);
  set(find("peers-count"), known.length > shown.length ? `${shown.length} of ${known.length}` : `${known.length}`);
  show(find("peers-empty"), known.length === 0);
  show(find("peers").parentElement, known.length > 0);
  peers.update(shown, (peer) => peer.public_key, (row, peer) => {
    const level = judgePeer(peer);
    if (row.element.dataset.level !== level) row.element.dataset.level = level;
    set(row.name, nameOf(peer));
    row.key.set(peer.public_key);
    row.cells.peer.title = plain(peer.http_url ?? peer.addresses?.[0], 200);
    // Down over P2P is what HTTP is there for.
    mark(row.state, `badge ${peer.state === "down" && level === "http" ? "" : STATE[peer.state] ?? "lost"}`);
    set(row.state, plain(peer.state, 10));
    mark(row.path, peer.path ? `badge ${peer.path === "HTTP" ? "http" : "ok"}` : "");
    set(row.path, plain(peer.path, 10));
    // While it is what the path says already, the state of the failover adds nothing.
    const failover = ["primary", "secondary"].includes(peer.failover) ? "" : plain(peer.failover ?? "", 24);
    set(row.failover, failover === NONE ? "" : failover);
    [...row.pips.children].forEach((pip, index) => mark(pip, peer.divergence_count > index ? "on" : ""));
    set(row.differs, number(peer.divergence_count));
    set(row.cells.lag, peer.lag_epochs > 0 ? number(peer.lag_epochs) : NONE);
    set(row.cells.backoff, peer.backoff_ms > 0 ? span(peer.backoff_ms + 999) : NONE);
    set(row.cells.heard, peer.last_heartbeat ? ago(now - Date.parse(peer.last_heartbeat)) : "never");
    set(row.errors, number(peer.errors));
    set(row.error, peer.last_error ? plain(peer.last_error, 160) : "");
    row.error.title = peer.last_error ? plain(peer.last_error, 1000) : "";
    strips.draw(row.strip, here, peer.public_key);
  });
  const failing = urls.filter((url) => url.last_error).slice(0, URLS_MAX);
  find("urls").replaceChildren(...failing.map(({ url, errors, last_error: last }) => {
    return make("li", "", `${plain(url, 120)}: ${plain(last, 200)} (${count(errors, "error")})`);
  }));
}

function healRow() {
  const row = new Row([
    ["when", "Started", "main"], ["peer", "Peer", "words"], ["path", "Path"], ["outcome", "Outcome"],
    ["entries", "Entries", "number"], ["took", "Took", "number"], ["rounds", "Rounds", "number"],
    ["bytes", "Bytes in / out", "number"], ["roots", "Root"], ["trace", "Trace"],
  ]);
  row.when = make("time");
  row.since = make("small");
  row.path = make("span");
  row.outcome = make("span");
  row.detail = make("bdi", "error");
  row.before = new Copy("root before");
  row.after = new Copy("root after");
  row.trace = new Copy("trace id");
  row.add("when", row.when, row.since);
  row.add("path", row.path);
  row.add("outcome", row.outcome, row.detail);
  row.add("roots", row.before.element, " → ", row.after.element);
  row.add("trace", row.trace.element);
  return row;
}

const heals = new Rows(find("heals"), healRow);

export function showHeals({ heals: known = [] }, now) {
  const shown = known.slice(0, HEALS_MAX);
  set(find("heals-count"), shown.length === HEALS_MAX ? `the last ${HEALS_MAX}` : `${shown.length}`);
  show(find("heals-empty"), shown.length === 0);
  show(find("heals").parentElement, shown.length > 0);
  heals.update(shown, (heal) => heal.id, (row, heal) => {
    const healed = heal.outcome === "Healed";
    row.when.dateTime = heal.started;
    set(row.when, clock(Date.parse(heal.started)));
    set(row.since, ago(now - Date.parse(heal.started)));
    set(row.cells.peer, plain(heal.peer_name ?? heal.peer, 48));
    mark(row.path, heal.path ? `badge ${heal.path === "HTTP" ? "http" : "ok"}` : "");
    set(row.path, plain(heal.path, 10));
    mark(row.outcome, `badge ${healed ? "ok" : heal.outcome === "Lied" ? "lost" : "differs"}`);
    set(row.outcome, plain(heal.outcome, 16));
    set(row.detail, !healed && heal.detail ? plain(heal.detail, 160) : "");
    set(row.cells.entries, number(heal.entries_merged));
    set(row.cells.took, took(heal.duration_ms));
    set(row.cells.rounds, number(heal.rounds));
    set(row.cells.bytes, `${bytes(heal.bytes_in)} / ${bytes(heal.bytes_out)}`);
    row.before.set(heal.root_before);
    row.after.set(heal.root_after);
    row.trace.set(heal.trace_id);
  });
}

const EVENT = { DIVERGENCE: "differs", TIMER: "differs", LUNG: "http", RECONCILIATION: "ok", RECOVERY: "lost", REFUSED: "lost" };

// As the log has it. The newest is at the end, and in sight for who looks at the end.
export function showEvent(event) {
  const list = find("events");
  const follows = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  const line = make("li", EVENT[event.tag] ?? "");
  const tags = [clock(Date.parse(event.time)), event.component, event.tag].filter(Boolean);
  line.append(make("span", "tags", tags.map((tag) => `[${plain(tag, 24)}]`).join(" ")), " ");
  line.append(make("bdi", "", plain(event.message, 500)));
  if (event.missed > 0) list.append(make("li", "lost", `${count(event.missed, "event")} before this lost: this page was too slow`));
  list.append(line);
  while (list.children.length > EVENTS_MAX) list.firstChild.remove();
  show(find("events-empty"), false);
  if (follows) list.scrollTop = list.scrollHeight;
}
