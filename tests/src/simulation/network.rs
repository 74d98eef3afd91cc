//! The simulated network: two ways between each pair of nodes, and what goes wrong on them.
//!
//! P2P is a connection that is up or down, noticed late, and made again after a while; what is sent on it
//! belongs to it, and is lost with it. HTTP has no state: a message arrives or does not. Each direction of each
//! way has its own delay and loss, and may be cut alone, so that partitions of any shape are sets of cuts. A
//! lost segment of a stream is sent again by the transport, later and later; only after that is it gone.
//!
//! This module says when something arrives, if it does; the world carries it.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

/// Which of the two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// A libp2p connection.
    P2p,
    /// HTTP requests.
    Http,
}

/// How one direction of one way behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// The shortest and the longest delay.
    pub delay: (Duration, Duration),
    /// Of each segment, the chance that it is lost, and has to be sent again.
    pub loss: f64,
    /// Of each delta (P2P) or request (HTTP, through a proxy that tries again), the chance that it comes twice.
    pub repeats: f64,
    /// Of each delta, the chance that it never arrives: a full queue, a mesh that is not there.
    pub deltas_lost: f64,
}

/// Nothing goes wrong.
pub const HEALTHY: Line = Line {
    delay: (Duration::from_millis(1), Duration::from_millis(60)),
    loss: 0.0,
    repeats: 0.0,
    deltas_lost: 0.0,
};

/// The first wait of the transport before it sends a segment again; it doubles each time.
const RESEND_AFTER: Duration = Duration::from_millis(200);
/// How often the transport sends a segment again.
const RESENDS_MAX: u32 = 4;
/// A connection that carries nothing any more is noticed after at most so long.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);
/// A connection that could be made is made after at most so long.
const DIALLED_WITHIN: Duration = Duration::from_secs(10);

/// What a message is to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Arrives once, in order, or not at all.
    Ordered,
    /// Arrives in any order; on HTTP perhaps twice.
    Request,
    /// An answer to a request.
    Answer,
    /// A hint: may be lost, repeated or late.
    Delta,
}

/// The connection between two nodes.
#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    up: bool,
    /// Counts the connections, so that what was sent on an earlier one never arrives on a later one.
    serial: u64,
    /// Counts the looks, so that a change that is no longer wanted does not happen.
    look: u64,
}

/// A change of a connection that is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// One end, the lesser one.
    pub a: usize,
    /// The other end.
    pub b: usize,
    /// After how long.
    pub after: Duration,
    look: u64,
}

/// The network between `count` nodes.
#[derive(Debug)]
pub struct Network {
    count: usize,
    /// By way, from and to.
    lines: [Vec<Line>; 2],
    cuts: [Vec<bool>; 2],
    connections: Vec<Connection>,
    /// When the newest ordered message arrives, by from and to.
    order: Vec<Duration>,
    random: Xoshiro256PlusPlus,
}

impl Network {
    /// All lines are healthy, and nobody is connected yet.
    pub fn new(count: usize, random: Xoshiro256PlusPlus) -> Self {
        let pairs = count * count;
        Self {
            count,
            lines: [vec![HEALTHY; pairs], vec![HEALTHY; pairs]],
            cuts: [vec![false; pairs], vec![false; pairs]],
            connections: vec![Connection::default(); pairs],
            order: vec![Duration::ZERO; pairs],
            random,
        }
    }

    /// Sets every line of a way.
    pub fn set_all(&mut self, way: Way, line: Line) {
        self.lines[way as usize].fill(line);
    }

    /// Sets one direction of a way.
    pub fn set(&mut self, way: Way, from: usize, to: usize, line: Line) {
        let at = self.at(from, to);
        self.lines[way as usize][at] = line;
    }

    /// Cuts one direction of a way, or mends it.
    pub fn cut(&mut self, way: Way, from: usize, to: usize, cut: bool) {
        let at = self.at(from, to);
        self.cuts[way as usize][at] = cut;
    }

    /// Mends every cut, and makes all lines healthy.
    pub fn mend(&mut self) {
        for way in [Way::P2p, Way::Http] {
            self.cuts[way as usize].fill(false);
            self.set_all(way, HEALTHY);
        }
    }

    /// Whether two nodes are connected.
    pub fn connected(&self, a: usize, b: usize) -> bool {
        self.connections[self.pair(a, b)].up
    }

    /// The present connection between two nodes; what is sent now arrives only while this is the same.
    pub fn serial(&self, a: usize, b: usize) -> u64 {
        self.connections[self.pair(a, b)].serial
    }

    /// The nodes that gossip from `from` reaches over connections, others' included.
    pub fn reached_by_gossip(&self, from: usize) -> Vec<usize> {
        let mut reached = vec![from];
        let mut next = 0;
        while let Some(&at) = reached.get(next) {
            next += 1;
            for to in 0..self.count {
                if !reached.contains(&to) && self.connected(at, to) {
                    reached.push(to);
                }
            }
        }
        reached.remove(0);
        reached
    }

    /// When what is sent now arrives, from `now` on: none, one or two times.
    pub fn send(&mut self, now: Duration, way: Way, from: usize, to: usize, class: Class) -> Vec<Duration> {
        let at = self.at(from, to);
        let line = self.lines[way as usize][at];
        // Gossip finds its way around a cut, and is paid for by its own losses.
        if self.cuts[way as usize][at] && class != Class::Delta {
            return Vec::new();
        }
        if class == Class::Delta && self.random.random_bool(line.deltas_lost) {
            return Vec::new();
        }
        let may_repeat = matches!((way, class), (Way::P2p, Class::Delta) | (Way::Http, Class::Request));
        let copies = if may_repeat && self.random.random_bool(line.repeats) { 2 } else { 1 };
        let mut arrivals: Vec<Duration> =
            (0..copies).filter_map(|_| self.delay(&line)).map(|delay| now + delay).collect();
        if class == Class::Ordered {
            for arrival in &mut arrivals {
                *arrival = (*arrival).max(self.order[at]);
                self.order[at] = *arrival;
            }
        }
        arrivals
    }

    /// Looks whether two nodes that are `able` to (both run, with P2P) should be connected, and says what
    /// will happen then. To be asked whenever something changed that matters for it.
    pub fn look(&mut self, a: usize, b: usize, able: bool) -> Option<Flip> {
        let pair = self.pair(a, b);
        let wanted = able && self.open(a, b);
        let connection = &mut self.connections[pair];
        connection.look += 1;
        if connection.up == wanted {
            return None;
        }
        let within = match (wanted, able) {
            (true, _) => DIALLED_WITHIN,
            (false, true) => NOTICED_WITHIN,
            // The operating system of a process that ended says so.
            (false, false) => Duration::from_millis(50),
        };
        let look = connection.look;
        let after = self.up_to(within);
        Some(Flip { a: a.min(b), b: a.max(b), after, look })
    }

    /// The time of a change has come: whether the two are connected from now on; `None` when it was called
    /// off.
    pub fn flip(&mut self, flip: Flip) -> Option<bool> {
        let pair = self.pair(flip.a, flip.b);
        let connection = &mut self.connections[pair];
        if connection.look != flip.look {
            return None;
        }
        connection.up = !connection.up;
        connection.serial += 1;
        connection.look += 1;
        Some(connection.up)
    }

    /// Ends a connection now: the operating system of one end says so.
    pub fn break_now(&mut self, a: usize, b: usize) {
        let pair = self.pair(a, b);
        let connection = &mut self.connections[pair];
        connection.up = false;
        connection.serial += 1;
        connection.look += 1;
    }

    /// A delay on a line, or none when every attempt was lost.
    fn delay(&mut self, line: &Line) -> Option<Duration> {
        let (least, most) = line.delay;
        let mut delay = least + self.up_to(most.saturating_sub(least));
        let mut wait = RESEND_AFTER;
        for _ in 0..=RESENDS_MAX {
            if line.loss == 0.0 || !self.random.random_bool(line.loss) {
                return Some(delay);
            }
            delay += wait;
            wait *= 2;
        }
        None
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.random.random_range(0..=micros))
    }

    /// Whether a connection between the two could carry anything: it takes both directions.
    fn open(&self, a: usize, b: usize) -> bool {
        let cuts = &self.cuts[Way::P2p as usize];
        !cuts[self.at(a, b)] && !cuts[self.at(b, a)]
    }

    fn at(&self, from: usize, to: usize) -> usize {
        debug_assert!(from < self.count && to < self.count, "nodes are numbered from 0");
        from * self.count + to
    }

    fn pair(&self, a: usize, b: usize) -> usize {
        self.at(a.min(b), a.max(b))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn network() -> Network {
        Network::new(3, Xoshiro256PlusPlus::seed_from_u64(1))
    }

    #[test]
    fn a_cut_direction_carries_nothing_and_breaks_the_connection() {
        let mut network = network();
        let flip = network.look(0, 1, true).unwrap();
        assert_eq!(network.flip(flip), Some(true));
        assert_eq!(network.flip(flip), None, "a change happens once");
        network.cut(Way::P2p, 0, 1, true);
        assert!(network.send(Duration::ZERO, Way::P2p, 0, 1, Class::Ordered).is_empty());
        assert!(!network.send(Duration::ZERO, Way::P2p, 1, 0, Class::Ordered).is_empty());
        assert!(!network.send(Duration::ZERO, Way::Http, 0, 1, Class::Request).is_empty());
        let serial = network.serial(0, 1);
        let flip = network.look(0, 1, true).unwrap();
        assert_eq!(network.flip(flip), Some(false));
        assert_ne!(network.serial(0, 1), serial);
    }

    #[test]
    fn a_change_that_is_no_longer_wanted_does_not_happen() {
        let mut network = network();
        let flip = network.look(0, 1, true).unwrap();
        network.cut(Way::P2p, 1, 0, true);
        assert_eq!(network.look(0, 1, true), None);
        assert_eq!(network.flip(flip), None);
        assert!(!network.connected(0, 1));
    }

    #[test]
    fn ordered_messages_never_overtake_each_other() {
        let mut network = network();
        let line = Line { delay: (Duration::ZERO, Duration::from_secs(1)), ..HEALTHY };
        network.set_all(Way::P2p, line);
        let mut last = Duration::ZERO;
        for millis in 0..1000 {
            let sent = Duration::from_millis(millis);
            let arrival = network.send(sent, Way::P2p, 0, 1, Class::Ordered)[0];
            assert!(arrival >= last && arrival >= sent);
            last = arrival;
        }
    }

    #[test]
    fn gossip_goes_through_others() {
        let mut network = network();
        for (a, b) in [(0, 1), (1, 2)] {
            let flip = network.look(a, b, true).unwrap();
            network.flip(flip);
        }
        assert_eq!(network.reached_by_gossip(0), [1, 2]);
    }
}
