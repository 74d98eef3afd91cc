// What the answers mean: how each peer is, and how the node is, in words and as a level. Nothing here asks or draws.

import { count, plain, span } from "./words.js";

// From what says nothing to the worst; also the names of their colours.
const LEVELS = ["unknown", "ok", "http", "differs", "lost"];

// Negative for a better level.
export function worse(level, other) {
  return LEVELS.indexOf(level) - LEVELS.indexOf(other);
}

export function nameOf(peer) {
  return plain(peer.name || String(peer.public_key ?? "").slice(0, 8), 40);
}

// ok: agrees over P2P. http: agrees over HTTP. differs: to be healed, or silent. lost: no path to it works. A zombie is
// connected, and may speak again: without an error it is not lost.
export function judgePeer(peer) {
  const http = peer.path === "HTTP";
  const unreachable = peer.state === "down" && !http && !peer.http_url;
  if (peer.state !== "live" && (peer.last_error || unreachable)) return "lost";
  if (peer.divergence_count > 0 || isSilent(peer)) return "differs";
  return http ? "http" : "ok";
}

// Not heard over P2P, and not asked over HTTP yet.
export function isSilent(peer) {
  return peer.state !== "live" && peer.path !== "HTTP";
}

// `level`, a `title`, and `reasons` below it, each with a level of its own.
export function judge({ root, ready, state, status, peers, problem, locked }) {
  const reasons = [];
  const say = (level, text) => reasons.push({ level, text });
  const missing = ready?.missing ?? [];
  for (const { service, reason } of missing) say("lost", `${plain(service)}: ${plain(reason, 200)}`);
  // A service that is missing is also why routes fail.
  if (problem && missing.length === 0) say("lost", plain(problem, 200));
  if (state?.recovering) say("lost", "The store lost entries and waits for its peers to fill it again");
  const known = peers?.peers ?? [];
  if (status) paths(status, known, say);
  if (peers) members(known, say);

  if (locked) say("unknown", "Its peers, heals and events are for who has a token");

  reasons.sort((one, other) => worse(other.level, one.level));
  const level = reasons[0]?.level ?? (peers ? "ok" : "unknown");
  return { level, title: title({ level, root, problem, state, status, peers, known }), reasons };
}

function title({ level, root, problem, state, status, peers, known }) {
  if (root && root.status !== "ready") return "Not ready";
  if (problem) return "The node answers in part";
  if (state?.recovering) return "Recovering";
  if (!peers) return root ? "Ready" : "Asking the node ..";
  if (known.length === 0) return "Alone";
  if (status?.health === "ISOLATED") return "Isolated";
  const lost = known.filter((peer) => judgePeer(peer) === "lost").length;
  if (lost > 0) return `${lost} of ${count(known.length, "peer")} lost`;
  if (known.some((peer) => peer.divergence_count > 0)) return "Divergence";
  const silent = known.filter(isSilent).length;
  if (silent > 0) return `${silent} of ${count(known.length, "peer")} silent`;
  if (status?.sync_mode === "HTTP") return "Over HTTP, the second lung";
  if (level === "ok") return "All is well";
  return level === "http" ? "Partly over HTTP" : "Degraded";
}

// A sensor that is gone is missing, and told as such; one that is disabled has nothing to say.
function paths(status, known, say) {
  if (!status.enabled) say("http", "P2P is disabled (sensor.enabled)");
  else if (!status.libp2p_available) say("lost", `p2p-sensor: ${plain(status.error ?? "does not answer", 200)}`);
  else if (status.error) say("differs", `p2p-sensor: ${plain(status.error, 200)}`);
  if (status.clock_error) say("differs", plain(status.clock_error, 200));
  if (status.fallback_in_ms !== null) say("differs", `No live peers: HTTP fallback in ${span(status.fallback_in_ms)}`);
  if (status.health === "ISOLATED" && known.length > 0) {
    say("lost", "Neither path reaches a peer: writes are kept, and leave when a path is back");
  }
  if (status.health === "P2P_ONLY" && status.http_sync_enabled) {
    say("differs", "No peer answers over HTTP: there is no second lung");
  }
  if (status.pinned) say("http", `The path is pinned to ${plain(status.pinned)} until the next restart`);
}

function members(known, say) {
  const named = (peers) => {
    const shown = peers.slice(0, 4).map(nameOf);
    const more = peers.length - shown.length;
    return more > 0 ? `${shown.join(", ")} and ${more} more` : shown.join(", ");
  };
  const differing = known.filter((peer) => peer.divergence_count > 0);
  if (differing.length > 0) {
    const counts = Math.max(...differing.map((peer) => peer.divergence_count));
    say("differs", `Differs from ${named(differing)} (count: ${counts})`);
  }
  const of = (level) => known.filter((peer) => judgePeer(peer) === level && peer.divergence_count === 0);
  const [lost, silent, http, ok] = ["lost", "differs", "http", "ok"].map(of);
  if (lost.length > 0) say("lost", `No path to ${named(lost)}`);
  const [asked, mute] = [silent.filter((peer) => peer.http_url), silent.filter((peer) => !peer.http_url)];
  if (asked.length > 0) say("differs", `Not live over P2P, not yet asked over HTTP: ${named(asked)}`);
  if (mute.length > 0) say("differs", `Silent over P2P, with no URL to be asked at: ${named(mute)}`);
  if (http.length > 0) say("http", `${named(http)}: over HTTP, no difference`);
  if (ok.length > 0) say("ok", `${ok.length} of ${count(known.length, "peer")} live over P2P, no difference`);
}
