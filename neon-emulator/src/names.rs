//! Ids and passwords in Neon's formats.

use rand::seq::IndexedRandom;
use rand::{RngExt, rng};

const ADJECTIVES: [&str; 32] = [
    "aged", "ancient", "autumn", "bitter", "blue", "bold", "broad", "calm", "cold", "cool", "damp",
    "dark", "dawn", "dry", "fragrant", "frosty", "gentle", "green", "hidden", "icy", "late",
    "little", "lively", "misty", "noisy", "polished", "quiet", "rapid", "shy", "silent", "wild",
    "young",
];
const NOUNS: [&str; 32] = [
    "bird", "boat", "brook", "bush", "cell", "cloud", "darkness", "dawn", "dew", "dream", "dust",
    "feather", "field", "fire", "flower", "fog", "forest", "frog", "frost", "glade", "grass",
    "haze", "hill", "lake", "leaf", "meadow", "moon", "night", "pine", "rain", "sea", "smoke",
];
const LOWER_AND_DIGITS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const LETTERS_AND_DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const DIGITS: &[u8] = b"0123456789";

/// late-frost-12345678
pub(crate) fn project_id() -> String {
    format!("{}-{}", words(), characters(DIGITS, 8))
}

/// br-quiet-lake-a1b2c3d4
pub(crate) fn branch_id() -> String {
    format!("br-{}-{}", words(), characters(LOWER_AND_DIGITS, 8))
}

/// ep-cool-dawn-a1b2c3d4
pub(crate) fn endpoint_id() -> String {
    format!("ep-{}-{}", words(), characters(LOWER_AND_DIGITS, 8))
}

/// snap-cool-dawn-a1b2c3d4
pub(crate) fn snapshot_id() -> String {
    format!("snap-{}-{}", words(), characters(LOWER_AND_DIGITS, 8))
}

/// A name for a branch that was created without one: br-… would be an id.
pub(crate) fn branch_name() -> String {
    format!("{}-{}", words(), characters(LOWER_AND_DIGITS, 6))
}

/// napi_ and 64 letters or digits.
pub(crate) fn api_key() -> String {
    format!("napi_{}", characters(LOWER_AND_DIGITS, 64))
}

/// npg_ and 12 letters or digits: 71 bits.
pub(crate) fn password() -> String {
    format!("npg_{}", characters(LETTERS_AND_DIGITS, 12))
}

fn words() -> String {
    let mut rng = rng();
    let mut pick = |words: &[&'static str]| words.choose(&mut rng).copied().unwrap_or_default();
    format!("{}-{}", pick(&ADJECTIVES), pick(&NOUNS))
}

fn characters(alphabet: &[u8], count: usize) -> String {
    let mut rng = rng();
    (0..count)
        .map(|_| char::from(alphabet[rng.random_range(0..alphabet.len())]))
        .collect()
}
