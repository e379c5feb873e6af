//! The tables of migrations/broker, as Diesel knows them.

diesel::table! {
    broker.head (id) {
        id -> Bool,
        version -> BigInt,
        epoch -> BigInt,
    }
}

diesel::table! {
    broker.leases (id) {
        id -> Uuid,
        version -> BigInt,
        binding -> Nullable<Text>,
        service -> Text,
        parent -> Nullable<Text>,
        access -> Text,
        pooled -> Bool,
        holder -> Text,
        owner -> Nullable<Text>,
        branch -> Text,
        generation -> BigInt,
        role -> Text,
        key -> Text,
        create_time -> Timestamptz,
        expire_time -> Timestamptz,
        renewals -> BigInt,
        note_time -> Timestamptz,
        branch_expire_time -> Nullable<Timestamptz>,
        revoke_time -> Nullable<Timestamptz>,
        revoke_reason -> Nullable<Text>,
        end_reason -> Nullable<Text>,
    }
}

diesel::table! {
    broker.generations (binding) {
        binding -> Text,
        version -> BigInt,
        number -> BigInt,
        branch -> Text,
        address -> Text,
        revision -> Nullable<Text>,
        reset_at -> Nullable<Timestamptz>,
        since -> Timestamptz,
        reason -> Text,
        declared -> Nullable<Text>,
        switched_to -> Nullable<Text>,
    }
}

diesel::table! {
    broker.moves (binding) {
        binding -> Text,
        version -> BigInt,
        operation -> Nullable<Uuid>,
        generation -> BigInt,
        source -> Text,
        target -> Text,
        phase -> Text,
        fence -> Bool,
        voters -> Array<Uuid>,
        deadline -> Timestamptz,
        message -> Text,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
    }
}

diesel::table! {
    broker.watches (lease) {
        lease -> Uuid,
        version -> BigInt,
        streams -> Array<Uuid>,
        stream_brokers -> Array<Uuid>,
        acked -> BigInt,
        refused -> BigInt,
        refusal -> Text,
        drained -> BigInt,
        gone_time -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    broker.brokers (id) {
        id -> Uuid,
        version -> BigInt,
        seen_time -> Timestamptz,
    }
}

diesel::table! {
    broker.roles (branch, role) {
        branch -> Text,
        role -> Text,
        version -> BigInt,
        service -> Text,
        database -> Text,
        access -> Text,
        holder -> Text,
        generation -> BigInt,
        key -> Text,
        status -> Text,
        valid_until -> Nullable<Timestamptz>,
        reserved_until -> Timestamptz,
        failures -> Integer,
        failure -> Text,
        update_time -> Timestamptz,
    }
}

diesel::table! {
    broker.operations (id) {
        id -> Uuid,
        version -> BigInt,
        caller -> Text,
        method -> Text,
        request -> Bytea,
        result -> Nullable<Bytea>,
        done -> Bool,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        branch -> Text,
        runner -> Nullable<Uuid>,
        heartbeat_time -> Nullable<Timestamptz>,
        committed -> Bool,
        note -> Nullable<Text>,
    }
}

diesel::table! {
    broker.branches (name) {
        name -> Text,
        version -> BigInt,
        branch -> Nullable<Text>,
        intent -> Text,
        update_time -> Timestamptz,
        lease -> Nullable<Uuid>,
        holder -> Nullable<Text>,
        making_until -> Nullable<Timestamptz>,
        pool -> Nullable<Text>,
        warm -> Nullable<Uuid>,
        made_as -> Nullable<Text>,
        fork_time -> Nullable<Timestamptz>,
        branch_expire_time -> Nullable<Timestamptz>,
        role -> Nullable<Text>,
    }
}

diesel::table! {
    broker.request_ids (caller, method, id) {
        caller -> Text,
        method -> Text,
        id -> Uuid,
        version -> BigInt,
        body -> Bytea,
        resource -> Text,
        expire_time -> Timestamptz,
    }
}

diesel::table! {
    broker.audit_events (id) {
        id -> BigInt,
        event_time -> Timestamptz,
        action -> Text,
        binding -> Nullable<Text>,
        branch -> Nullable<Text>,
        lease -> Nullable<Text>,
        holder -> Text,
        message -> Text,
        service -> Nullable<Text>,
    }
}
