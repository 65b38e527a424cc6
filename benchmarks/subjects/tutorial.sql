-- The usual tutorial's one table.

-- name: table
-- Nothing but the key is indexed: the list of an agent's latest events reads the whole table.
create table agent_events (
    id serial primary key,
    agent_name text not null,
    event_type text not null,
    payload jsonb not null,
    created_at timestamptz not null default now()
);

-- name: count
select count(*) from agent_events;
