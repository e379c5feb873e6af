//! Passwords of lease roles. They are derived, never stored: whoever has the
//! key and knows the branch and the role can tell the password, and nobody
//! else. What is stored names the key by an id that gives nothing away.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use neon_api::BranchId;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;

/// Bytes of a key that is made here: what SHA-256 gives out.
const KEY_BYTES: usize = 32;
/// The shortest key that a file may hold, in bytes.
const KEY_BYTES_MIN: usize = 32;

/// The key that passwords are derived from.
#[derive(Clone)]
pub struct Key {
    bytes: SecretSlice<u8>,
    id: KeyId,
}

/// Tells keys apart and says nothing about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyId(String);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read.
    #[error("read the key file {}", path.display())]
    FailedRead {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What the file holds could be guessed.
    #[error(
        "the key file {} holds {bytes} bytes, and a key needs {KEY_BYTES_MIN} or more; \
         `openssl rand -hex 32` makes one",
        path.display()
    )]
    TooShort {
        /// The file.
        path: PathBuf,
        /// What it holds.
        bytes: usize,
    },
}

impl Key {
    /// A key that ends with the process.
    pub fn random() -> Key {
        Key::of(rand::random::<[u8; KEY_BYTES]>().to_vec())
    }

    /// The key that a file holds, white space at its ends left out.
    pub fn read(path: &Path) -> Result<Key, KeyError> {
        let text = std::fs::read(path).map_err(|source| KeyError::FailedRead {
            path: path.to_owned(),
            source,
        })?;
        let bytes = text.trim_ascii();
        match bytes.len() {
            KEY_BYTES_MIN.. => Ok(Key::of(bytes.to_vec())),
            bytes => Err(KeyError::TooShort {
                path: path.to_owned(),
                bytes,
            }),
        }
    }

    /// Which key this is.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The password of a role on a branch: 43 characters that need no escaping
    /// in a URI. Children inherit roles, so the branch is part of it; the role's
    /// generation is part of its name.
    pub fn password(&self, branch: &BranchId, role: &str) -> SecretString {
        let code = self.code(&["password", branch.as_str(), role]);
        BASE64_URL_SAFE_NO_PAD.encode(code).into()
    }

    /// The key that page tokens are signed with: they are good after a restart.
    pub fn page_token_key(&self) -> [u8; KEY_BYTES] {
        self.code(&["page tokens"])
    }

    fn of(bytes: Vec<u8>) -> Key {
        const ID_BYTES: usize = 6;
        let mut key = Key {
            bytes: bytes.into(),
            id: KeyId(String::new()),
        };
        key.id = KeyId(BASE64_URL_SAFE_NO_PAD.encode(&key.code(&["key id"])[..ID_BYTES]));
        key
    }

    /// The keyed hash of all parts, each with its length before it, so that no
    /// two lists of parts read the same.
    fn code(&self, parts: &[&str]) -> [u8; KEY_BYTES] {
        let mut mac: Hmac<Sha256> = Hmac::new_from_slice(self.bytes.expose_secret())
            .expect("HMAC takes keys of every length");
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, [redacted])", self.id)
    }
}

impl From<String> for KeyId {
    fn from(id: String) -> KeyId {
        KeyId(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn branch(id: &str) -> BranchId {
        id.parse().unwrap()
    }

    #[test]
    fn a_password_is_that_of_one_key_branch_and_role() {
        let key = Key::random();
        let text = |key: &Key, at: &str, role: &str| {
            key.password(&branch(at), role).expose_secret().to_owned()
        };
        let password = text(&key, "br-a", "lease_users_v1_rw");
        assert_eq!(password, text(&key.clone(), "br-a", "lease_users_v1_rw"));
        assert_ne!(password, text(&key, "br-b", "lease_users_v1_rw"));
        assert_ne!(password, text(&key, "br-a", "lease_users_v1_ro"));
        assert_ne!(password, text(&key, "br-al", "ease_users_v1_rw"));
        assert_ne!(password, text(&Key::random(), "br-a", "lease_users_v1_rw"));
        assert_eq!(password.len(), 43);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        assert!(password.chars().all(plain));
    }

    #[test]
    fn page_tokens_of_one_key_are_good_for_each_other() {
        let key = Key::random();
        assert_eq!(key.page_token_key(), key.clone().page_token_key());
        assert_ne!(key.page_token_key(), Key::random().page_token_key());
    }

    #[test]
    fn nothing_prints_a_key_or_a_password() {
        let key = Key::of(b"an-all-too-well-known-key-of-32-b".to_vec());
        let password = key.password(&branch("br-a"), "lease_users_v1_rw");
        let printed = format!("{key:?} {password:?}");
        assert!(!printed.contains("well-known"), "{printed}");
        assert!(!printed.contains(password.expose_secret()), "{printed}");
        assert!(printed.contains(&key.id().to_string()), "{printed}");
    }

    #[test]
    fn a_key_is_read_without_white_space_and_is_long_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let text = "0123456789abcdef0123456789abcdef";
        std::fs::write(&path, format!("{text}\n")).unwrap();
        let key = Key::read(&path).unwrap();
        assert_eq!(key.id(), Key::of(text.into()).id());
        std::fs::write(&path, "short\n").unwrap();
        let error = Key::read(&path).unwrap_err();
        assert!(
            matches!(error, KeyError::TooShort { bytes: 5, .. }),
            "{error}"
        );
        std::fs::remove_file(&path).unwrap();
        let error = Key::read(&path).unwrap_err().to_string();
        assert!(error.contains("key"), "{error}");
    }
}
