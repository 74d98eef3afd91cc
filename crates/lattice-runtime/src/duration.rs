//! Durations as people write them, in the configuration, on the command line and in requests: in one way everywhere.

use std::time::Duration;

/// A duration as people write it: a whole number and one of the units `ms`, `s`, `m`, `h`, like `60s`. `None` for
/// anything else, and for more milliseconds than 64 bits hold.
pub fn parse(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms).map(Duration::from_millis)
}

/// The duration in the greatest unit that holds it exactly; what is below a millisecond is dropped.
pub fn print(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit_ms, unit) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if ms != 0 && ms.is_multiple_of(unit_ms) {
            return format!("{}{unit}", ms / unit_ms);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_unit() {
        for (text, ms) in [
            ("500ms", Some(500)),
            ("60s", Some(60_000)),
            ("5m", Some(300_000)),
            ("2h", Some(7_200_000)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1d", None),
            ("-1s", None),
            ("+1s", None),
            ("1.5s", None),
            ("1m30s", None),
            ("1 s", None),
            ("18446744073709551615ms", Some(u64::MAX)),
            ("18446744073709551615h", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(parse(text), ms.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn durations_are_printed_as_they_are_parsed() {
        for text in ["0ms", "999ms", "1s", "90s", "2m", "1h", "25h"] {
            assert_eq!(print(parse(text).unwrap()), text);
        }
        assert_eq!(print(Duration::from_micros(1_500)), "1ms");
    }
}
