//! The data folder: whose it is, how its branches would be cloned, what is in it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use super::{Checkup, Finding};
use crate::folder::{DataFolder, SocketPlace, socket_place};
use crate::postgres::ServerUser;
use crate::state::{State, Store};
use crate::storage::{
    CloneMethod, Durability, Image, check_image_tool, choose, enter_private_mounts,
    has_storage_image,
};

/// Below this a branch or two fill the disk.
const FREE_MB_MIN: u64 = 1_024;

pub(super) fn examine(
    checkup: &Checkup,
    major: Option<u32>,
    user: Option<&ServerUser>,
    findings: &mut Vec<Finding>,
) {
    let data = &checkup.data;
    let lock = match DataFolder::look(data) {
        Ok(None) => {
            findings.push(Finding::fine(format!(
                "data folder: {} is not there yet and will be made",
                data.display()
            )));
            None
        }
        Ok(Some(lock)) => {
            findings.push(Finding::fine(format!(
                "data folder: {} is an emulator's, and nobody uses it",
                data.display()
            )));
            Some(lock)
        }
        Err(error) => {
            findings.push(Finding::problem(error));
            return;
        }
    };
    // What would be above a folder that is not there yet: above `data` alone is
    // the working directory.
    let absolute = std::path::absolute(data).unwrap_or_else(|_| data.clone());
    let Some(place) = absolute.ancestors().find(|folder| folder.is_dir()) else {
        return;
    };
    let place = match place.canonicalize() {
        Ok(place) => place,
        Err(error) => {
            findings.push(Finding::problem(format!("{}: {error}", place.display())));
            return;
        }
    };
    if let Some(user) = user {
        findings.push(match user.check_reaches(&place) {
            Ok(()) => Finding::fine(format!("{} reaches {}", user.name(), place.display())),
            Err(error) => Finding::problem(error),
        });
        storage(checkup, &place, user, findings);
    }
    if let SocketPlace::Elsewhere(folder) = socket_place(data) {
        findings.push(Finding::note(
            format!(
                "the data folder's name is too long for Unix sockets: they will be in {}",
                folder.display()
            ),
            "nothing has to be done; a shorter name keeps them in the data folder",
        ));
    }
    if lock.is_some() {
        content(data, major, findings);
    }
}

/// How branches would be cloned, and where.
fn storage(checkup: &Checkup, place: &Path, user: &ServerUser, findings: &mut Vec<Finding>) {
    free_space(place, findings);
    if checkup.storage_image.is_some() || has_storage_image(&checkup.data) {
        image(checkup, place, user, findings);
        return;
    }
    match choose(place, checkup.storage, user) {
        Err(error) => findings.push(Finding::problem(error)),
        Ok(chosen) => {
            let what = format!(
                "storage: {} on {}: {}",
                chosen.method, chosen.file_system, chosen.reason
            );
            let advice = match check_image_tool(checkup.storage) {
                Ok(()) => "branches of any size at once: as root, --storage-image 8G".to_owned(),
                Err(error) => format!(
                    "branches of any size at once: as root, --storage-image 8G; for that, {error}"
                ),
            };
            findings.push(match (chosen.method, cfg!(target_os = "linux")) {
                (CloneMethod::Copy, true) => Finding::note(what, advice),
                _ => Finding::fine(what),
            });
        }
    }
}

fn image(checkup: &Checkup, place: &Path, user: &ServerUser, findings: &mut Vec<Finding>) {
    if let Err(error) = enter_private_mounts() {
        findings.push(Finding::problem(error));
        return;
    }
    if !has_storage_image(&checkup.data) {
        findings.push(match check_image_tool(checkup.storage) {
            Ok(()) => Finding::fine("storage: an image will be made in the data folder"),
            Err(error) => Finding::problem(error),
        });
        return;
    }
    let mounted = Image::mount(place, checkup.storage_image, checkup.storage);
    let image = match mounted {
        Ok(Some(image)) => image,
        Ok(None) => return,
        Err(error) => {
            findings.push(Finding::problem(error));
            return;
        }
    };
    free_space(image.folder(), findings);
    findings.push(match choose(image.folder(), checkup.storage, user) {
        Ok(chosen) => Finding::fine(format!(
            "storage: {} on {}, in the data folder's storage image: {}",
            chosen.method, chosen.file_system, chosen.reason
        )),
        Err(error) => Finding::problem(error),
    });
}

// What is a u64 here is a u32 on macOS.
#[allow(clippy::useless_conversion)]
fn free_space(place: &Path, findings: &mut Vec<Finding>) {
    let Ok(found) = nix::sys::statvfs::statvfs(place) else {
        return;
    };
    let free_mb = (u64::from(found.blocks_available()) * u64::from(found.fragment_size())) >> 20;
    let what = format!("free space: {free_mb} MB at {}", place.display());
    findings.push(match free_mb < FREE_MB_MIN {
        true => Finding::note(what, "a branch that does not fit is refused: free some"),
        false => Finding::fine(what),
    });
}

/// What the state says, and whether the machine has what it needs.
fn content(data: &Path, major: Option<u32>, findings: &mut Vec<Finding>) {
    let store = match Store::open(data.join("state.json"), Durability::Process) {
        Ok(store) => store,
        Err(error) => {
            findings.push(Finding::problem(crate::engine::chain(&error)));
            return;
        }
    };
    store.read(|state| {
        let branches: usize = state
            .projects
            .values()
            .map(|project| project.branches.len())
            .sum();
        findings.push(Finding::fine(format!(
            "content: {} projects, {branches} branches",
            state.projects.len()
        )));
        if let Some(major) = major {
            versions(state, data, major, findings);
        }
        ports(state, findings);
    });
}

fn versions(state: &State, data: &Path, major: u32, findings: &mut Vec<Finding>) {
    for project in state.projects.values() {
        for id in project.branches.keys() {
            let file = data.join("branches").join(id.as_str()).join("PG_VERSION");
            let Ok(found) = fs::read_to_string(&file) else {
                continue;
            };
            if found.trim() != major.to_string() {
                findings.push(Finding::note(
                    format!(
                        "branch {id} is of Postgres {}: it will not start",
                        found.trim()
                    ),
                    "give the programs of that version with --postgres-bin",
                ));
            }
        }
    }
}

fn ports(state: &State, findings: &mut Vec<Finding>) {
    let mut free = 0;
    for project in state.projects.values() {
        for record in project.live_endpoints() {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, record.port)) {
                Ok(_) => free += 1,
                Err(error) => findings.push(Finding::note(
                    format!(
                        "port {} of endpoint {} cannot be had: {error}; this endpoint alone will not start",
                        record.port, record.endpoint.id
                    ),
                    format!("see who has it: ss -ltnp 'sport = :{}'", record.port),
                )),
            }
        }
    }
    findings.push(Finding::fine(format!(
        "ports: those of {free} endpoints are free"
    )));
}
