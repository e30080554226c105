//! `[USER@][REGISTRY#]IMAGE[:TAG]`, as users of Slurm write an image
//! (enroot-import(1), and the environment definition files of CSCS).

/// Why such a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no image: {reason}")]
pub struct EnrootNameError {
    /// The text.
    pub text: String,
    /// What is wrong.
    pub reason: &'static str,
}

/// Sources that sampan names itself; the text is then its own.
const SCHEMES: [&str; 6] =
    ["docker://", "oci:", "oci-archive:", "docker-archive:", "dir:", "file:"];

/// The image's name as [`crate::ImageRef`] reads it. Paths and names with a
/// scheme of sampan's stay as they are.
///
/// USER is accepted and dropped: sampan finds the credentials of a registry
/// by its name.
///
/// # Errors
/// When a part is empty or there are too many.
pub fn from_enroot_name(text: &str) -> Result<String, EnrootNameError> {
    let wrong = |reason| EnrootNameError { text: text.to_owned(), reason };
    if text.starts_with('/') || text.starts_with('.') {
        return Ok(text.to_owned());
    }
    if SCHEMES[1..].iter().any(|scheme| text.starts_with(scheme)) {
        return Ok(text.to_owned());
    }
    let rest = text.strip_prefix(SCHEMES[0]).unwrap_or(text);
    if let Some((scheme, _)) = rest.split_once("://") {
        return Err(wrong(match scheme {
            "dockerd" | "podman" => {
                "a daemon's images are out of reach: push it, or convert it to a file"
            }
            _ => "this source of images is not known",
        }));
    }
    let (registry, image) = match rest.split_once('#') {
        Some((before, image)) => {
            let registry = before.rsplit_once('@').map_or(before, |(_, registry)| registry);
            if registry.is_empty() {
                return Err(wrong("no registry before #"));
            }
            (Some(registry), image)
        }
        // What follows an @ is a digest, or else the image after its user.
        None => match rest.split_once('@') {
            Some((_, image)) if !image.starts_with("sha256:") && !image.starts_with("sha512:") => {
                (None, image)
            }
            _ => (None, rest),
        },
    };
    if image.is_empty() {
        return Err(wrong("no image"));
    }
    if image.contains('#') {
        return Err(wrong("two #"));
    }
    Ok(match registry {
        Some(registry) => format!("docker://{registry}/{image}"),
        None if text.starts_with(SCHEMES[0]) => format!("docker://{image}"),
        // sampan knows a file by its suffix, so foo.sqsh is looked for in no registry.
        None => image.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_they_are_written() {
        for (text, expected) in [
            ("ubuntu", "ubuntu"),
            ("ubuntu:22.04", "ubuntu:22.04"),
            ("nvcr.io#nvidia/pytorch:24.01-py3", "docker://nvcr.io/nvidia/pytorch:24.01-py3"),
            ("$oauthtoken@nvcr.io#nvidia/cuda", "docker://nvcr.io/nvidia/cuda"),
            ("me@ubuntu:22.04", "ubuntu:22.04"),
            ("docker://me@r.example:5000#a/b", "docker://r.example:5000/a/b"),
            ("docker://r.example/a", "docker://r.example/a"),
            ("ubuntu@sha256:aa", "ubuntu@sha256:aa"),
            ("r.example#a@sha256:aa", "docker://r.example/a@sha256:aa"),
            ("/images/a#b@c.sqsh", "/images/a#b@c.sqsh"),
            ("./a.sqsh", "./a.sqsh"),
            ("a.sqsh", "a.sqsh"),
            ("oci:/layout:tag", "oci:/layout:tag"),
        ] {
            assert_eq!(from_enroot_name(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn names_that_are_none() {
        for (text, word) in [
            ("#a", "no registry"),
            ("me@#a", "no registry"),
            ("r#", "no image"),
            ("a#b#c", "two #"),
            ("dockerd://a", "daemon"),
            ("ftp://a", "not known"),
        ] {
            let message = from_enroot_name(text).unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
