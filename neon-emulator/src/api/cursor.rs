//! Cursors: where the next page of a list begins. Only those that a list handed
//! out are taken, and only by that list.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::error::{ApiError, ApiResult};

/// Enough to tell a cursor from any other text. It is no secret: who makes one
/// by hand gets a page of the list, which is theirs anyway.
const CHECK_BYTES: usize = 8;

/// A place in a list as text.
pub(super) fn write(list: &str, place: &impl Serialize) -> ApiResult<String> {
    let place = serde_json::to_vec(place).map_err(|error| ApiError::internal(&error))?;
    let mut bytes = check(list, &place).to_vec();
    bytes.extend(place);
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The place that a request's cursor stands for; an empty one is none.
pub(super) fn read<T: DeserializeOwned>(list: &str, cursor: Option<&str>) -> ApiResult<Option<T>> {
    let Some(cursor) = cursor.filter(|cursor| !cursor.is_empty()) else {
        return Ok(None);
    };
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| {
            let (found, place) = bytes.split_at_checked(CHECK_BYTES)?;
            if found != check(list, place) {
                return None;
            }
            serde_json::from_slice(place).ok()
        })
        .map(Some)
        .ok_or_else(unknown)
}

/// This list did not hand the cursor out.
pub(super) fn unknown() -> ApiError {
    ApiError::bad_request("cursor: this list did not hand it out")
}

fn check(list: &str, place: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = Sha256::new()
        .chain_update(list)
        .chain_update([0])
        .chain_update(place)
        .finalize();
    std::array::from_fn(|at| digest[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_of_one_list() {
        let cursor = write("branches", &("name", 7)).unwrap();
        let found: Option<(String, i32)> = read("branches", Some(&cursor)).unwrap();
        assert_eq!(found, Some(("name".to_owned(), 7)));
        assert_eq!(read::<()>("branches", None).unwrap(), None);
        assert_eq!(read::<()>("branches", Some("")).unwrap(), None);
        assert!(read::<(String, i32)>("projects", Some(&cursor)).is_err());
        for text in ["zzz", "WyJhIiwiYiJd", "!", &cursor[1..]] {
            assert!(read::<(String, i32)>("branches", Some(text)).is_err());
        }
    }
}
