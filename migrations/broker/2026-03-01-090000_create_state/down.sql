DROP TABLE broker.branches, broker.operations, broker.audit_events, broker.request_ids, broker.roles, broker.generations, broker.leases, broker.head;
