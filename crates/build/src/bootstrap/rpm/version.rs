//! The order of versions (rpm-version(7)).

use std::cmp::Ordering;

use crate::bootstrap::runs;

/// Compares `[EPOCH:]VERSION[-RELEASE]`; a release counts where both have one.
pub(in crate::bootstrap) fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (split(a), split(b));
    a.0.cmp(&b.0).then_with(|| part(a.1, b.1)).then_with(|| match (a.2, b.2) {
        (Some(a), Some(b)) => part(a, b),
        _ => Ordering::Equal,
    })
}

fn split(text: &str) -> (u64, &str, Option<&str>) {
    let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
    let (version, release) = match rest.rsplit_once('-') {
        Some((version, release)) => (version, Some(release)),
        None => (rest, None),
    };
    (epoch.parse().unwrap_or(0), version, release)
}

/// Runs of digits and of letters, whatever separates them. A tilde is before the
/// end, a caret after it and before everything else.
fn part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let separator = |c: &u8| !c.is_ascii_alphanumeric() && *c != b'~' && *c != b'^';
        for text in [&mut a, &mut b] {
            let skip = text.iter().take_while(|c| separator(c)).count();
            *text = &text[skip..];
        }
        for mark in [b'~', b'^'] {
            let (x, y) = (a.first() == Some(&mark), b.first() == Some(&mark));
            match (x, y) {
                (true, true) => (a, b) = (&a[1..], &b[1..]),
                (false, false) => continue,
                // Against the end a caret is later, a tilde earlier.
                (true, false) if mark == b'^' && b.is_empty() => return Ordering::Greater,
                (false, true) if mark == b'^' && a.is_empty() => return Ordering::Less,
                (true, false) => return Ordering::Less,
                (false, true) => return Ordering::Greater,
            }
        }
        let again = |text: &[u8]| text.first().is_some_and(|c| b"~^".contains(c) || separator(c));
        if again(a) || again(b) {
            continue;
        }
        if a.is_empty() || b.is_empty() {
            return a.len().cmp(&b.len());
        }
        let (order, after, behind) = runs::compare(a, b);
        (a, b) = (after, behind);
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_rpm_has_them() {
        let sorted = [
            "1.0~~", "1.0~rc1", "1.0", "1.0^", "1.0^git1", "1.0^git2", "1.0.a", "1.0.1", "1.1",
            "1.10", "1:0.1",
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} {b}");
            }
        }
        for (a, b) in [("1.01", "1.1"), ("1_0", "1.0"), ("2-1", "2"), ("0:3-4", "3-4"), ("a.", "a")]
        {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} {b}");
        }
        assert_eq!(compare("1-2", "1-10"), Ordering::Less);
        assert_eq!(compare("10a", "10b"), Ordering::Less);
    }
}
