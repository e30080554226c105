//! When to try again, and how long to wait.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How failures are retried.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Attempts in all before an error is final; progress counts them anew.
    pub attempts: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub first_delay: Duration,
    /// The longest wait between two attempts.
    pub max_delay: Duration,
    /// The longest wait that Retry-After can ask for.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(15),
            max_retry_after: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// The wait after failure number `failures` (from 1): what the server asked
    /// for up to the limit, else exponential with half of it random, so that a
    /// thousand nodes do not return in step.
    pub(crate) fn delay(&self, failures: u32, retry_after: Option<Duration>) -> Duration {
        if let Some(wait) = retry_after {
            return wait.min(self.max_retry_after);
        }
        let doublings = failures.saturating_sub(1).min(16);
        let full = self.first_delay.saturating_mul(1 << doublings).min(self.max_delay);
        full / 2 + (full / 2).mul_f64(random_fraction())
    }
}

/// Uniform in 0..1. The standard library seeds its hashers from the kernel.
fn random_fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    // 32 bits are exact in an f64.
    f64::from(u32::try_from(bits).unwrap_or(0)) / f64::from(u32::MAX)
}

/// Retry-After: seconds or an HTTP date (RFC 9110, 10.2.3).
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(parse_http_date(value)?))?;
    Some(at.duration_since(now).unwrap_or(Duration::ZERO))
}

/// The three date forms of RFC 9110, 5.6.7, as seconds since 1970.
fn parse_http_date(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split([' ', ',', '-']).filter(|w| !w.is_empty()).take(8).collect();
    // IMF-fixdate and RFC 850: Sun 06 Nov 1994 08:49:37 GMT; asctime: Sun Nov 6 08:49:37 1994
    let (day, month, year, time) = match words[..] {
        [_, day, month, year, time, "GMT"] => (day, month, year, time),
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|m| *m == month)? as u64 + 1;
    let day: u64 = day.parse().ok().filter(|d| (1..=31).contains(d))?;
    let mut year: u64 = year.parse().ok().filter(|y| *y < 10_000)?;
    if year < 100 {
        year += if year < 70 { 2000 } else { 1900 };
    }
    let mut clock = time.split(':').map(str::parse::<u64>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    if year < 1970 || hour > 23 || minute > 59 || second > 60 || clock.next().is_some() {
        return None;
    }
    // Days of the proleptic Gregorian calendar, years beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    Some(days.checked_sub(719_468)? * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_all_three_forms() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse_http_date(text), Some(784_111_777), "{text}");
        }
        assert_eq!(parse_http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse_http_date("Tue, 29 Feb 2000 00:00:00 GMT"), Some(951_782_400));
        for bad in ["", "x", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT", "---"] {
            assert_eq!(parse_http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        assert_eq!(parse_retry_after("3", now), Some(Duration::from_secs(3)));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(parse_retry_after(date, now), Some(Duration::from_secs(7)));
        let late = now + Duration::from_secs(100);
        assert_eq!(parse_retry_after(date, late), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("soon", now), None);
        let huge = parse_retry_after("99999999999999999999999", now).unwrap();
        assert_eq!(RetryPolicy::default().delay(1, Some(huge)), Duration::from_secs(120));
    }

    #[test]
    fn waits_grow_and_stay_bounded() {
        let policy = RetryPolicy::default();
        let first = policy.delay(1, None);
        assert!((250..=500).contains(&first.as_millis()), "{first:?}");
        for failures in [10, 100, u32::MAX] {
            let delay = policy.delay(failures, None);
            assert!(delay <= policy.max_delay && delay >= policy.max_delay / 2);
        }
    }
}
