//! What the orders of versions of rpm and pacman have in common.

use std::cmp::Ordering;

/// Compares the runs of digits or of letters that two texts begin with; what
/// follows them. Both begin with an ASCII letter or digit.
pub(super) fn compare<'a, 'b>(a: &'a [u8], b: &'b [u8]) -> (Ordering, &'a [u8], &'b [u8]) {
    let digits = |text: &[u8]| text.first().is_some_and(u8::is_ascii_digit);
    let numbers = digits(a);
    if numbers != digits(b) {
        // Numbers are later than letters.
        return (numbers.cmp(&!numbers), a, b);
    }
    let run = |text: &[u8]| {
        let same = |c: &&u8| if numbers { c.is_ascii_digit() } else { c.is_ascii_alphabetic() };
        text.iter().take_while(same).count()
    };
    let ((a, after), (b, behind)) = (a.split_at(run(a)), b.split_at(run(b)));
    (if numbers { number(a, b) } else { a.cmp(b) }, after, behind)
}

/// Numbers of any length.
fn number(a: &[u8], b: &[u8]) -> Ordering {
    let plain = |text: &[u8]| {
        let zeros = text.iter().take_while(|c| **c == b'0').count();
        text[zeros..].to_vec()
    };
    let (a, b) = (plain(a), plain(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
}
