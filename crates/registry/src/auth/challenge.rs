//! WWW-Authenticate (RFC 9110, 11.6.1), as registries write it.

/// One scheme of a WWW-Authenticate header, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The scheme in lower case: `basic`, `bearer`.
    pub scheme: String,
    /// Parameters in order, names in lower case, quotes removed.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The first parameter of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Parses one header value, which may hold several challenges. What cannot be
/// understood is skipped; nothing is an error, since a registry's other
/// challenge may do.
#[must_use]
pub fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let length = rest.bytes().take_while(|b| is_token(*b)).count();
        if length == 0 {
            // Not a token: step over one character, or end.
            let mut characters = rest.chars();
            if characters.next().is_none() {
                return challenges;
            }
            rest = characters.as_str();
            continue;
        }
        let (word, after) = rest.split_at(length);
        let trimmed = after.trim_start_matches([' ', '\t']);
        match trimmed.strip_prefix('=') {
            Some(value) if !value.starts_with('=') && !challenges.is_empty() => {
                let (value, left) = parse_value(value.trim_start_matches([' ', '\t']));
                if let Some(challenge) = challenges.last_mut() {
                    challenge.parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = left;
            }
            _ => {
                let scheme = word.to_ascii_lowercase();
                challenges.push(Challenge { scheme, parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A quoted string or a bare word, and what follows it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    (value, characters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_docker_hub() {
        let header = "Bearer realm=\"https://auth.docker.io/token\",\
                      service=\"registry.docker.io\",scope=\"repository:a/b:pull,push\"";
        let challenges = parse_challenges(header);
        assert_eq!(challenges.len(), 1);
        assert_eq!(challenges[0].scheme, "bearer");
        assert_eq!(challenges[0].get("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(challenges[0].get("scope"), Some("repository:a/b:pull,push"));
    }

    #[test]
    fn several_challenges_in_one_header() {
        let challenges =
            parse_challenges("Negotiate, Basic realm=\"a \\\"b\\\"\" , BEARER Realm = x,service=y");
        let schemes: Vec<_> = challenges.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(challenges[1].get("realm"), Some("a \"b\""));
        assert_eq!(challenges[2].get("realm"), Some("x"));
        assert_eq!(challenges[2].get("service"), Some("y"));
    }

    #[test]
    fn garbage_ends() {
        for text in ["", ",,,", "=", "\"", "Bearer realm=\"", "Basic ==", "é=\"\\", "a=b", "\u{0}"]
        {
            let _ = parse_challenges(text);
        }
        assert!(parse_challenges("=\"x\"").iter().all(|c| c.get("realm").is_none()));
    }
}
