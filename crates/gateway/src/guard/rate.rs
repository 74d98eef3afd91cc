//! How often one client may call: a token bucket for each address, kept as one time (GCRA).
//!
//! Of each client only the time is kept at which its bucket is full again. A client whose time has passed is
//! like one that never called, so forgetting it changes nothing, and memory is bounded by [`CLIENTS_MAX`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Clients remembered at a time. When more call at once, the ones that are not remembered share a bucket.
const CLIENTS_MAX: usize = 65_536;
/// What all of those count as.
const STRANGERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The buckets of all clients.
#[derive(Debug)]
pub(crate) struct Rates {
    limit: Option<Limit>,
    full_at: Mutex<HashMap<IpAddr, Duration>>,
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    /// Time to earn one request.
    interval: Duration,
    /// How far ahead of now a bucket may be in debt.
    depth: Duration,
}

impl Rates {
    /// `per_s` requests a second and client, `burst` at once; no limit when `per_s` is 0.
    pub(crate) fn new(per_s: u32, burst: u32) -> Self {
        let limit = (per_s > 0).then(|| {
            let interval = Duration::from_secs(1) / per_s;
            Limit { interval, depth: interval * burst.max(1).saturating_sub(1) }
        });
        Self { limit, full_at: Mutex::default() }
    }

    /// Takes one request of `client` at `now`; else says after how long one will be taken.
    pub(crate) fn take(&self, now: Duration, client: IpAddr) -> Result<(), Duration> {
        let Some(limit) = self.limit else { return Ok(()) };
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let mut client = network(client);
        if full_at.len() >= CLIENTS_MAX && !full_at.contains_key(&client) {
            full_at.retain(|_, full_at| *full_at > now);
            if full_at.len() >= CLIENTS_MAX {
                client = STRANGERS;
            }
        }
        let bucket = full_at.entry(client).or_default();
        let begins = (*bucket).max(now);
        match (begins - now).checked_sub(limit.depth) {
            Some(wait) if !wait.is_zero() => Err(wait),
            Some(_) | None => {
                *bucket = begins + limit.interval;
                Ok(())
            }
        }
    }
}

/// Who counts as one: an IPv4 address, or the 64 bits of an IPv6 network, within which one host has all addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_taken_and_then_the_rate() {
        let rates = Rates::new(10, 3);
        let client: IpAddr = "10.0.0.1".parse().unwrap();
        for (now, taken) in [
            (1_000, Ok(())),
            (1_000, Ok(())),
            (1_000, Ok(())),
            (1_000, Err(ms(100))),
            (1_050, Err(ms(50))),
            (1_100, Ok(())),
            (1_100, Err(ms(100))),
            (1_300, Ok(())),
            (1_300, Ok(())),
            (1_300, Err(ms(100))),
            (9_000, Ok(())),
        ] {
            assert_eq!(rates.take(ms(now), client), taken, "at {now}");
        }
    }

    #[test]
    fn clients_do_not_share_and_addresses_of_one_network_do() {
        let rates = Rates::new(1, 1);
        for (client, taken) in [
            ("10.0.0.1", true),
            ("10.0.0.1", false),
            ("::ffff:10.0.0.1", false),
            ("10.0.0.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
            ("2001:db8:0:1::1", true),
        ] {
            assert_eq!(rates.take(ms(1), client.parse().unwrap()).is_ok(), taken, "{client}");
        }
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let rates = Rates::new(0, 0);
        assert!((0..1_000).all(|_| rates.take(ms(1), IpAddr::from([127, 0, 0, 1])).is_ok()));
        assert!(rates.full_at.lock().unwrap().is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_forgotten_are_those_who_may_call_again() {
        let rates = Rates::new(1, 1);
        let client = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..CLIENTS_MAX as u32 {
            assert!(rates.take(ms(1), client(number)).is_ok());
        }
        let more = CLIENTS_MAX as u32;
        assert!(rates.take(ms(1), client(more)).is_ok());
        assert!(rates.take(ms(1), client(more + 1)).is_err(), "strangers share a bucket");
        assert!(rates.take(ms(1), client(0)).is_err(), "who is remembered is not forgotten");
        assert_eq!(rates.full_at.lock().unwrap().len(), CLIENTS_MAX + 1);
        assert!(rates.take(ms(5_000), client(more + 1)).is_ok());
        assert_eq!(rates.full_at.lock().unwrap().len(), 1);
    }
}
