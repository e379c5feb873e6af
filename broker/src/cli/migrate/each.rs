//! One binding, or each of those that a pattern names: `services/users/versions/-`, with
//! `-` for any (AIP-159).

use std::process::ExitCode;

use proto::broker::v1 as pb;
use serde_json::{Map, Value};

use super::PlaceArguments;
use crate::cli::api::Api;
use crate::cli::client::Error;
use crate::cli::output::{Output, Printed, Shown, put};
use crate::text::one_line;

/// The places that are meant. A pattern leaves out what is retired.
pub(super) async fn places(
    api: &mut Api,
    asked: &PlaceArguments,
) -> Result<Vec<PlaceArguments>, Error> {
    if !is_pattern(&asked.binding) {
        return Ok(vec![asked.clone()]);
    }
    let refused = |message: String| Error::Refused { message };
    if asked.branch.is_some() {
        let pattern = &asked.binding;
        return Err(refused(format!(
            "{pattern} names several bindings, and --branch one branch: name one binding"
        )));
    }
    let there = api.all_bindings().await?.into_iter();
    let meant = there.filter(|binding| {
        binding.state() != pb::BindingState::Retired && fits(&asked.binding, &binding.name)
    });
    let places: Vec<PlaceArguments> = meant
        .map(|binding| PlaceArguments {
            binding: binding.name,
            branch: None,
        })
        .collect();
    match places.is_empty() {
        true => Err(refused(format!("no binding is {}", asked.binding))),
        false => Ok(places),
    }
}

/// Refuses a pattern where one binding is to be named.
pub(super) fn refuse_pattern(asked: &PlaceArguments) -> Result<(), Error> {
    match is_pattern(&asked.binding) {
        false => Ok(()),
        true => Err(Error::Refused {
            message: format!(
                "{} names several bindings: this is done to one at a time",
                asked.binding
            ),
        }),
    }
}

pub(super) fn is_pattern(name: &str) -> bool {
    name.split('/').any(|part| part == "-")
}

fn fits(pattern: &str, name: &str) -> bool {
    let (mut parts, mut of_name) = (pattern.split('/'), name.split('/'));
    loop {
        match (parts.next(), of_name.next()) {
            (None, None) => return true,
            (Some(part), Some(of_name)) if part == "-" || part == of_name => {}
            _ => return false,
        }
    }
}

/// What is said: of one binding, or of each under its name.
#[derive(Debug)]
pub(super) struct Told {
    output: Output,
    /// Of which it is said next; none where it is but one.
    of: Option<String>,
    /// As JSON, by binding.
    all: Map<String, Value>,
    is_well: bool,
}

impl Told {
    pub(super) fn new(output: Output) -> Told {
        Told {
            output,
            of: None,
            all: Map::new(),
            is_well: true,
        }
    }

    /// From now on of that binding, one of several.
    pub(super) fn of(&mut self, binding: &str) {
        if self.output == Output::Table {
            let gap = if self.of.is_some() { "\n" } else { "" };
            put(&format!("{gap}{binding}\n"));
        }
        self.of = Some(binding.to_owned());
    }

    /// Whether it is said of several.
    pub(super) fn is_of_many(&self) -> bool {
        self.of.is_some()
    }

    /// One message.
    pub(super) fn one<M: Printed>(
        &mut self,
        message: &M,
        table: impl FnOnce(&M) -> String,
    ) -> Result<(), Error> {
        match (&self.of, self.output) {
            (Some(of), Output::Json) => {
                let shown = serde_json::to_value(Shown::of(message)?).map_err(json)?;
                self.all.insert(of.clone(), shown);
            }
            _ => self.output.one(message, table)?,
        }
        Ok(())
    }

    /// Many.
    pub(super) fn many<M: Printed>(
        &mut self,
        messages: &[M],
        table: impl FnOnce(&[M]) -> String,
    ) -> Result<(), Error> {
        match (&self.of, self.output) {
            (Some(of), Output::Json) => {
                let shown: Result<Vec<Shown>, _> = messages.iter().map(Shown::of).collect();
                let shown = serde_json::to_value(shown?).map_err(json)?;
                self.all.insert(of.clone(), shown);
            }
            _ => self.output.many(messages, table)?,
        }
        Ok(())
    }

    /// Text that is no message.
    pub(super) fn text(&self, text: &str) {
        put(text);
    }

    /// How it went with one. Of several the rest goes on, and the end is told of it.
    pub(super) fn went(&mut self, ended: Result<bool, Error>) -> Result<(), Error> {
        match (&self.of, ended) {
            (_, Ok(is_well)) => self.is_well &= is_well,
            (None, Err(error)) => return Err(error),
            (Some(of), Err(error)) => {
                eprintln!("error: {of}: {}", one_line(&error));
                self.is_well = false;
            }
        }
        Ok(())
    }

    /// 1: it did not go well with each.
    pub(super) fn end(self) -> Result<ExitCode, Error> {
        if !self.all.is_empty() {
            self.output.value(&self.all, |_| String::new())?;
        }
        Ok(match self.is_well {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

fn json(error: serde_json::Error) -> Error {
    crate::cli::output::Error::Json(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_what_has_its_parts() {
        let name = "services/users/versions/v1";
        for pattern in [
            "services/users/versions/-",
            "services/-/versions/v1",
            "services/-/versions/-",
        ] {
            assert!(is_pattern(pattern) && fits(pattern, name), "{pattern}");
        }
        for pattern in [
            "services/-/versions/v2",
            "services/-",
            "-",
            "services/-/versions/-/-",
        ] {
            assert!(!fits(pattern, name), "{pattern}");
        }
        assert!(!is_pattern("services/users-api/versions/v1"));
    }
}
