//! Changing the file of tokens: whole, by one at a time.

use std::{
    fs::{self, File as Handle},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, fchown},
    path::Path,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use secrecy::SecretString;

use super::{FORMAT, File, NAME_BYTES_MAX, Token, TokensError, hash, hex, read};

/// What every token begins with, so that one is known where it should not be.
const PREFIX: &str = "bbt_";
/// Digits of a hash that make an id.
const ID_DIGITS: usize = 8;

/// A token that was made: the one time that it is seen.
#[derive(Debug)]
pub struct Created {
    /// The secret itself.
    pub secret: SecretString,
    /// What the file keeps of it.
    pub token: Token,
}

/// Makes a token for `name`, and the file if it is not there. A name may have
/// several, so that one can be replaced before it is revoked.
///
/// # Errors
/// A name that is none; a file that cannot be read or written.
pub fn create(
    path: &Path,
    name: &str,
    ttl: Option<Duration>,
    now: Timestamp,
) -> Result<Created, TokensError> {
    if !is_name(name) {
        return Err(TokensError::BadName {
            name: name.to_owned(),
        });
    }
    let expire_time = match ttl {
        Some(ttl) => Some(now.checked_add(ttl).map_err(|_| TokensError::BadTtl)?),
        None => None,
    };
    let secret = format!(
        "{PREFIX}{}",
        BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
    );
    let sha256 = hex(&hash(secret.as_bytes()));
    let token = Token {
        id: sha256[..ID_DIGITS].to_owned(),
        name: name.to_owned(),
        sha256,
        create_time: now,
        expire_time,
    };
    change(path, |tokens| tokens.push(token.clone()))?;
    Ok(Created {
        secret: secret.into(),
        token,
    })
}

/// The tokens of the file, oldest first.
///
/// # Errors
/// A file that cannot be read.
pub fn list(path: &Path) -> Result<Vec<Token>, TokensError> {
    Ok(read(path)?.tokens)
}

/// Takes out the tokens of `name`, or the one of them with that id. Returns
/// those that were.
///
/// # Errors
/// When there is none; a file that cannot be read or written.
pub fn revoke(path: &Path, name: &str, id: Option<&str>) -> Result<Vec<Token>, TokensError> {
    // A file that is not there is none to make.
    read(path)?;
    let is_meant =
        |token: &mut Token| token.name == name && id.is_none_or(|wanted| token.id == wanted);
    let gone: Vec<Token> = change(path, |tokens| tokens.extract_if(.., is_meant).collect())?;
    match gone.is_empty() {
        true => Err(TokensError::NotFound {
            path: path.to_owned(),
        }),
        false => Ok(gone),
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
}

/// Reads, changes and replaces the file. Its folder is locked meanwhile: two
/// changes at once would lose one.
fn change<T>(path: &Path, change: impl FnOnce(&mut Vec<Token>) -> T) -> Result<T, TokensError> {
    let failed = |source: io::Error| TokensError::FailedWrite {
        path: path.to_owned(),
        source,
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let handle = Handle::open(folder).map_err(failed)?;
    handle.lock().map_err(failed)?;
    let mut file = match fs::exists(path).map_err(failed)? {
        true => read(path)?,
        false => File {
            format: FORMAT,
            tokens: Vec::new(),
        },
    };
    let changed = change(&mut file.tokens);
    write(path, folder, &file).map_err(failed)?;
    handle.sync_all().map_err(failed)?;
    Ok(changed)
}

fn write(path: &Path, folder: &Path, file: &File) -> io::Result<()> {
    // Readable by its owner alone, as tempfile makes them.
    let mut new = tempfile::Builder::new()
        .prefix(".tokens-")
        .tempfile_in(folder)?;
    if let Ok(old) = fs::metadata(path) {
        // A server that could read it can read it still.
        fchown(new.as_file(), Some(old.uid()), Some(old.gid()))?;
        new.as_file().set_permissions(old.permissions())?;
    }
    let mut text = serde_json::to_vec_pretty(file).map_err(io::Error::other)?;
    text.push(b'\n');
    new.write_all(&text)?;
    new.as_file().sync_all()?;
    new.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use anyhow::{Context as _, Result};
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::{
        clock::Clock,
        tokens::{TokenRefusal, Tokens},
    };

    fn now() -> Timestamp {
        Timestamp::try_from(Clock::system().now()).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_token_is_good_until_it_ends_or_is_revoked() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (path, offset) = (folder.path().join("tokens"), folder.path().join("clock"));
        let hour = Duration::from_secs(3600);
        let first = create(&path, "ci", Some(hour), now())?;
        let second = create(&path, "ci", None, now())?;
        let tokens = Tokens::load(&path, Clock::with_offset_file(&offset)?)?;
        let ask =
            |created: &Created| tokens.holder_of(&hash(created.secret.expose_secret().as_bytes()));
        assert_eq!(ask(&first).as_deref(), Ok("ci"));
        assert_eq!(ask(&second).as_deref(), Ok("ci"));
        assert_eq!(tokens.holder_of(&hash(b"bbt_")), Err(TokenRefusal::Unknown));
        fs::write(&offset, "3601")?;
        assert_eq!(ask(&first), Err(TokenRefusal::Expired));
        assert_eq!(ask(&second).as_deref(), Ok("ci"));
        fs::write(&offset, "0")?;

        let gone = revoke(&path, "ci", Some(&second.token.id))?;
        assert_eq!(gone, std::slice::from_ref(&second.token));
        assert_eq!(ask(&second).as_deref(), Ok("ci"), "until it is read again");
        tokens.reload()?;
        assert_eq!(ask(&second), Err(TokenRefusal::Unknown));
        assert_eq!(ask(&first).as_deref(), Ok("ci"));
        for (name, id) in [("ci", Some(second.token.id.as_str())), ("other", None)] {
            let error = revoke(&path, name, id).err().context("revoked")?;
            assert!(matches!(error, TokensError::NotFound { .. }), "{error}");
        }
        assert_eq!(list(&path)?, [first.token]);
        Ok(())
    }

    #[test]
    fn the_file_holds_no_token_and_is_its_owners() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("tokens");
        let created = create(&path, "ci", None, now())?;
        let secret = created.secret.expose_secret();
        let (_, random) = secret.split_at(PREFIX.len());
        assert_eq!(random.len(), 43, "256 bits");
        assert!(!fs::read_to_string(&path)?.contains(random));
        assert!(!format!("{created:?}").contains(random));
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        // Who opened it to others meant it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
        create(&path, "ci", None, now())?;
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path())?.count(), 1, "nothing else");
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_said_and_changes_nothing() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("tokens");
        for name in [
            "",
            "CI",
            "1a",
            "a b",
            "a/b",
            &"a".repeat(NAME_BYTES_MAX + 1),
        ] {
            let error = create(&path, name, None, now()).err().context("made")?;
            assert!(matches!(error, TokensError::BadName { .. }), "{error}");
        }
        assert!(Tokens::load(&path, Clock::system()).is_err(), "not there");
        create(&path, "ci", None, now())?;
        let good = fs::read_to_string(&path)?;
        let tokens = Tokens::load(&path, Clock::system())?;
        for bad in [
            String::new(),
            good.replace("\"format\": 1", "\"format\": 2"),
            good.replace("\"name\"", "\"nom\""),
            good.replacen("\"sha256\": \"", "\"sha256\": \"x", 1),
        ] {
            assert_ne!(bad, good);
            fs::write(&path, &bad)?;
            assert!(tokens.reload().is_err(), "{bad}");
            assert!(create(&path, "ci", None, now()).is_err(), "{bad}");
            assert_eq!(fs::read_to_string(&path)?, bad, "left as it was");
        }
        Ok(())
    }

    #[test]
    fn changes_at_once_are_all_made() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("tokens");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        create(&path, "ci", None, now()).ok();
                    }
                });
            }
        });
        assert_eq!(list(&path)?.len(), 40);
        Ok(())
    }
}
