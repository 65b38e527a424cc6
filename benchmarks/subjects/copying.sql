-- Batches into plain tables, and into a book's own.

-- name: insert_rows
-- Followed by the rows.
insert into events (agent_name, event_type, payload, tags, salt, digest) values

-- name: copy_rows
-- FILE stands for the path of a file that the server reads.
copy events (agent_name, event_type, payload, tags, salt, digest) from 'FILE'

-- name: copy_events
copy counterfoil.events (
    tenant_id, position, agent_name, event_type, payload, tags, created_at, occurred_at,
    caused_by, context, salt, digest, principal)
from 'FILE'

-- name: copy_tags
copy counterfoil.event_tags (tenant_id, tag, position) from 'FILE'

-- name: count
select count(*) from counterfoil.events;
