//! Signatures: whether a key of a keyring made one.
//!
//! OpenPGP (RFC 9580) comes from the `pgp` crate; what is decided here is which
//! keys of a certificate may sign at all. A primary key or subkey counts when its
//! binding verifies, it is for signing, and it is neither revoked nor expired now.
#![forbid(unsafe_code)]

mod web;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::time::{Duration, SystemTime};

use pgp::composed::{CleartextSignedMessage, Deserializable, DetachedSignature, SignedPublicKey};
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, Tag, Timestamp, VerifyingKey};

pub use web::{OwnerTrust, Owners};

/// Why a signature, or a keyring, is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The keyring cannot be read.
    #[error("the keyring cannot be read")]
    Keyring(#[source] pgp::errors::Error),
    /// The keyring has no certificate.
    #[error("the keyring has no key")]
    NoKey,
    /// What should be signed carries no signature that can be read.
    #[error("there is no signature that can be read")]
    NoSignature(#[source] pgp::errors::Error),
    /// Text that is signed must be UTF-8.
    #[error("the signed text is not UTF-8")]
    Text,
    /// What is signed cannot be read.
    #[error("what is signed cannot be read")]
    Data(#[from] io::Error),
    /// Nobody of the keyring signed it.
    #[error("it is signed by {}, which is not in the keyring", .issuers.join(" and "))]
    Unknown {
        /// Key IDs of those who signed.
        issuers: Vec<String>,
    },
    /// The signature is of a known key and wrong: what is signed has changed.
    #[error("the signature of key {issuer} is wrong: what it signs has changed")]
    Wrong {
        /// Key ID.
        issuer: String,
    },
    /// The key must not be used any more.
    #[error("it is signed by key {issuer}, which is {why}")]
    Unusable {
        /// Key ID.
        issuer: String,
        /// What it is.
        why: Unusable,
    },
}

/// Why a key does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Its time is over.
    Expired,
    /// Its owner took it back.
    Revoked,
    /// Its owner did not make it for signing, or nothing binds it to its owner.
    NotForSigning,
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::NotForSigning => "not for signing",
        })
    }
}

/// Certificates that are trusted.
#[derive(Debug)]
pub struct Keyring {
    certificates: Vec<SignedPublicKey>,
}

/// A text whose signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The text, without its signature.
    pub text: String,
    /// Fingerprint of the key that signed it, in hexadecimal.
    pub signer: String,
}

const ARMOR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";

impl Keyring {
    /// Reads certificates, binary or in armor, one or several after each other.
    ///
    /// # Errors
    /// [`TrustError::Keyring`] for what is no keyring, [`TrustError::NoKey`].
    pub fn read(bytes: &[u8]) -> Result<Self, TrustError> {
        let mut certificates = Vec::new();
        let armored = std::str::from_utf8(bytes).ok().filter(|text| text.contains(ARMOR));
        let mut take = |bytes: &[u8]| -> Result<(), TrustError> {
            let read = SignedPublicKey::from_reader_many(bytes).map_err(TrustError::Keyring)?;
            // A keyring may hold keys of kinds that are not known here.
            certificates.extend(read.0.filter_map(Result::ok));
            Ok(())
        };
        match armored {
            Some(text) => {
                for block in text.split(ARMOR).skip(1) {
                    take(format!("{ARMOR}{block}").as_bytes())?;
                }
            }
            None => take(bytes)?,
        }
        if certificates.is_empty() {
            return Err(TrustError::NoKey);
        }
        Ok(Self { certificates })
    }

    /// Several keyrings as one; None of none.
    #[must_use]
    pub fn join(all: Vec<Self>) -> Option<Self> {
        let certificates: Vec<_> = all.into_iter().flat_map(|one| one.certificates).collect();
        (!certificates.is_empty()).then_some(Self { certificates })
    }

    /// The text of a message in the cleartext framework, if one of its signatures
    /// is good.
    ///
    /// # Errors
    /// [`TrustError::NoSignature`] for what is no such message, and what
    /// [`verify`](Self::verify) returns.
    pub fn open(&self, message: &[u8]) -> Result<Signed, TrustError> {
        let text = std::str::from_utf8(message).map_err(|_| TrustError::Text)?;
        let (message, _) =
            CleartextSignedMessage::from_string(text).map_err(TrustError::NoSignature)?;
        let text = message.signed_text();
        let bytes = text.as_bytes();
        let signer = self.check(message.signatures(), &|| Ok(Box::new(bytes)))?;
        Ok(Signed { text: text.replace("\r\n", "\n"), signer })
    }

    /// Verifies a detached signature, binary or in armor; the fingerprint of the
    /// key that made it.
    ///
    /// # Errors
    /// [`TrustError::Unknown`], [`TrustError::Wrong`] or [`TrustError::Unusable`]
    /// when no signature is good.
    pub fn verify(&self, data: &[u8], signature: &[u8]) -> Result<String, TrustError> {
        self.check(&detached(signature)?, &|| Ok(Box::new(data)))
    }

    /// As [`verify`](Self::verify), of a whole file, which is read as a stream.
    ///
    /// # Errors
    /// [`TrustError::Data`] when it cannot be read, and what
    /// [`verify`](Self::verify) returns.
    pub fn verify_file(&self, file: &File, signature: &[u8]) -> Result<String, TrustError> {
        self.verify_rest(file, 0, signature)
    }

    /// As [`verify_file`](Self::verify_file), from one of its bytes on.
    ///
    /// # Errors
    /// As [`verify_file`](Self::verify_file).
    pub fn verify_rest(
        &self,
        file: &File,
        start: u64,
        signature: &[u8],
    ) -> Result<String, TrustError> {
        let open = || -> io::Result<Box<dyn Read>> {
            let mut file = file.try_clone()?;
            file.seek(SeekFrom::Start(start))?;
            Ok(Box::new(BufReader::new(file)))
        };
        self.check(&detached(signature)?, &open)
    }

    /// One good signature is enough; otherwise the worst that was found.
    fn check(&self, signatures: &[Signature], data: Data<'_>) -> Result<String, TrustError> {
        let mut issuers = Vec::new();
        let mut problem = None;
        for signature in signatures {
            for certificate in &self.certificates {
                match made_by(certificate, signature, data) {
                    None => {}
                    Some(Ok(signer)) => return Ok(signer),
                    Some(Err(error)) => problem = Some(error),
                }
            }
            let id = signature.issuer_key_id().first().map(ToString::to_string);
            let print = || signature.issuer_fingerprint().first().map(ToString::to_string);
            issuers.extend(id.or_else(print));
        }
        if issuers.is_empty() {
            issuers.push("nobody".to_owned());
        }
        Err(problem.unwrap_or(TrustError::Unknown { issuers }))
    }
}

/// Opens what is signed, from its beginning.
type Data<'a> = &'a dyn Fn() -> io::Result<Box<dyn Read + 'a>>;

fn detached(signature: &[u8]) -> Result<Vec<Signature>, TrustError> {
    let read = DetachedSignature::from_reader_many(signature);
    let (read, _) = read.map_err(TrustError::NoSignature)?;
    let signatures: Result<Vec<_>, _> = read.map(|one| one.map(|s| s.signature)).collect();
    signatures.map_err(TrustError::NoSignature)
}

/// Whether a key of a certificate made a signature; None when it does not say so.
fn made_by(
    certificate: &SignedPublicKey,
    signature: &Signature,
    data: Data<'_>,
) -> Option<Result<String, TrustError>> {
    let primary = &certificate.primary_key;
    if names(signature, primary) {
        let state = usable(certificate, &own_signatures(certificate), primary.created_at());
        return Some(outcome(primary, state, signature, data));
    }
    let subkey = certificate.public_subkeys.iter().find(|sub| names(signature, &sub.key))?;
    let bound: Vec<&Signature> = subkey
        .signatures
        .iter()
        .filter(|s| s.verify_subkey_binding(primary, &subkey.key).is_ok())
        .collect();
    let backed = |s: &&&Signature| {
        let back = s.embedded_signature();
        s.typ() == Some(SignatureType::SubkeyBinding)
            && s.key_flags().sign()
            && back.is_some_and(|b| b.verify_primary_key_binding(&subkey.key, primary).is_ok())
    };
    // The owner's key must be good as well, though it need not sign data itself.
    let owner = usable(certificate, &own_signatures(certificate), primary.created_at());
    let state = if bound.iter().any(|s| s.typ() == Some(SignatureType::SubkeyRevocation)) {
        Err(Unusable::Revoked)
    } else {
        let latest = bound.iter().filter(backed).max_by_key(|s| s.created());
        match (owner, latest) {
            (Err(why @ (Unusable::Revoked | Unusable::Expired)), _) => Err(why),
            (_, None) => Err(Unusable::NotForSigning),
            (_, Some(binding)) if expired(binding, subkey.key.created_at()) => {
                Err(Unusable::Expired)
            }
            _ => Ok(()),
        }
    };
    Some(outcome(&subkey.key, state, signature, data))
}

fn names(signature: &Signature, key: &impl KeyDetails) -> bool {
    let (id, print) = (key.legacy_key_id(), key.fingerprint());
    signature.issuer_key_id().contains(&&id) || signature.issuer_fingerprint().contains(&&print)
}

fn outcome(
    key: &impl VerifyingKey,
    state: Result<(), Unusable>,
    signature: &Signature,
    data: Data<'_>,
) -> Result<String, TrustError> {
    let issuer = key.legacy_key_id().to_string();
    if signature.verify(key, data()?).is_err() {
        return Err(TrustError::Wrong { issuer });
    }
    if ended_at(signature) {
        return Err(TrustError::Unusable { issuer, why: Unusable::Expired });
    }
    match state {
        Ok(()) => Ok(key.fingerprint().to_string()),
        Err(why) => Err(TrustError::Unusable { issuer, why }),
    }
}

/// What the primary key says of itself.
fn own_signatures(certificate: &SignedPublicKey) -> Vec<&Signature> {
    let primary = &certificate.primary_key;
    let users = certificate.details.users.iter().flat_map(|user| {
        let good = |s: &&Signature| s.verify_certification(primary, Tag::UserId, &user.id).is_ok();
        user.signatures.iter().filter(good)
    });
    let direct = certificate.details.direct_signatures.iter();
    users.chain(direct.filter(|s| s.verify_key(primary).is_ok())).collect()
}

fn usable(
    certificate: &SignedPublicKey,
    own: &[&Signature],
    created: Timestamp,
) -> Result<(), Unusable> {
    let primary = &certificate.primary_key;
    let revoked = &certificate.details.revocation_signatures;
    if revoked.iter().any(|s| s.verify_key(primary).is_ok()) {
        return Err(Unusable::Revoked);
    }
    let certifies = |s: &&&Signature| s.typ() != Some(SignatureType::CertRevocation);
    let Some(latest) = own.iter().filter(certifies).max_by_key(|s| s.created()) else {
        return Err(Unusable::NotForSigning);
    };
    if expired(latest, created) {
        return Err(Unusable::Expired);
    }
    if latest.key_flags().sign() { Ok(()) } else { Err(Unusable::NotForSigning) }
}

fn expired(binding: &Signature, created: Timestamp) -> bool {
    let lasts =
        binding.key_expiration_time().map(pgp::types::Duration::as_secs).filter(|s| *s != 0);
    lasts.is_some_and(|lasts| ended(created, Duration::from_secs(lasts.into())))
}

/// Whether a signature's own time is over.
fn ended_at(signature: &Signature) -> bool {
    let over = signature.signature_expiration_time().zip(signature.created());
    over.is_some_and(|(lasts, from)| {
        lasts.as_secs() != 0 && ended(from, Duration::from_secs(lasts.as_secs().into()))
    })
}

fn ended(from: Timestamp, lasts: Duration) -> bool {
    SystemTime::from(from) + lasts < SystemTime::now()
}
