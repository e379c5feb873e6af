//! The emulator's API, through neon-api's client and, where that would not say
//! it wrong, over plain HTTP.

mod at_once;
mod branches;
mod endpoint_fields;
mod endpoints;
mod errors;
mod limits;
mod moves;
mod pages;
mod passwords;
mod project_defaults;
mod projects;
mod roles;
mod spellings;
mod terraform;
mod times;

use neon_api::Error;

#[track_caller]
fn assert_api_error<T: std::fmt::Debug>(result: Result<T, Error>, status: u16, word: &str) {
    match result {
        Err(error @ Error::Api { .. }) => {
            let text = error.to_string();
            assert!(text.contains(&status.to_string()), "{status}: {text}");
            assert!(text.contains(word), "{word}: {text}");
        }
        other => panic!("an error {status}, not {other:?}"),
    }
}
