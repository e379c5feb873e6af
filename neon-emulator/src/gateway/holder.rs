//! Who listens on a port.

/// The process that listens on a loopback port, as `process 4711 (nc)`.
#[cfg(target_os = "linux")]
pub(super) fn of(port: u16) -> String {
    find(port).unwrap_or_else(|| "another process".to_owned())
}

/// The system does not say.
#[cfg(not(target_os = "linux"))]
pub(super) fn of(_port: u16) -> String {
    "another process".to_owned()
}

/// By the socket's inode, which the process has among its open files. Those of
/// other users are seen by root alone.
#[cfg(target_os = "linux")]
fn find(port: u16) -> Option<String> {
    use std::fs;
    use std::path::Path;

    let socket = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| {
            let inode = table.lines().find_map(|line| listening_inode(line, port))?;
            Some(format!("socket:[{inode}]"))
        })?;
    let has_it = |process: &Path| {
        fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|link| link == Path::new(&socket)))
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        if !has_it(&entry.path()) {
            return None;
        }
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        Some(format!("process {id} ({})", name.trim()))
    })
}

/// A line of the table: number, local address, remote address, state, …, inode.
#[cfg(target_os = "linux")]
fn listening_inode(line: &str, port: u16) -> Option<&str> {
    const LISTENING: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let is_it = u16::from_str_radix(local_port, 16).is_ok_and(|found| found == port)
        && *fields.get(3)? == LISTENING;
    is_it.then(|| fields.get(9).copied()).flatten()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let expected = format!("process {} (", std::process::id());
        assert!(of(port).starts_with(&expected), "{}", of(port));
        drop(listener);
        assert_eq!(of(port), "another process");
    }
}
