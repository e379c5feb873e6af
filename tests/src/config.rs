//! The broker.toml that tests run on, and one that a test may change.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::folder::Folder;

/// What most tests run on: this repository's broker.toml with the users service alone,
/// its migrations beside it. The build script writes it.
#[must_use]
pub fn example_config() -> PathBuf {
    Path::new(env!("OUT_DIR")).join("users/broker.toml")
}

/// This repository's broker.toml, with every service.
#[must_use]
pub fn repository_config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker.toml")
}

/// A copy of a broker.toml, with what it names.
#[derive(Debug)]
pub struct Config {
    folder: PathBuf,
}

impl Config {
    /// Copies [`example_config`] into the folder `config`.
    ///
    /// # Errors
    /// When something cannot be copied.
    pub fn copy(folder: &Folder) -> anyhow::Result<Self> {
        Self::copy_of(&example_config(), folder)
    }

    /// As [`Config::copy`], of another one.
    ///
    /// # Errors
    /// When something cannot be copied.
    pub fn copy_of(source: &Path, folder: &Folder) -> anyhow::Result<Self> {
        let target = folder.join("config");
        let root = source.parent().context("a folder")?;
        copy_folder(&root.join("migrations"), &target.join("migrations"))?;
        std::fs::copy(source, target.join("broker.toml"))?;
        Ok(Self { folder: target })
    }

    /// The folder that it and its migrations are in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join("broker.toml")
    }

    /// What it says.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.path())?)
    }

    /// Makes it say something else.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, text: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.path(), text)?)
    }

    /// Takes v2 out of it, and says what it was before.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn v1_alone(&self) -> anyhow::Result<String> {
        let whole = self.text()?;
        let (v1, _) = whole
            .split_once("[services.users.versions.v2]")
            .context("v2 in broker.toml")?;
        self.write(v1)?;
        Ok(whole)
    }
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
