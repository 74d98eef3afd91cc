// Draws: the node among its peers, and the last minutes of each peer as a strip. Colours and dashes are the style's.

import { isSilent, judgePeer, nameOf, worse } from "./judge.js";
import { plain } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 440;
// More do not fit; the table has all of them.
const PEERS_MAX = 12;

const SLOT_MS = 2000;
const SLOTS = 60;
const STRIPS_MAX = 1000;

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Peers stand on an ellipse around the node, in the order of the table. Where there are too many, the worst are shown.
export function drawMap(svg, own, peers) {
  const worst = [...peers].sort((one, other) => worse(judgePeer(other), judgePeer(one))).slice(0, PEERS_MAX);
  const shown = peers.filter((peer) => worst.includes(peer));
  const drawn = JSON.stringify([own, peers.length, shown.map((peer) => [nameOf(peer), peer.path, judgePeer(peer), sign(peer)])]);
  if (svg.dataset.drawn === drawn) return;
  svg.dataset.drawn = drawn;

  // Two stand beside the node; more also above and below.
  const height = shown.length > 2 ? 230 : 110;
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
  const [x, y] = [WIDTH / 2, shown.length > 2 ? height / 2 : height / 2 - 10];
  const links = [];
  const dots = [];
  shown.forEach((peer, index) => {
    const angle = shown.length === 1 ? 0 : ((index + 0.5) / shown.length) * 2 * Math.PI + Math.PI / 2;
    const [to, down] = [x + 150 * Math.cos(angle), y + 80 * Math.sin(angle)];
    const level = judgePeer(peer);
    const group = shape("g", { class: `link ${level} ${peer.path === "HTTP" ? "second" : ""}` });
    group.append(shape("line", { x1: x, y1: y, x2: to, y2: down }));
    if (sign(peer)) {
      const between = shape("g", { class: "sign", transform: `translate(${(x + to) / 2} ${(y + down) / 2})` });
      between.append(shape("circle", { r: 10 }), shape("text", { y: 5 }, sign(peer)));
      group.append(between);
    }
    links.push(group);
    dots.push(dot(to, down, 9, `peer ${level}`, plain(nameOf(peer), 14), down < y - 1));
  });
  dots.push(dot(x, y, 14, `own ${own.level}`, plain(own.name, 16)));
  const hidden = peers.length - shown.length;
  if (hidden > 0) dots.push(shape("text", { x: WIDTH - 4, y: height - 4, class: "rest" }, `and ${hidden} more`));
  const words = shown.map((peer) => `${nameOf(peer)} ${judgePeer(peer)}`).join(", ");
  const title = shape("title", { id: "map-title" }, `This node and its peers: ${words || "none"}`);
  svg.replaceChildren(title, ...links, ...dots);
}

// What is wrong with a link, where its colour alone would not tell.
function sign(peer) {
  const level = judgePeer(peer);
  if (level === "lost") return "×";
  return level !== "differs" ? "" : isSilent(peer) ? "?" : "≠";
}

function dot(x, y, r, kind, name, above = false) {
  const group = shape("g", { class: `dot ${kind}` });
  group.append(shape("circle", { cx: x, cy: y, r }), shape("text", { x, y: above ? y - r - 7 : y + r + 16 }, name));
  return group;
}

// How each peer was in the last `SLOTS` times `SLOT_MS`, as far as this page saw it.
export class Strips {
  #seen = new Map();

  // Forgets who is not among `peers` any more.
  note(now, peers) {
    const slot = Math.floor(now / SLOT_MS);
    const before = this.#seen;
    this.#seen = new Map();
    for (const peer of peers.slice(0, STRIPS_MAX)) {
      const slots = (before.get(peer.public_key) ?? []).filter((seen) => seen.slot > slot - SLOTS && seen.slot !== slot);
      slots.push({ slot, level: judgePeer(peer) });
      this.#seen.set(peer.public_key, slots);
    }
  }

  draw(svg, now, key) {
    const last = Math.floor(now / SLOT_MS);
    const slots = this.#seen.get(key) ?? [];
    const counts = {};
    svg.replaceChildren(shape("rect", { class: "ground", width: 2 * SLOTS, height: 14, rx: 2 }));
    slots.forEach(({ slot, level }, index) => {
      if (slot <= last - SLOTS) return;
      counts[level] = (counts[level] ?? 0) + 1;
      // A poll that came a little late leaves no hole: only a missed one does.
      const next = slots[index + 1]?.slot ?? last + 1;
      const width = 2 * Math.min(next - slot, 2);
      svg.append(shape("rect", { class: level, x: 2 * (SLOTS - 1 - last + slot), width, height: 14 }));
    });
    const words = Object.entries(counts).map(([level, count]) => `${level} ${count} times`);
    svg.setAttribute("aria-label", `The last 2 minutes: ${words.join(", ")}`);
  }
}
