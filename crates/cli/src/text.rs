//! Numbers as people write and read them.

use std::time::Duration;

/// How long ago a time is, both in seconds since 1970.
pub fn age(then: u64, now: u64) -> String {
    let seconds = now.saturating_sub(then);
    let units = [
        (365 * 86400, "year"),
        (30 * 86400, "month"),
        (7 * 86400, "week"),
        (86400, "day"),
        (3600, "hour"),
        (60, "minute"),
    ];
    for (length, unit) in units {
        let count = seconds / length;
        if count > 0 {
            return format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" });
        }
    }
    "just now".to_owned()
}

/// `90s`, `15m`, `12h`, `7d`, `2w`; a bare number is seconds.
pub fn parse_age(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let length: u64 = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        "w" => 7 * 86400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(length).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_print_and_read() {
        for (seconds, text) in [
            (0, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (7199, "1 hour ago"),
            (3 * 86400, "3 days ago"),
            (800 * 86400, "2 years ago"),
        ] {
            assert_eq!(age(1_000_000_000 - seconds, 1_000_000_000), text);
        }
        assert_eq!(age(5, 1), "just now");
        assert_eq!(parse_age("7d"), Some(Duration::from_secs(7 * 86400)));
        assert_eq!(parse_age("90"), Some(Duration::from_secs(90)));
        for bad in ["", "d", "1y", "-1", "99999999999999999999w"] {
            assert_eq!(parse_age(bad), None, "{bad}");
        }
    }
}
