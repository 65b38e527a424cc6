-- Plain PostgreSQL: a table with the columns of counterfoil.events, and nothing around it.

-- name: table
-- The same columns; a key that PostgreSQL hands out by itself; no other index, no trigger.
-- The defaults are what a writer of an event would send each time.
create table events (
    tenant_id integer not null default 1,
    position bigint generated always as identity primary key,
    agent_name text collate "C" not null,
    event_type text collate "C" not null,
    payload jsonb,
    tags text[] collate "C" not null,
    created_at timestamptz not null default clock_timestamp(),
    occurred_at timestamptz,
    caused_by bigint[] not null default '{}',
    context jsonb,
    salt bytea,
    digest bytea not null,
    principal text collate "C" not null default 'api-key'
);

-- name: insert_row
-- A pgbench script. In prepared mode each :name is a parameter of one prepared statement.
insert into events (agent_name, event_type, payload, tags, salt, digest)
values (:agent, :type, :payload, :tags, :salt, :digest)
returning position;

-- name: count
select count(*) from events;
