//! `up`: the whole system, until Ctrl-C.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::binaries::Binaries;
use crate::database::connection_uri;
use crate::neon::World;
use crate::process;
use crate::repository;
use crate::state::State;
use crate::step::{Step, complain, say};
use crate::supervisor::{End, Supervisor};

/// The emulator may have to install Postgres first.
const EMULATOR_READY_SECONDS_MAX: u64 = 600;
/// From start to the line that says where a server listens.
const LISTENING_SECONDS_MAX: u64 = 30;
/// From there to healthy: the broker makes branches, migrates and seeds.
const HEALTHY_SECONDS_MAX: u64 = 60;

/// With NEON_API_KEY and NEON_PROJECT_ID set (in the environment or in .env) it
/// runs on that Neon project, else on the emulator.
#[derive(clap::Args)]
pub(crate) struct Up {
    /// Forget what the last run left behind: start from nothing. With Neon
    /// configured, only what is kept here is forgotten.
    #[arg(long)]
    fresh: bool,
    /// Build and run with optimisation.
    #[arg(long)]
    release: bool,
    /// Where the emulator serves the Neon API.
    #[arg(long, value_name = "ADDR", env = "NEON_EMULATOR_LISTEN")]
    #[arg(default_value = "127.0.0.1:7430")]
    emulator_listen: String,
    /// Where the broker listens.
    #[arg(long, value_name = "ADDR", env = "BROKER_LISTEN")]
    #[arg(default_value = "127.0.0.1:7431")]
    broker_listen: String,
    /// Where the user-service listens.
    #[arg(long, value_name = "ADDR", env = "USER_SERVICE_LISTEN")]
    #[arg(default_value = "127.0.0.1:7432")]
    user_service_listen: String,
    /// The folder that keeps databases, leases and logs. Default: .up in the
    /// repository, or a folder in /var/tmp where Postgres could not reach that.
    #[arg(long, value_name = "DIR", env = "BRANCH_BROKER_STATE")]
    state: Option<PathBuf>,
}

/// What is running, for the text at the end.
struct Running {
    emulator: Option<Emulator>,
    broker: String,
    user_service: String,
}

struct Emulator {
    url: String,
    project: String,
}

impl Up {
    /// Runs until it is told to end, or until a service ends by itself.
    pub(crate) fn run(&self) -> Result<()> {
        let started = Instant::now();
        let world = World::from_environment()?;
        let state = State::open(self.state.as_deref())?;
        if self.fresh {
            self.forget(&state, &world)?;
        }
        let binaries = Binaries::build(self.release)?;
        let mut supervisor = Supervisor::new(state.logs())?;
        let start = Start {
            up: self,
            world: &world,
            state: &state,
            binaries: &binaries,
        };
        let end = match start.everything(&mut supervisor) {
            Ok(running) => {
                let seconds = started.elapsed().as_secs_f64();
                running.describe(&state, &world, seconds)?;
                supervisor.watch()
            }
            Err(end) => end,
        };
        supervisor.stop();
        match end {
            End::Asked => Ok(()),
            End::Failed(error) => Err(error),
        }
    }

    fn forget(&self, state: &State, world: &World) -> Result<()> {
        if let World::Neon(account) = world {
            complain(&format!(
                "--fresh forgets what is kept here; branches of the Neon project {} stay as they are",
                account.project
            ));
        }
        state.clear(world)
    }
}

/// What starting needs to know.
struct Start<'a> {
    up: &'a Up,
    world: &'a World,
    state: &'a State,
    binaries: &'a Binaries,
}

impl Start<'_> {
    fn everything(&self, supervisor: &mut Supervisor) -> Result<Running, End> {
        let emulator = match self.world {
            World::Emulator => Some(self.emulator(supervisor)?),
            World::Neon(_) => None,
        };
        let database = self.database(supervisor)?;
        let broker = self.broker(supervisor, emulator.as_ref(), &database)?;
        let user_service = self.user_service(supervisor, &broker)?;
        Ok(Running {
            emulator,
            broker,
            user_service,
        })
    }

    fn emulator(&self, supervisor: &mut Supervisor) -> Result<Emulator, End> {
        let step = Step::start("start neon-emulator");
        let mut command = process::command(self.binaries.path("neon-emulator"));
        command
            .args(["serve", "--listen", &self.up.emulator_listen])
            .arg("--data")
            .arg(self.state.emulator_data()?);
        let emulator = self.start_emulator(supervisor, &step, "neon-emulator", command)?;
        step.done();
        Ok(emulator)
    }

    /// The broker's own database, on an emulator of its own: no branch of the
    /// project holds it, so none that is forked, reset or deleted takes it along.
    /// It is never suspended, and what it acknowledges is on the disk.
    fn database(&self, supervisor: &mut Supervisor) -> Result<String, End> {
        let step = Step::start("start the broker's state database");
        let mut command = process::command(self.binaries.path("neon-emulator"));
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--durability", "machine"])
            .args(["--suspend-seconds-default", "-1"])
            .arg("--data")
            .arg(self.state.database(self.world)?);
        let emulator = self.start_emulator(supervisor, &step, "state-database", command)?;
        let key = self.state.emulator_key(self.world)?;
        let uri = connection_uri(&emulator.url, &emulator.project, &key)?;
        step.done();
        Ok(uri)
    }

    fn start_emulator(
        &self,
        supervisor: &mut Supervisor,
        step: &Step,
        name: &'static str,
        mut command: Command,
    ) -> Result<Emulator, End> {
        command.env("NEON_API_KEY", self.state.emulator_key(self.world)?);
        supervisor.start(name, command)?;
        let url = supervisor.line(step, EMULATOR_READY_SECONDS_MAX)?;
        let project = supervisor.line(step, LISTENING_SECONDS_MAX)?;
        Ok(Emulator {
            url: after("Neon API", &url)?,
            project: after("project", &project)?,
        })
    }

    fn broker(
        &self,
        supervisor: &mut Supervisor,
        emulator: Option<&Emulator>,
        database: &str,
    ) -> Result<String, End> {
        let step = Step::start("start broker: branches, revisions, seeds");
        let program = self.binaries.path("broker");
        let mut command = process::command(&program);
        command
            .args(["serve", "--listen", &self.up.broker_listen])
            .arg("--config")
            .arg(repository::root().join("broker.toml"))
            .arg("--key-file")
            .arg(self.state.broker_key_file(self.world)?)
            .env("BROKER_DATABASE_URL", database);
        match (self.world, emulator) {
            (World::Neon(account), _) => account.give_to(&mut command),
            (World::Emulator, Some(emulator)) => {
                command
                    .env("NEON_API_KEY", self.state.emulator_key(self.world)?)
                    .env("NEON_PROJECT_ID", &emulator.project)
                    .env("NEON_API_URL", &emulator.url);
            }
            (World::Emulator, None) => {}
        }
        supervisor.start("broker", command)?;
        let address = after(
            "listening on",
            &supervisor.line(&step, LISTENING_SECONDS_MAX)?,
        )?;
        let mut probe = process::command(program);
        probe
            .args(["health", "--wait", &HEALTHY_SECONDS_MAX.to_string()])
            .args(["--broker", &format!("http://{address}")]);
        supervisor.healthy(&step, probe)?;
        step.done();
        Ok(address)
    }

    fn user_service(&self, supervisor: &mut Supervisor, broker: &str) -> Result<String, End> {
        let step = Step::start("start user-service");
        let program = self.binaries.path("user-service");
        let mut command = process::command(&program);
        command
            .args(["serve", "--listen", &self.up.user_service_listen])
            .args(["--broker", &format!("http://{broker}")]);
        supervisor.start("user-service", command)?;
        let address = after(
            "listening on",
            &supervisor.line(&step, LISTENING_SECONDS_MAX)?,
        )?;
        let mut probe = process::command(program);
        probe
            .args(["health", "--wait", &HEALTHY_SECONDS_MAX.to_string()])
            .args(["--address", &address]);
        supervisor.healthy(&step, probe)?;
        step.done();
        Ok(address)
    }
}

impl Running {
    fn describe(&self, state: &State, world: &World, seconds: f64) -> Result<()> {
        say("");
        match (&self.emulator, world) {
            (Some(emulator), _) => {
                say(&format!("  Neon API      {}", emulator.url));
                say(&format!("                project {}", emulator.project));
                let key = state.emulator_key_file(world)?;
                say(&format!("                key in {}", key.display()));
            }
            (None, World::Neon(account)) => {
                say(&format!("  Neon          project {}", account.project));
            }
            (None, World::Emulator) => {}
        }
        say(&format!("  broker        {}", self.broker));
        say(&format!("  user-service  {}", self.user_service));
        say(&format!("  logs          {}", state.logs().display()));
        say(&format!("  state         {}", state.folder().display()));
        say("");
        say("In another terminal:");
        say("");
        let users = &self.user_service;
        let broker = &self.broker;
        for call in [
            format!("{users} users.v1.UserService/ListUsers"),
            format!("{users} users.v2.UserService/ListUsers"),
            format!("{broker} broker.v1.BindingService/ListBindings"),
            format!("{broker} broker.v1.BranchService/ListBranches"),
            format!(
                "-d '{{\"binding\": \"services/users/versions/v1\"}}' \
                 {broker} broker.v1.LeaseService/AcquireLease"
            ),
        ] {
            say(&format!("  grpcurl -plaintext {call}"));
        }
        say("");
        say(&format!(
            "Ready after {seconds:.1} s. Ctrl-C stops everything."
        ));
        Ok(())
    }
}

/// What follows a word that a service's line has to start with.
fn after(word: &str, line: &str) -> Result<String> {
    line.strip_prefix(word)
        .map(|rest| rest.trim().to_owned())
        .with_context(|| format!("expected a line that starts with {word:?}, and got {line:?}"))
}
