//! The order of versions (vercmp(8)).

use std::cmp::Ordering;

use crate::bootstrap::runs;

/// Compares `[EPOCH:]VERSION[-RELEASE]`; a release counts where both have one.
pub(in crate::bootstrap) fn compare(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    let (a, b) = (split(a), split(b));
    let order = part(a.0, b.0).then_with(|| part(a.1, b.1));
    order.then_with(|| match (a.2, b.2) {
        (Some(a), Some(b)) => part(a, b),
        _ => Ordering::Equal,
    })
}

fn split(text: &str) -> (&str, &str, Option<&str>) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (epoch, rest) = match text[digits..].strip_prefix(':') {
        Some(rest) if digits == 0 => ("0", rest),
        Some(rest) => (&text[..digits], rest),
        None => ("0", text),
    };
    match rest.rsplit_once('-') {
        Some((version, release)) => (epoch, version, Some(release)),
        None => (epoch, rest, None),
    }
}

/// Runs of digits and of letters. What separates them counts by its length alone.
fn part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() && !b.is_empty() {
        let blank = |text: &[u8]| text.iter().take_while(|c| !c.is_ascii_alphanumeric()).count();
        let (skip, other) = (blank(a), blank(b));
        (a, b) = (&a[skip..], &b[other..]);
        if a.is_empty() || b.is_empty() {
            break;
        }
        if skip != other {
            return skip.cmp(&other);
        }
        let (order, after, behind) = runs::compare(a, b);
        (a, b) = (after, behind);
        if order != Ordering::Equal {
            return order;
        }
    }
    // Letters that are left over make a version earlier, all else later.
    let letters = |text: &[u8]| text.first().is_some_and(u8::is_ascii_alphabetic);
    match (a.is_empty(), b.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) if !letters(b) => Ordering::Less,
        _ if letters(a) => Ordering::Less,
        _ => Ordering::Greater,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_pacman_has_them() {
        let sorted = [
            "1.0rc1", "1.0", "1.0.a", "1.0.1", "1.0.1-2", "1.0.1-10", "1.1", "1.10", "20240101",
            "1:0.1", "2:0",
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                let expected = if i != j && a.split('-').next() == b.split('-').next() {
                    match (a.contains('-'), b.contains('-')) {
                        (true, true) => i.cmp(&j),
                        _ => Ordering::Equal,
                    }
                } else {
                    i.cmp(&j)
                };
                assert_eq!(compare(a, b), expected, "{a} {b}");
            }
        }
        for (a, b) in [("1.01", "1.1"), ("1_0", "1.0"), ("2-1", "2"), ("0:3-4", "3-4")] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} {b}");
        }
    }

    /// pacman's own program says the same.
    #[test]
    fn vercmp_agrees() {
        use std::process::Command;
        let tokens = ["0", "1", "01", "10", "a", "b", "rc", ".", "..", "_", "-", "+", ":", "~"];
        let mut state = 5_u64;
        let mut version = || {
            let mut text = String::from("1");
            for _ in 0..5 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(tokens[(state >> 33) as usize % tokens.len()]);
            }
            text
        };
        for _ in 0..500 {
            let (a, b) = (version(), version());
            let out = Command::new("vercmp").args([&a, &b]).output().unwrap().stdout;
            let said: i32 = String::from_utf8_lossy(&out).trim().parse().unwrap();
            assert_eq!(compare(&a, &b), said.cmp(&0), "{a} {b}");
        }
    }
}
