//! Signals by name, as an image's `StopSignal` has them.

/// Names of signal(7) with Linux's numbers on x86-64 and arm64.
const SIGNALS: [(&str, i32); 33] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];
/// glibc's SIGRTMIN and SIGRTMAX.
const REAL_TIME: (i32, i32) = (34, 64);

/// A signal's number: of `SIGQUIT`, `quit`, `RTMIN+3`, `RTMAX-1` or `3`.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    let known = |number: &i32| (1..=REAL_TIME.1).contains(number);
    if let Ok(number) = text.parse() {
        return Some(number).filter(known);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let (first, last) = REAL_TIME;
    let offset = |text: &str, sign| match text {
        "" => Some(0),
        text => text.strip_prefix(sign)?.parse::<i32>().ok().filter(|n| (0..=last).contains(n)),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => first + offset(rest, '+')?,
        (_, Some(rest)) => last - offset(rest, '-')?,
        _ => return None,
    };
    (first..=last).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_signals() {
        for (text, number) in [
            ("SIGQUIT", 3),
            ("USR1", 10),
            ("sigterm", 15),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmax-2", 62),
            ("15", 15),
            ("64", 64),
        ] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for text in
            ["", "SIG", "SIGNOPE", "0", "65", "-9", "SIGRTMIN-1", "RTMIN+31", "RTMAX+1", "9 "]
        {
            assert_eq!(signal_number(text), None, "{text:?}");
        }
    }
}
