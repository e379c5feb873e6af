// @neon/sdk: its resources and workflows, waiting for readiness as it does by
// itself. Run in the package's folder, with NEON_API_HOST and NEON_API_KEY.

import { createNeonClient } from '@neon/sdk';

const neon = createNeonClient({
  apiKey: process.env.NEON_API_KEY,
  baseUrl: process.env.NEON_API_HOST,
  throwOnError: true,
  waitForReadiness: true,
  wait: { pollIntervalMs: 50, timeoutMs: 60_000 },
});

const check = (isTrue, what) => {
  if (!isTrue) throw new Error(what);
};
const kindOf = (call) => call.then(() => 'none', (error) => `${error.kind} ${error.status}`);

const { project, connectionString } = await neon.projects.createAndConnect({ name: 'sdk' });
check(connectionString.startsWith('postgresql://neondb_owner:npg_'), connectionString);
const projectId = project.id;
const projects = await neon.projects.list({ limit: 1 }).all();
check(projects.some(({ id }) => id === projectId), 'the project is in the list');
await neon.projects.update({ projectId, name: 'renamed' });
check((await neon.projects.get({ projectId })).name === 'renamed', 'the project has its name');

const main = await neon.branches.getDefault({ projectId });
for (const init_source of ['parent-data', 'schema-only', 'parent-schema']) {
  const made = await neon.branches.create({ projectId, name: init_source, init_source });
  check(made.init_source === init_source, `${init_source}, not ${made.init_source}`);
}
await neon.branches.create({ projectId, name: 'bare', parent_id: main.id, noCompute: true });
const { branch, endpoint } = await neon.branches.createAndConnect({
  projectId,
  name: 'dev',
  compute: { minCu: 0.25, maxCu: 2, suspendTimeoutSeconds: 300 },
  pooled: false,
});
const names = [];
const order = { sort_by: 'name', sort_order: 'asc' };
for await (const { name } of neon.branches.list({ projectId, ...order })) names.push(name);
check(names.join() === 'bare,dev,main,parent-data,parent-schema,schema-only', names.join());
const place = { projectId, branchId: branch.id };
const expires_at = new Date(Date.now() + 3_600_000).toISOString();
await neon.branches.update({ ...place, name: 'dev2', expires_at });
await neon.branches.update({ ...place, expires_at: null });
await neon.branches.resetFromParent(place);
await neon.branches.compareSchema({ ...place, databaseName: 'neondb' });
await neon.postgres.connectionString({ ...place, pooled: false });

const endpointId = endpoint.id;
const { endpoints, roles, databases } = neon.postgres;
await endpoints.suspend({ projectId, endpointId });
await endpoints.start({ projectId, endpointId });
await endpoints.restart({ projectId, endpointId });
await endpoints.update({ projectId, endpointId, autoscaling_limit_max_cu: 3 });
check((await endpoints.get({ projectId, endpointId })).current_state === 'active', 'it runs');
await roles.create({ ...place, name: 'reporting' });
await roles.resetPassword({ ...place, roleName: 'reporting' });
await databases.create({ ...place, name: 'reports', owner_name: 'reporting' });
await databases.update({ ...place, databaseName: 'reports', name: 'facts' });
const found = (await databases.list(place)).map(({ name }) => name).sort();
check(found.join() === 'facts,neondb', found.join());
await databases.delete({ ...place, databaseName: 'facts' });
await roles.delete({ ...place, roleName: 'reporting' });

const snapshot = await neon.snapshots.create({ ...place, name: 'one' });
await neon.snapshots.restore({ projectId, snapshotId: snapshot.id, name: 'again' });
await neon.snapshots.delete({ projectId, snapshotId: snapshot.id });

check((await kindOf(neon.branches.get({ projectId, branchId: 'br-no-such' }))) === 'not_found 404', 'a branch that is not there');
check((await kindOf(neon.branches.create({ projectId, name: 'main' }))) === 'api 409', 'a name that is taken');
await neon.user.me();
await neon.regions.list();
await neon.projects.delete({ projectId });
check((await kindOf(neon.projects.get({ projectId }))) === 'not_found 404', 'the project is gone');
