// @neondatabase/api-client: each of its methods for a route that the emulator
// has, with the status that the description has for it. Run in the package's
// folder, with NEON_API_HOST and NEON_API_KEY.

import { createApiClient } from '@neondatabase/api-client';

const api = createApiClient({
  apiKey: process.env.NEON_API_KEY,
  baseURL: process.env.NEON_API_HOST,
});
let steps = 0;

/** Makes a call that must be answered with the status, and waits for its operations. */
async function expect(status, call) {
  const answer = await call.catch((error) => error.response ?? Promise.reject(error));
  const text = JSON.stringify(answer.data);
  if (answer.status !== status) {
    const { method, url } = answer.config;
    throw new Error(`${method} ${url}: ${status} expected, not ${answer.status} ${text}`);
  }
  steps += 1;
  for (const operation of answer.data?.operations ?? []) {
    await finished(operation);
  }
  return answer.data;
}

async function finished({ project_id, id, action }) {
  const deadline = Date.now() + 60_000;
  while (Date.now() < deadline) {
    const { data } = await api.getProjectOperation(project_id, id);
    if (data.operation.status === 'finished') return;
    if (data.operation.status === 'failed') throw new Error(`${action}: ${data.operation.error}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${action} is not finished after a minute`);
}

const { projects } = await expect(200, api.listProjects({}));
const projectId = projects[0].id;
const main = (await expect(200, api.listProjectBranches({ projectId }))).branches[0];

const dev = await expect(
  201,
  api.createProjectBranch(projectId, {
    branch: { name: 'dev', expires_at: new Date(Date.now() + 86_400_000).toISOString() },
    endpoints: [{ type: 'read_write' }],
    annotation_value: { by: 'api-client' },
  }),
);
const [branchId, endpointId] = [dev.branch.id, dev.endpoints[0].id];
await expect(409, api.createProjectBranch(projectId, { branch: { name: 'dev' } }));
const unnamed = await expect(201, api.createProjectBranch(projectId));
await expect(200, api.deleteProjectBranch({ projectId, branchId: unnamed.branch.id }));
await expect(204, api.deleteProjectBranch({ projectId, branchId: unnamed.branch.id }));
await expect(200, api.countProjectBranches({ projectId, search: 'dev' }));
await expect(200, api.getProjectBranch(projectId, branchId));
await expect(
  200,
  api.updateProjectBranch(projectId, branchId, { branch: { name: 'dev2', expires_at: null } }),
);
await expect(200, api.restoreProjectBranch(projectId, branchId, { source_branch_id: main.id }));
await expect(200, api.setDefaultProjectBranch(projectId, branchId));
await expect(200, api.setDefaultProjectBranch(projectId, main.id));
const schema = { projectId, branchId, db_name: 'neondb' };
await expect(200, api.getProjectBranchSchema(schema));
await expect(200, api.getProjectBranchSchemaComparison(schema));

await expect(200, api.listProjectEndpoints(projectId));
await expect(200, api.listProjectBranchEndpoints(projectId, branchId));
await expect(200, api.getProjectEndpoint(projectId, endpointId));
const endpoint = { suspend_timeout_seconds: 300 };
await expect(200, api.updateProjectEndpoint(projectId, endpointId, { endpoint }));
await expect(200, api.suspendProjectEndpoint(projectId, endpointId));
await expect(200, api.startProjectEndpoint(projectId, endpointId));
await expect(200, api.restartProjectEndpoint(projectId, endpointId));

const role = { name: 're/porting' };
await expect(201, api.createProjectBranchRole(projectId, branchId, { role }));
await expect(200, api.listProjectBranchRoles(projectId, branchId));
await expect(200, api.getProjectBranchRole(projectId, branchId, role.name));
await expect(200, api.getProjectBranchRolePassword(projectId, branchId, role.name));
await expect(200, api.resetProjectBranchRolePassword(projectId, branchId, role.name));
const database = { name: 'reports', owner_name: role.name };
await expect(201, api.createProjectBranchDatabase(projectId, branchId, { database }));
await expect(200, api.listProjectBranchDatabases(projectId, branchId));
await expect(200, api.getProjectBranchDatabase(projectId, branchId, 'reports'));
const rename = { database: { name: 'facts' } };
await expect(200, api.updateProjectBranchDatabase(projectId, branchId, 'reports', rename));
const uri = { projectId, branch_id: branchId, database_name: 'facts', role_name: role.name };
await expect(200, api.getConnectionUri({ ...uri, pooled: true }));
await expect(200, api.deleteProjectBranchDatabase(projectId, branchId, 'facts'));
await expect(204, api.deleteProjectBranchDatabase(projectId, branchId, 'facts'));
await expect(200, api.deleteProjectBranchRole(projectId, branchId, role.name));

const { snapshot } = await expect(200, api.createSnapshot({ projectId, branchId, name: 'one' }));
const snapshotId = snapshot.id;
await expect(200, api.listSnapshots(projectId));
await expect(200, api.updateSnapshot(projectId, snapshotId, { snapshot: { name: 'first' } }));
const restored = await expect(
  200,
  api.restoreSnapshot({ projectId, snapshotId }, { name: 'again' }),
);
await expect(200, api.finalizeRestoreBranch(projectId, restored.branch.id, { name: 'old' }));
await expect(202, api.deleteSnapshot(projectId, snapshotId));

let page = await expect(200, api.listProjectOperations({ projectId, limit: 10 }));
const seen = new Set(page.operations.map(({ id }) => id));
while (page.pagination) {
  const { cursor } = page.pagination;
  page = await expect(200, api.listProjectOperations({ projectId, limit: 10, cursor }));
  page.operations.forEach(({ id }) => seen.add(id));
}
const all = await expect(200, api.listProjectOperations({ projectId, limit: 1000 }));
if (seen.size !== all.operations.length) throw new Error('a page lost operations');

const made = await expect(201, api.createProject({ project: { name: 'second' } }));
await expect(200, api.getProject(made.project.id));
const quota = { active_time_seconds: 1 };
await expect(200, api.updateProject(made.project.id, { project: { settings: { quota } } }));
await expect(200, api.getAvailablePreloadLibraries(made.project.id));
await expect(200, api.listSharedProjects({}));
await expect(200, api.deleteProject(made.project.id));

const key = await expect(200, api.createApiKey({ key_name: 'one' }));
await expect(200, api.listApiKeys());
await expect(200, api.revokeApiKey(key.id));
await expect(200, api.getCurrentUserInfo());
const { organizations } = await expect(200, api.getCurrentUserOrganizations());
await expect(200, api.getOrganization(organizations[0].id));
await expect(200, api.getActiveRegions({}));
await expect(200, api.getAuthDetails());
console.log(`${steps} calls`);
