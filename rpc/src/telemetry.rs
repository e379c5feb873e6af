//! What a server says about itself.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Log lines go to stderr, down to `info` or as RUST_LOG says, in colour when
/// stderr is a terminal. Calling it again changes nothing.
pub fn init() {
    let (filter, refused) = filter(std::env::var("RUST_LOG").ok());
    let first = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .is_ok();
    if let (true, Some(error)) = (first, refused) {
        tracing::warn!(%error, "RUST_LOG is not a filter; logging at info");
    }
}

fn filter(variable: Option<String>) -> (EnvFilter, Option<tracing_subscriber::filter::ParseError>) {
    let info = || EnvFilter::new("info");
    match variable.as_deref().map(str::trim) {
        None | Some("") => (info(), None),
        Some(text) => match EnvFilter::try_new(text) {
            Ok(filter) => (filter, None),
            Err(error) => (info(), Some(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn falls_back_to_info() {
        let level = |text: Option<&str>| filter(text.map(String::from)).0.to_string();
        assert_eq!(level(None), "info");
        assert_eq!(level(Some(" ")), "info");
        assert_eq!(level(Some("debug")), "debug");
        assert_eq!(level(Some("a=b=c")), "info");
        assert!(filter(Some("a=b=c".into())).1.is_some());
    }
}
