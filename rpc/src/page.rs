//! Pages of lists (AIP-158): how many, and where the next one starts.

use std::{fmt, io, path::Path, path::PathBuf};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::status::FieldViolation;

/// What a request without page_size gets.
pub const PAGE_SIZE_DEFAULT: usize = 100;
/// The most that one page holds.
pub const PAGE_SIZE_MAX: usize = 1000;
/// The least that a key file holds: as much as SHA-256 gives out.
pub const KEY_BYTES_MIN: usize = 32;

/// Of the code's 32 bytes: enough that none can be guessed, short to send.
const CODE_BYTES: usize = 16;

/// The page_size that a request asks for; 0 stands for [`PAGE_SIZE_DEFAULT`].
///
/// # Errors
/// A violation of the field `page_size` when it is negative or above
/// [`PAGE_SIZE_MAX`].
pub fn page_size(asked: i32) -> Result<usize, FieldViolation> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE_SIZE_DEFAULT),
        Ok(size) if size <= PAGE_SIZE_MAX => Ok(size),
        _ => Err(FieldViolation::new(
            "page_size",
            format!("must be between 0 and {PAGE_SIZE_MAX}"),
        )),
    }
}

/// Hands out page tokens and takes them back. A token is opaque and signed: it
/// is good for the list and the filter it was made for and no other.
#[derive(Clone)]
pub struct PageTokens {
    keyed: Hmac<Sha256>,
}

impl PageTokens {
    /// Signs with `key`. Processes with the same key take each other's tokens.
    pub fn new(key: &[u8; 32]) -> Self {
        Self::keyed(key)
    }

    /// Signs with a key of this process: its tokens end with it.
    pub fn random() -> Self {
        Self::new(&rand::random())
    }

    /// Signs with what the file holds, white space at its ends left out.
    ///
    /// # Errors
    /// When it cannot be read or holds fewer than [`KEY_BYTES_MIN`] bytes.
    pub fn from_key_file(path: impl AsRef<Path>) -> Result<Self, KeyFileError> {
        let path = path.as_ref();
        let key = std::fs::read(path).map_err(|source| KeyFileError::FailedRead {
            path: path.to_path_buf(),
            source,
        })?;
        let key = key.trim_ascii();
        if key.len() < KEY_BYTES_MIN {
            return Err(KeyFileError::TooShort {
                path: path.to_path_buf(),
                bytes: key.len(),
            });
        }
        Ok(Self::keyed(key))
    }

    /// The token of the page of `list` (a method's name) under `filter` (empty:
    /// none) that starts after `cursor`.
    pub fn encode(&self, list: &str, filter: &str, cursor: impl AsRef<[u8]>) -> String {
        let cursor = cursor.as_ref();
        let mut token = self.code(list, filter, cursor).to_vec();
        token.extend_from_slice(cursor);
        BASE64_URL_SAFE_NO_PAD.encode(token)
    }

    /// The cursor in `token`; none for the empty token, which asks for the first
    /// page.
    ///
    /// # Errors
    /// When this list, under this filter, did not hand the token out.
    pub fn decode(
        &self,
        list: &str,
        filter: &str,
        token: &str,
    ) -> Result<Option<Vec<u8>>, PageError> {
        if token.is_empty() {
            return Ok(None);
        }
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| PageError::Malformed)?;
        let (code, cursor) = bytes
            .split_at_checked(CODE_BYTES)
            .ok_or(PageError::Malformed)?;
        self.message(list, filter, cursor)
            .verify_truncated_left(code)
            .map_err(|_| PageError::Foreign)?;
        Ok(Some(cursor.to_vec()))
    }

    fn keyed(key: &[u8]) -> Self {
        Self {
            keyed: Hmac::new_from_slice(key).expect("HMAC takes keys of every length"),
        }
    }

    fn code(&self, list: &str, filter: &str, cursor: &[u8]) -> [u8; CODE_BYTES] {
        let code = self.message(list, filter, cursor).finalize().into_bytes();
        let mut short = [0; CODE_BYTES];
        short.copy_from_slice(&code[..CODE_BYTES]);
        short
    }

    /// The keyed hash of all three, each with its length before it: no two
    /// different triples read the same.
    fn message(&self, list: &str, filter: &str, cursor: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        for part in [list.as_bytes(), filter.as_bytes(), cursor] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for PageTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageTokens([redacted])")
    }
}

/// Why a page token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Not a token at all.
    #[error("is not a page token")]
    Malformed,
    /// Changed, invented, or handed out by another list, filter or key.
    #[error("was not handed out for this list and filter")]
    Foreign,
}

impl From<PageError> for FieldViolation {
    fn from(error: PageError) -> Self {
        FieldViolation::new("page_token", error.to_string())
    }
}

/// Why a key file does not do.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read the page token key file {}", path.display())]
    FailedRead {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its key is too short to be safe.
    #[error(
        "the page token key file {} holds {bytes} bytes; a key has {KEY_BYTES_MIN} or more",
        path.display()
    )]
    TooShort {
        /// The file.
        path: PathBuf,
        /// What it holds.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_to_its_own_list_only() {
        let tokens = PageTokens::random();
        let token = tokens.encode("ListUsers", "age>3", "7");
        assert_eq!(
            tokens.decode("ListUsers", "age>3", &token),
            Ok(Some(b"7".to_vec()))
        );
        for (list, filter) in [
            ("ListCities", "age>3"),
            ("ListUsers", "age>4"),
            ("ListUser", "sage>3"),
        ] {
            assert_eq!(
                tokens.decode(list, filter, &token),
                Err(PageError::Foreign),
                "{list} {filter}"
            );
        }
        assert_eq!(
            PageTokens::random().decode("ListUsers", "age>3", &token),
            Err(PageError::Foreign)
        );
    }

    #[test]
    fn no_changed_token_is_taken() {
        let tokens = PageTokens::new(&[7; 32]);
        let token = tokens.encode("ListUsers", "", 41_i32.to_be_bytes());
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&token).unwrap_or_default();
        assert_eq!(bytes.len(), CODE_BYTES + 4);
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let forged = BASE64_URL_SAFE_NO_PAD.encode(forged);
            assert_eq!(
                tokens.decode("ListUsers", "", &forged),
                Err(PageError::Foreign),
                "bit {bit}"
            );
        }
        for malformed in ["!", "a", "QUFB", "  "] {
            assert_eq!(
                tokens.decode("ListUsers", "", malformed),
                Err(PageError::Malformed)
            );
        }
        assert_eq!(tokens.decode("ListUsers", "", ""), Ok(None));
    }

    #[test]
    fn a_key_file_is_shared_by_processes() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("key");
        assert!(matches!(
            PageTokens::from_key_file(&path),
            Err(KeyFileError::FailedRead { .. })
        ));
        std::fs::write(&path, "short\n")?;
        let error = PageTokens::from_key_file(&path)
            .map(|_| ())
            .map_err(|e| e.to_string());
        assert!(error.is_err_and(|e| e.contains("holds 5 bytes")));
        std::fs::write(&path, "0123456789abcdef0123456789abcdef\n")?;
        let one = PageTokens::from_key_file(&path)?;
        let other = PageTokens::from_key_file(&path)?;
        let token = one.encode("L", "", "c");
        assert_eq!(other.decode("L", "", &token)?, Some(b"c".to_vec()));
        assert_eq!(format!("{one:?}"), "PageTokens([redacted])");
        Ok(())
    }

    #[test]
    fn page_sizes() {
        assert_eq!(page_size(0), Ok(PAGE_SIZE_DEFAULT));
        assert_eq!(page_size(1), Ok(1));
        assert_eq!(page_size(1000), Ok(1000));
        for refused in [-1, 1001, i32::MIN, i32::MAX] {
            assert_eq!(
                page_size(refused).map_err(|v| v.field),
                Err("page_size".to_owned())
            );
        }
    }
}
