// The loop of the page: asks the node every `POLL_MS`, less often while it does not answer, and follows its events.
//
// `judge.js` says what the answers mean, `view.js` and `picture.js` show it. What is shown is never older than it looks:
// a part that was not answered says since when, and a node that does not answer greys the whole page.

import { Refusal, follow, json, missing, token } from "./ask.js";
import { judge, nameOf } from "./judge.js";
import { Strips, drawMap } from "./picture.js";
import { HEALS_MAX, find, set, show, showEvent, showHeals, showNode, showPeers, showVerdict } from "./view.js";
import { clock, plain, span } from "./words.js";

const POLL_MS = 2000;
// In a tab that nobody sees.
const HIDDEN_MS = 15000;
const BACKOFF_MAX_MS = 30000;
// An answer that is due for longer than this does not come: longer than `ask.js` waits for one.
const LATE_MS = 6000;

const OPEN = { root: "./", state: "api/lattice/state" };
const GUARDED = {
  status: "api/lattice/p2p/status",
  peers: "api/lattice/peers",
  heals: `api/lattice/heals?limit=${HEALS_MAX}`,
};
const COLOURS = { ok: "#1f9d5f", http: "#4a72e8", differs: "#d08700", lost: "#d93a40", unknown: "#8a96a3" };

// By the names above, and `ready`: the `body` of the newest answer, when it came (`at`), and the `error` since.
const parts = {};
// Since when the Merkle root and the epoch are what they are, as far as this page saw them change.
const moved = { root: null, epoch: null };
const strips = new Strips();
let verdict = judge({});
// The node wants a token, and there is none that it knows.
let locked = false;
let answered = null;
let failures = 0;
let due = Date.now();
// How far the node's clock is ahead of ours.
let ahead = 0;
// Ends the pause between two rounds; one that has not begun yet is left out.
let wake = () => { hurry = true; };
let hurry = false;

const body = (name) => parts[name]?.body;
const order = new Intl.Collator("en", { numeric: true });

async function pause(ms) {
  const idle = wake;
  await new Promise((done) => {
    const timer = setTimeout(done, hurry ? 0 : ms);
    wake = () => { clearTimeout(timer); done(); };
  });
  wake = idle;
  hurry = false;
}

// Asks for one part. What failed keeps what was known.
async function ask(name, path) {
  try {
    const { body, at } = await json(path);
    // The header has whole seconds: less than two may be nothing.
    if (Math.abs(at - Date.now() - ahead) >= 2000) ahead = at - Date.now();
    parts[name] = { body, at: Date.now() };
  } catch (error) {
    parts[name] = { ...parts[name], error };
  }
  const { error } = parts[name];
  if (!error || error.status) answered = Date.now();
  return error;
}

// Asks for everything; returns when to ask again.
async function round() {
  const asked = Object.entries(locked ? OPEN : { ...OPEN, ...GUARDED });
  const before = { root: body("state")?.merkle_root, epoch: body("state")?.epoch };
  const errors = await Promise.all(asked.map(([name, path]) => ask(name, path)));
  const failed = errors.filter(Boolean);
  if (failed.some(({ status }) => status === 401)) lock();
  else if (failed.length < errors.length && asked.length > 2) token.keep();
  failures = failed.length === errors.length ? failures + 1 : 0;

  delete parts.ready;
  if (failures === 0 && body("root")?.status !== "ready") {
    parts.ready = { body: await missing().catch(() => undefined) };
  }
  const now = { root: body("state")?.merkle_root, epoch: body("state")?.epoch };
  for (const name of ["root", "epoch"]) {
    if (before[name] !== undefined && now[name] !== before[name]) moved[name] = Date.now();
  }
  if (body("peers") && !parts.peers.error) strips.note(Date.now(), body("peers").peers);

  const wait = (document.hidden ? HIDDEN_MS : POLL_MS) * 2 ** Math.min(failures, 4);
  return Math.min(Math.max(wait, ...failed.map(({ after }) => after ?? 0)), BACKOFF_MAX_MS);
}

async function poll() {
  for (;;) {
    const wait = await round();
    due = Date.now() + wait;
    draw();
    await pause(wait);
    due = Date.now();
  }
}

async function followEvents() {
  let wait = POLL_MS / 2;
  for (;;) {
    await new Promise((done) => setTimeout(done, wait));
    if (locked || !body("status")) continue;
    try {
      await follow("api/lattice/events", () => { wait = POLL_MS / 2; set(find("events-state"), "live"); }, showEvent);
    } catch (error) {
      if (error.status === 401) lock();
      const why = error instanceof Refusal ? plain(error.message, 120) : "no answer";
      set(find("events-state"), `not followed since ${clock(Date.now() + ahead)}: ${why}`);
      wait = Math.min(Math.max(2 * wait, error.after ?? 0), BACKOFF_MAX_MS);
    }
  }
}

function lock() {
  if (token.value) set(find("told"), "This token is not known here.");
  token.forget();
  for (const name of Object.keys(GUARDED)) delete parts[name];
  locked = true;
  // Shown at once, to have the cursor where nothing else has it.
  show(find("ask"), true);
  if (document.activeElement === document.body) find("token").focus();
}

// Shows what was asked.
function draw() {
  const now = Date.now();
  const [root, ready, state, status, peers, heals] =
    ["root", "ready", "state", "status", "peers", "heals"].map(body);
  peers?.peers.sort((one, other) => order.compare(nameOf(one), nameOf(other)));
  const problem = Object.values(parts).find(({ error }) => error)?.error.message;
  verdict = judge({ root, ready, state, status, peers, problem, locked });
  show(find("ask"), locked);
  show(find("guarded"), !locked && Boolean(status || peers || heals));
  show(find("forget"), !locked && token.value !== null);
  show(find("picture"), Boolean(peers?.peers.length));
  showNode({ root, ready, state, status, moved }, now);
  if (peers) showPeers(peers, now + ahead, strips, now);
  if (peers) drawMap(find("map"), { name: root?.name, level: verdict.level }, peers.peers);
  if (heals) showHeals(heals, now + ahead);
  for (const name of ["peers", "heals"]) {
    const { at, error } = parts[name] ?? {};
    // When all are late, the page as a whole says so.
    const late = Boolean(error) && failures === 0;
    show(find(`${name}-late`), late);
    find(`${name}-panel`).classList.toggle("old", late);
    if (late) set(find(`${name}-late`), `As of ${at ? clock(at + ahead) : "never"}: ${plain(error.message, 160)}`);
  }
  tick();
}

// Shows what time alone changes: whether all of it still holds.
function tick() {
  const now = Date.now();
  const silent = failures > 0 && (answered === null || now - answered > POLL_MS) || !document.hidden && now > due + LATE_MS;
  const shown = silent ? silence(now) : verdict;
  document.body.classList.toggle("stale", silent);
  show(find("again"), silent);
  showVerdict(shown);
  const fresh = answered === null ? "asking .." : `live, ${span(now - answered)} old`;
  set(find("freshness"), silent ? shown.title : fresh);
  const name = plain(body("root")?.name ?? "Lattice", 40);
  if (document.title !== `${shown.title}: ${name}`) document.title = `${shown.title}: ${name}`;
  icon(COLOURS[shown.level]);
}

function silence(now) {
  const title = answered === null ? "No answer yet" : `No answer since ${clock(answered + ahead)}`;
  const text = answered === null
    ? "The page is here, and the node does not say anything"
    : `For ${span(now - answered)}: what is below is as it was then`;
  return { level: "lost", title, reasons: [{ level: "lost", text }] };
}

// The tab tells, too.
function icon(colour) {
  const diamond = `<path d="M8 1 15 8 8 15 1 8Z" fill="${colour}"/>`;
  const drawn = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">${diamond}</svg>`;
  const href = `data:image/svg+xml,${encodeURIComponent(drawn)}`;
  if (find("icon").getAttribute("href") !== href) find("icon").setAttribute("href", href);
}

find("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = find("token").value.trim();
  find("token").value = "";
  // What no header can hold is no token.
  const known = /^[\x21-\x7e]+$/.test(given);
  set(find("told"), known ? "" : "This token is not known here.");
  if (!known) return;
  token.value = given;
  locked = false;
  wake();
});
find("forget").addEventListener("click", () => {
  token.forget();
  location.reload();
});
find("again").addEventListener("click", () => wake());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  due = Date.now();
  wake();
});

token.load();
setInterval(tick, 1000);
poll();
followEvents();
