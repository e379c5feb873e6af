//! Tokens: who may call with which.
//!
//! What is stored here, and who may change it: a file of names, SHA-256 hashes
//! and dates. `broker tokens` changes it, replacing it whole; servers read it. A
//! token is 256 random bits, so that a plain hash of it is as good as a slow one
//! would be: there is nothing to guess, and what is stored opens nothing.

mod edit;

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::clock::Clock;

pub use edit::{Created, create, list, revoke};

/// The layout of the file. One that is newer is not read.
const FORMAT: u32 = 1;
/// The longest name of a token's holder, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// One token, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Tells apart the tokens of one holder: the first digits of its hash.
    pub id: String,
    /// Its holder: a caller with it is `token:NAME`.
    pub name: String,
    /// In hexadecimal digits.
    sha256: String,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it ends. `None`: when it is revoked.
    pub expire_time: Option<Timestamp>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    tokens: Vec<Token>,
}

/// Why a file of tokens cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It could not be read.
    #[error("read the tokens in {}; make the file with `broker tokens create`", path.display())]
    FailedRead {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{} is no file of tokens", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A hash in it is none, or the file is of a later layout.
    #[error("{} is no file of tokens: {problem}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It could not be written.
    #[error("write the tokens to {}", path.display())]
    FailedWrite {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A name that is none.
    #[error(
        "{name:?} is no name for a token: 1 to {NAME_BYTES_MAX} lower-case letters, digits, \
         `-`, `_` and `.`, beginning with a letter"
    )]
    BadName {
        /// As given.
        name: String,
    },
    /// Nothing to revoke.
    #[error("{} has no such token; `broker tokens list` shows those it has", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// A ttl that ends beyond the end of time.
    #[error("the ttl is too long")]
    BadTtl,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenRefusal {
    Unknown,
    Expired,
}

/// The tokens that a server takes. Clones are the same.
#[derive(Clone)]
pub struct Tokens {
    path: Arc<Path>,
    clock: Clock,
    known: Arc<RwLock<HashMap<[u8; 32], Known>>>,
    /// Told when the file was read again.
    read: watch::Sender<()>,
}

#[derive(Debug)]
struct Known {
    name: String,
    until: Option<Timestamp>,
}

impl Tokens {
    /// Those in the file.
    ///
    /// # Errors
    /// When it is not there, or something else.
    pub fn load(path: &Path, clock: Clock) -> Result<Self, TokensError> {
        Ok(Self {
            path: path.into(),
            clock,
            known: Arc::new(RwLock::new(known(path)?)),
            read: watch::Sender::new(()),
        })
    }

    /// Reads the file again. On an error nothing changes.
    pub(crate) fn reload(&self) -> Result<(), TokensError> {
        let new = known(&self.path)?;
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = new;
        self.read.send_replace(());
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns when the token with this hash is taken no more, and why.
    pub(crate) async fn until_refused(&self, hash: &[u8; 32]) -> TokenRefusal {
        let mut read = self.read.subscribe();
        loop {
            if let Err(refusal) = self.holder_of(hash) {
                return refusal;
            }
            let until = self.known().get(hash).and_then(|known| known.until);
            tokio::select! {
                // Its sender is ours.
                _ = read.changed() => {}
                () = ends(&self.clock, until) => {}
            }
        }
    }

    fn known(&self) -> RwLockReadGuard<'_, HashMap<[u8; 32], Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose token has this hash. Looking it up takes as long as it takes: what
    /// that tells of a hash leads to no token.
    pub(crate) fn holder_of(&self, hash: &[u8; 32]) -> Result<String, TokenRefusal> {
        let known = self.known();
        let found = known.get(hash).ok_or(TokenRefusal::Unknown)?;
        let now = Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::MAX);
        match found.until {
            Some(until) if until <= now => Err(TokenRefusal::Expired),
            _ => Ok(found.name.clone()),
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

async fn ends(clock: &Clock, until: Option<Timestamp>) {
    match until {
        Some(until) => clock.sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

/// What is stored of a token.
pub(crate) fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn known(path: &Path) -> Result<HashMap<[u8; 32], Known>, TokensError> {
    let tokens = read(path)?.tokens.into_iter();
    let known = tokens.filter_map(|token| {
        let hash = unhex(&token.sha256)?;
        let one = Known {
            name: token.name,
            until: token.expire_time,
        };
        Some((hash, one))
    });
    Ok(known.collect())
}

fn read(path: &Path) -> Result<File, TokensError> {
    let text = std::fs::read(path).map_err(|source| TokensError::FailedRead {
        path: path.to_owned(),
        source,
    })?;
    let file: File = serde_json::from_slice(&text).map_err(|source| TokensError::Malformed {
        path: path.to_owned(),
        source,
    })?;
    let wrong = |problem: String| TokensError::Wrong {
        path: path.to_owned(),
        problem,
    };
    if file.format != FORMAT {
        let format = file.format;
        let problem = format!("it is of format {format}, this program knows {FORMAT}");
        return Err(wrong(problem));
    }
    if let Some(token) = file
        .tokens
        .iter()
        .find(|token| unhex(&token.sha256).is_none())
    {
        return Err(wrong(format!(
            "the sha256 of the token {} is none",
            token.id
        )));
    }
    Ok(file)
}

fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(hash)
}
