//! Which certificates of a keyring are valid, by who vouches for them: GnuPG's
//! classic rule (gpg(1), `--marginals-needed 3`, `--completes-needed 1`), one step
//! deep.

use std::collections::BTreeMap;

use pgp::composed::SignedPublicKey;
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, Tag};

use crate::{Keyring, Unusable, ended_at, names, own_signatures, usable};

/// How far the owner of a key is trusted to vouch for others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerTrust {
    /// Three of them are needed.
    Marginal,
    /// One is enough.
    Full,
}

/// Owners by the fingerprints of their keys, in hexadecimal and lower case.
pub type Owners = BTreeMap<String, OwnerTrust>;

/// What is needed, in parts of a fully trusted owner's word.
const ENOUGH: u32 = 3;

impl Keyring {
    /// The certificates that are not revoked by these fingerprints, and that owners
    /// vouch for; without owners all of them. None when no certificate is left.
    #[must_use]
    pub fn valid(mut self, owners: Option<&Owners>, revoked: &[&str]) -> Option<Self> {
        let out = |c: &SignedPublicKey| revoked.iter().any(|r| r.eq_ignore_ascii_case(&print(c)));
        self.certificates.retain(|certificate| !out(certificate));
        if let Some(owners) = owners {
            let trust = |c: &SignedPublicKey| owners.get(&print(c)).copied();
            let vouching: Vec<(SignedPublicKey, OwnerTrust)> = self
                .certificates
                .iter()
                .filter(|certificate| may_vouch(certificate))
                .filter_map(|certificate| Some((certificate.clone(), trust(certificate)?)))
                .collect();
            self.certificates.retain(|c| trust(c).is_some() || vouched_for(c, &vouching));
        }
        (!self.certificates.is_empty()).then_some(self)
    }

    /// How many certificates there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.certificates.len()
    }
}

/// A primary key's fingerprint.
fn print(certificate: &SignedPublicKey) -> String {
    certificate.primary_key.fingerprint().to_string().to_ascii_lowercase()
}

/// A key that certifies need not sign data.
fn may_vouch(certificate: &SignedPublicKey) -> bool {
    let created = certificate.primary_key.created_at();
    let state = usable(certificate, &own_signatures(certificate), created);
    matches!(state, Ok(()) | Err(Unusable::NotForSigning))
}

fn vouched_for(certificate: &SignedPublicKey, owners: &[(SignedPublicKey, OwnerTrust)]) -> bool {
    certificate.details.users.iter().any(|user| {
        let weight = |(owner, trust): &(SignedPublicKey, OwnerTrust)| {
            let by_owner = |s: &&Signature| {
                names(s, &owner.primary_key)
                    && s.verify_third_party_certification(
                        &certificate.primary_key,
                        &owner.primary_key,
                        Tag::UserId,
                        &user.id,
                    )
                    .is_ok()
            };
            // The owner's last word counts, which may take the others back.
            let latest = user.signatures.iter().filter(by_owner).max_by_key(|s| s.created());
            let stands = latest
                .is_some_and(|s| s.typ() != Some(SignatureType::CertRevocation) && !ended_at(s));
            match trust {
                _ if !stands => 0,
                OwnerTrust::Marginal => 1,
                OwnerTrust::Full => ENOUGH,
            }
        };
        owners.iter().map(weight).sum::<u32>() >= ENOUGH
    })
}
