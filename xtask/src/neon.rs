//! Whether the system runs on Neon or on the emulator: Neon's variables say so.

use std::process::Command;

use anyhow::{Result, bail};

use crate::repository;

/// What the broker talks to.
///
/// No Debug: it holds the key.
pub(crate) enum World {
    /// The emulator, which `up` starts.
    Emulator,
    /// A project of a Neon account.
    Neon(Account),
}

/// A project and the key that opens it.
pub(crate) struct Account {
    pub(crate) project: String,
    key: String,
    url: Option<String>,
}

impl World {
    /// Neon when NEON_API_KEY and NEON_PROJECT_ID are both set, the emulator
    /// when neither is. An empty variable is not set.
    pub(crate) fn from_environment() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variable = |name| variable(name).filter(|value| !value.trim().is_empty());
        let (key, project) = match (variable("NEON_API_KEY"), variable("NEON_PROJECT_ID")) {
            (None, None) => return Ok(Self::Emulator),
            (Some(key), Some(project)) => (key, project),
            (Some(_), None) => bail!(
                "NEON_API_KEY is set but NEON_PROJECT_ID is not: set both to use Neon, \
                 or neither to use the emulator"
            ),
            (None, Some(_)) => bail!(
                "NEON_PROJECT_ID is set but NEON_API_KEY is not: set both to use Neon, \
                 or neither to use the emulator"
            ),
        };
        // It names a folder below.
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !project.chars().all(plain) {
            bail!(
                "NEON_PROJECT_ID is {project:?}, which is no project id: \
                 they look like late-frost-12345678"
            );
        }
        Ok(Self::Neon(Account {
            project,
            key,
            url: variable("NEON_API_URL"),
        }))
    }

    /// The name of this world's folder in the state folder: what is kept for one
    /// project means nothing for another.
    pub(crate) fn folder(&self) -> String {
        match self {
            Self::Emulator => "emulator".to_owned(),
            Self::Neon(account) => format!("neon-{}", account.project),
        }
    }
}

impl Account {
    /// Gives the account to a command.
    pub(crate) fn give_to(&self, command: &mut Command) {
        command
            .env("NEON_API_KEY", &self.key)
            .env("NEON_PROJECT_ID", &self.project);
        if let Some(url) = &self.url {
            command.env("NEON_API_URL", url);
        }
    }
}

/// Sets the variables of the repository's `.env` that are not set yet. A
/// missing file is no error.
pub(crate) fn load_dotenv() -> Result<()> {
    let path = repository::root().join(".env");
    match dotenvy::from_path(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.not_found() => Ok(()),
        // Its own message quotes the line, which may hold the key.
        Err(dotenvy::Error::LineParse(..)) => {
            bail!("{} has a line that is not NAME=value", path.display())
        }
        Err(error) => bail!("{} cannot be read: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::World;

    fn world(variables: &[(&str, &str)]) -> Result<String, String> {
        let find = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        World::from_variables(find)
            .map(|world| world.folder())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn both_variables_mean_neon_and_none_means_the_emulator() {
        let key = ("NEON_API_KEY", "secret-key");
        let project = ("NEON_PROJECT_ID", "late-frost-12345678");
        assert_eq!(world(&[]), Ok("emulator".to_owned()));
        assert_eq!(world(&[("NEON_API_KEY", " ")]), Ok("emulator".to_owned()));
        assert_eq!(
            world(&[key, project]),
            Ok("neon-late-frost-12345678".to_owned())
        );
    }

    #[test]
    fn one_variable_without_the_other_is_an_error_that_names_both() {
        let only_key = world(&[("NEON_API_KEY", "secret-key")]).unwrap_err();
        assert!(only_key.contains("NEON_PROJECT_ID is not"), "{only_key}");
        assert!(!only_key.contains("secret-key"), "{only_key}");
        let only_project = world(&[("NEON_PROJECT_ID", "late-frost-1")]).unwrap_err();
        assert!(
            only_project.contains("NEON_API_KEY is not"),
            "{only_project}"
        );
    }

    #[test]
    fn a_project_id_cannot_lead_out_of_the_state_folder() {
        let error = world(&[("NEON_API_KEY", "k"), ("NEON_PROJECT_ID", "../x")]).unwrap_err();
        assert!(error.contains("../x"), "{error}");
    }
}
