//! The command line as people and programs use it: what it prints, and commands that
//! have a database for as long as they run.

mod batches;
mod diesels_cli;
mod full;
mod gate;
mod killed;
mod lost;
pub(crate) mod migrate;
mod migrated;
mod printed;
mod psql;
mod rehearse;
mod run;
mod seeds;

use std::process::{Output, Stdio};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::broker::v1::{Lease, ListLeasesRequest};
use suite::{Broker, Config, EmulatorProcess, Folder, PATIENCE, eventually};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

const V1: &str = "services/users/versions/v1";

/// The example system, without its user-service.
struct Bench {
    config: Config,
    emulator: EmulatorProcess,
    broker: Broker,
    /// Goes after those who write into it.
    folder: Folder,
}

impl Bench {
    async fn start() -> anyhow::Result<Self> {
        Self::start_with(|_| Ok(())).await
    }

    /// With what is changed in the folder of broker.toml.
    async fn start_with(
        change: impl FnOnce(&Config) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let config = Config::copy(&folder)?;
        change(&config)?;
        let emulator = EmulatorProcess::start(&folder.join("data")).await?;
        let broker = Broker::start(&folder, &emulator, &config.path()).await?;
        broker.is_ready().await?;
        Ok(Self {
            folder,
            config,
            emulator,
            broker,
        })
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.broker.process.stop().await?;
        self.emulator.stop().await?;
        drop(self.folder);
        Ok(())
    }

    /// `broker` with these arguments. It is told where the broker is, and nothing else.
    fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(suite::binary("broker")?);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("BROKER_URL", format!("http://{}", self.broker.address()))
            // Where a core may be left.
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }

    /// Runs it to its end.
    async fn output(&self, arguments: &[&str]) -> anyhow::Result<Ended> {
        ended(self.command(arguments)?.output()).await
    }

    /// What it prints when all is well.
    async fn says(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let ended = self.output(arguments).await?;
        ensure!(ended.code == Some(0), "{arguments:?}: {ended:?}");
        Ok(ended.out)
    }

    /// Starts `broker run` with these flags and a command that goes on until it is told
    /// to end. It is in a process group of its own: what is sent to it alone has come
    /// from no terminal.
    async fn run(&self, flags: &[&str], then: &str) -> anyhow::Result<Running> {
        let script = format!("cat && {{ {then}; }}");
        let command = ["--", "sh", "-c", &script];
        let arguments = [&["run"], flags, &command].concat();
        self.start_running(&arguments).await
    }

    async fn start_running(&self, arguments: &[&str]) -> anyhow::Result<Running> {
        let mut command = self.command(arguments)?;
        let mut child = command.stdin(Stdio::piped()).process_group(0).spawn()?;
        let stdin = child.stdin.take().context("its stdin")?;
        let stdout = child.stdout.take().context("its stdout")?;
        let mut running = Running {
            child,
            stdin,
            stdout: BufReader::new(stdout).lines(),
        };
        // The command runs when it says back what it was told.
        running.stdin.write_all(b"there\n").await?;
        let line = timeout(PATIENCE, running.stdout.next_line()).await??;
        match line {
            Some(line) => ensure!(line == "there", "{line}"),
            None => anyhow::bail!("it ended: {:?}", running.finish().await?),
        }
        Ok(running)
    }

    /// The leases that the broker has.
    async fn leases(&self) -> anyhow::Result<Vec<Lease>> {
        let mut leases = self.broker.leases().await?;
        let request = ListLeasesRequest::default();
        Ok(leases.list_leases(request).await?.into_inner().leases)
    }

    /// The one lease that the broker has.
    async fn lease(&self) -> anyhow::Result<Lease> {
        let mut leases = self.leases().await?;
        ensure!(leases.len() == 1, "{leases:?}");
        leases.pop().context("a lease")
    }

    /// Waits until no lease's branch is there, and no lease.
    async fn nothing_is_left(&self) -> anyhow::Result<()> {
        let (client, project) = (self.emulator.client(), self.emulator.project());
        eventually("leases and their branches are gone", async || {
            let branches = client.list_all_branches(project, None).await?.branches;
            let names: Vec<_> = branches.into_iter().map(|branch| branch.name).collect();
            let is_left = names.iter().any(|name| name.starts_with("lease/"));
            ensure!(!is_left, "{names:?}");
            let leases = self.leases().await?;
            ensure!(leases.is_empty(), "{leases:?}");
            Ok(())
        })
        .await
    }
}

/// A command that runs.
struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Signals `broker` alone.
    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = i32::try_from(self.child.id().context("it has ended")?)?;
        Ok(kill(Pid::from_raw(id), signal)?)
    }

    /// The next line on stderr.
    async fn warned(&mut self) -> anyhow::Result<String> {
        let stderr = self.child.stderr.as_mut().context("its stderr")?;
        let mut line = String::new();
        timeout(PATIENCE, BufReader::new(stderr).read_line(&mut line)).await??;
        Ok(line)
    }

    /// Lets the command end, and says how `broker` does.
    async fn finish(self) -> anyhow::Result<Ended> {
        drop(self.stdin);
        rest(self.child, self.stdout).await
    }

    /// Waits until the command ends for another reason.
    async fn ended(self) -> anyhow::Result<Ended> {
        let ended = rest(self.child, self.stdout).await;
        // Until now it had more to read.
        drop(self.stdin);
        ended
    }
}

async fn rest(child: Child, mut stdout: Lines<BufReader<ChildStdout>>) -> anyhow::Result<Ended> {
    let mut out = String::new();
    while let Some(line) = timeout(PATIENCE, stdout.next_line()).await?? {
        out.push_str(&line);
        out.push('\n');
    }
    let ended = ended(child.wait_with_output()).await?;
    Ok(Ended { out, ..ended })
}

/// How `broker` ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn ended(output: impl Future<Output = std::io::Result<Output>>) -> anyhow::Result<Ended> {
    let output = timeout(PATIENCE, output).await??;
    let ended = Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    };
    // Whatever goes wrong, it shows no credential.
    ensure!(!ended.err.contains("postgresql://"), "a URI on stderr");
    Ok(ended)
}
