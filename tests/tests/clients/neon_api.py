"""neon-api for Python, which reads every answer into a dataclass of its own.
With NEON_API_HOST and NEON_API_KEY. Not called: reveal_password, which it sends
as POST, and what is not in Neon's description of today (set_as_primary)."""

import os
import time

from neon_api import NeonAPI

neon = NeonAPI(os.environ["NEON_API_KEY"], base_url=os.environ["NEON_API_HOST"] + "/")


def settled(project):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        operations = neon.operations(project).operations
        if all(o.status.value == "finished" for o in operations):
            return
        time.sleep(0.05)
    raise AssertionError("operations are not finished after a minute")


assert neon.me().billing_account.state.value == "active"
key = neon.api_key_create(key_name="one")
assert [found.name for found in neon.api_keys()] == ["one"]
assert neon.api_key_revoke(key.id).revoked

project = neon.project_create(project={"name": "python"}).project.id
settled(project)
assert neon.project(project).project.name == "python"
assert project in [found.id for found in neon.projects().projects]
assert neon.projects(shared=True).projects == []
neon.project_update(project, project={"name": "renamed"})
for pooled in (False, True):
    uri = neon.connection_uri(project, "neondb", "neondb_owner", pooled=pooled).uri
    assert uri.startswith("postgresql://neondb_owner:npg_"), uri

made = neon.branch_create(
    project, branch={"name": "dev"}, endpoints=[{"type": "read_write"}]
)
branch = made.branch.id
settled(project)
endpoints = neon.endpoints(project).endpoints
endpoint = next(found.id for found in endpoints if found.branch_id == branch)
assert {b.name for b in neon.branches(project).branches} == {"main", "dev"}
neon.branch_update(project, branch, branch={"name": "dev2"})
assert neon.branch(project, branch).branch.name == "dev2"

neon.database_create(
    project, branch, database={"name": "reports", "owner_name": "neondb_owner"}
)
settled(project)
neon.database_update(project, branch, "reports", database={"name": "facts"})
settled(project)
assert neon.database(project, branch, "facts").database.name == "facts"
neon.database_delete(project, branch, "facts")
settled(project)
assert [d.name for d in neon.databases(project, branch).databases] == ["neondb"]

neon.role_create(project, branch, "reporting")
settled(project)
assert neon.role(project, branch, "reporting").role.name == "reporting"
neon.role_password_reset(project, branch, "reporting")
settled(project)
neon.role_delete(project, branch, "reporting")
settled(project)

assert neon.endpoint(project, endpoint).endpoint.branch_id == branch
neon.endpoint_update(project, endpoint, endpoint={"suspend_timeout_seconds": 60})
neon.endpoint_suspend(project, endpoint)
settled(project)
neon.endpoint_start(project, endpoint)
settled(project)
neon.endpoint_delete(project, endpoint)
settled(project)
neon.branch_delete(project, branch)
settled(project)
operation = neon.operations(project).operations[0]
assert neon.operation(project, operation.id).operation.id == operation.id
neon.project_delete(project)
