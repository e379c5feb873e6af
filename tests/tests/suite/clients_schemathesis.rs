//! The emulator against Neon's own description of its API, as schemathesis
//! reads it: whatever is asked, no server error, and every answer matches its
//! schema.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::Value;
use suite::{API_KEY, EmulatorProcess, Folder, Http, tools};
use tokio::process::Command;

/// The release that is run.
const VERSION: &str = "4.32.5";
/// The release of Neon's description.
const DESCRIPTION_VERSION: &str = "2.7.3";

/// The routes of Neon's description that the emulator has, and that leave a
/// project as useful as it was. Those that are not here answer 404.
const ROUTES: [&str; 48] = [
    "GET /api_keys",
    "POST /api_keys",
    "GET /auth",
    "GET /organizations/{org_id}",
    "GET /organizations/{org_id}/api_keys",
    "POST /organizations/{org_id}/api_keys",
    "GET /projects",
    "POST /projects",
    "GET /projects/shared",
    "GET /projects/{project_id}",
    "PATCH /projects/{project_id}",
    "GET /projects/{project_id}/available_preload_libraries",
    "GET /projects/{project_id}/branches",
    "POST /projects/{project_id}/branches",
    "GET /projects/{project_id}/branches/count",
    "GET /projects/{project_id}/branches/{branch_id}",
    "PATCH /projects/{project_id}/branches/{branch_id}",
    "GET /projects/{project_id}/branches/{branch_id}/compare_schema",
    "GET /projects/{project_id}/branches/{branch_id}/databases",
    "POST /projects/{project_id}/branches/{branch_id}/databases",
    "GET /projects/{project_id}/branches/{branch_id}/databases/{database_name}",
    "GET /projects/{project_id}/branches/{branch_id}/endpoints",
    "POST /projects/{project_id}/branches/{branch_id}/finalize_restore",
    "POST /projects/{project_id}/branches/{branch_id}/restore",
    "GET /projects/{project_id}/branches/{branch_id}/roles",
    "POST /projects/{project_id}/branches/{branch_id}/roles",
    "GET /projects/{project_id}/branches/{branch_id}/roles/{role_name}",
    "GET /projects/{project_id}/branches/{branch_id}/roles/{role_name}/reveal_password",
    "POST /projects/{project_id}/branches/{branch_id}/roles/{role_name}/reset_password",
    "GET /projects/{project_id}/branches/{branch_id}/schema",
    "POST /projects/{project_id}/branches/{branch_id}/set_as_default",
    "POST /projects/{project_id}/branches/{branch_id}/snapshot",
    "GET /projects/{project_id}/connection_uri",
    "GET /projects/{project_id}/endpoints",
    "POST /projects/{project_id}/endpoints",
    "GET /projects/{project_id}/endpoints/{endpoint_id}",
    "PATCH /projects/{project_id}/endpoints/{endpoint_id}",
    "POST /projects/{project_id}/endpoints/{endpoint_id}/restart",
    "POST /projects/{project_id}/endpoints/{endpoint_id}/start",
    "POST /projects/{project_id}/endpoints/{endpoint_id}/suspend",
    "GET /projects/{project_id}/operations",
    "GET /projects/{project_id}/operations/{operation_id}",
    "GET /projects/{project_id}/snapshots",
    "PATCH /projects/{project_id}/snapshots/{snapshot_id}",
    "POST /projects/{project_id}/snapshots/{snapshot_id}/restore",
    "GET /regions",
    "GET /users/me",
    "GET /users/me/organizations",
];

/// Those that remove something, or take its name away.
const DELETIONS: [&str; 8] = [
    "DELETE /api_keys/{key_id}",
    "DELETE /organizations/{org_id}/api_keys/{key_id}",
    "DELETE /projects/{project_id}/branches/{branch_id}",
    "DELETE /projects/{project_id}/branches/{branch_id}/databases/{database_name}",
    "PATCH /projects/{project_id}/branches/{branch_id}/databases/{database_name}",
    "DELETE /projects/{project_id}/branches/{branch_id}/roles/{role_name}",
    "DELETE /projects/{project_id}/endpoints/{endpoint_id}",
    "DELETE /projects/{project_id}/snapshots/{snapshot_id}",
];

/// The last of all.
const PROJECT_DELETION: &str = "DELETE /projects/{project_id}";

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,ignored_auth,\
                      unsupported_method";

#[tokio::test]
async fn every_answer_is_as_neon_describes_it() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let limits = [
        "--projects-max",
        "3",
        "--branches-max",
        "6",
        "--root-branches-max",
        "3",
    ];
    // Each branch with an endpoint is a Postgres: a few are as good as many.
    let address = suite::free_address()?;
    let emulator = EmulatorProcess::start_with(&folder.join("data"), &address, &limits).await?;
    let schemathesis = Schemathesis::install(&folder, &emulator).await?;
    let ids = Ids::of(&emulator).await?;
    let count = suite::count(5, 50);
    schemathesis.run(&ids, &ROUTES, count).await?;
    let every: Vec<&str> = ROUTES
        .into_iter()
        .chain(DELETIONS)
        .chain([PROJECT_DELETION])
        .collect();
    schemathesis.run(&Ids::any(), &every, count).await?;
    schemathesis.run(&ids, &DELETIONS, count).await?;
    schemathesis.run(&ids, &[PROJECT_DELETION], 1).await?;
    emulator.stop().await
}

/// What the routes' parameters are; a parameter that is not here is made up.
struct Ids(Vec<(&'static str, String)>);

impl Ids {
    fn any() -> Self {
        Self(Vec::new())
    }

    /// Of a branch that is no root: all routes can work on it.
    async fn of(emulator: &EmulatorProcess) -> anyhow::Result<Self> {
        let dev = emulator.branch("dev", None).await?;
        let operation = dev.operations.first().context("an operation")?;
        let path = format!(
            "/projects/{}/branches/{}/snapshot?name=s1",
            emulator.project(),
            dev.branch.id
        );
        let taken = Http::of(emulator)
            .expect(200, "POST", &path, Value::Null)
            .await?;
        Ok(Self(vec![
            ("path.project_id", emulator.project().to_string()),
            ("path.branch_id", dev.branch.id.to_string()),
            ("path.endpoint_id", dev.endpoints[0].id.to_string()),
            ("path.operation_id", operation.id.to_string()),
            ("path.snapshot_id", taken.text("/snapshot/id").to_owned()),
            ("path.role_name", "neondb_owner".to_owned()),
            ("path.database_name", "neondb".to_owned()),
            ("path.org_id", "org-calm-sea-12345678".to_owned()),
            ("query.database_name", "neondb".to_owned()),
            ("query.role_name", "neondb_owner".to_owned()),
            ("query.branch_id", dev.branch.id.to_string()),
            (
                "query.base_branch_id",
                emulator.main_branch().await?.to_string(),
            ),
            ("query.db_name", "neondb".to_owned()),
        ]))
    }
}

struct Schemathesis {
    program: PathBuf,
    description: PathBuf,
    url: String,
    config: PathBuf,
    folder: PathBuf,
}

impl Schemathesis {
    async fn install(folder: &Folder, emulator: &EmulatorProcess) -> anyhow::Result<Self> {
        let environment = tools::python("schemathesis", VERSION).await?;
        let package = "@neondatabase/api-client";
        let client = tools::npm(package, DESCRIPTION_VERSION).await?;
        Ok(Self {
            program: environment.join("bin/schemathesis"),
            description: description(&client.join("node_modules").join(package))?,
            url: emulator.url(),
            config: folder.join("schemathesis.toml"),
            folder: folder.path().to_owned(),
        })
    }

    /// Has these routes asked, each this often and in every way that the
    /// description suggests.
    async fn run(&self, ids: &Ids, routes: &[&str], count: usize) -> anyhow::Result<()> {
        let mut config = "[parameters]\n".to_owned();
        for (name, value) in &ids.0 {
            config.push_str(&format!("\"{name}\" = \"{value}\"\n"));
        }
        std::fs::write(&self.config, config).context("write the configuration")?;
        let output = Command::new(&self.program)
            .arg("--config-file")
            .arg(&self.config)
            .arg("run")
            .arg(&self.description)
            .args(["--url", &self.url, "--checks", CHECKS, "--no-color"])
            .args(["--header", &format!("Authorization: Bearer {API_KEY}")])
            .args(["--include-name-regex", &any_of(routes)])
            .args(["--phases", "examples,coverage,fuzzing"])
            .args(["--max-examples", &count.to_string()])
            // The same questions each time: a failure comes back.
            .args(["--seed", "1", "--continue-on-failure"])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("run {}", self.program.display()))?;
        let report = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{}: {report}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        // All of them are in the description, and were tested.
        let tested = format!("Tested: {}\n", routes.len());
        ensure!(report.contains(&tested), "{tested}{report}");
        Ok(())
    }
}

/// A regular expression of just these names.
fn any_of(names: &[&str]) -> String {
    let names: Vec<String> = names
        .iter()
        .map(|name| name.replace('{', "\\{").replace('}', "\\}"))
        .collect();
    format!("^({})$", names.join("|"))
}

/// Neon's description: the one .yaml in the package.
fn description(package: &Path) -> anyhow::Result<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(package).context("look into the package")? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            found.push(path);
        }
    }
    ensure!(found.len() == 1, "one .yaml: {found:?}");
    found.pop().context("one .yaml")
}
