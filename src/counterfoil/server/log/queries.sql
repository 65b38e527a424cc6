-- The statements of the log. log/store.py is the only caller; a test prepares each one.
--
-- Reads give the head and what was read in one statement, and so from one snapshot; the
-- functions that they call are STABLE and look through that same snapshot. A read always
-- answers at least one row: the head comes even when there is nothing to show with it.

-- name: append
select status, first_position, event_count, created_at, head, detail, clock_ahead_seconds
from counterfoil.append_v1(%(tenant_id)s::integer, %(requests)s::jsonb, %(lock_wait_milliseconds)s::integer);

-- name: head
select b.incarnation::text as incarnation,
       coalesce((select e.position from counterfoil.events e where e.tenant_id = b.tenant_id
                 order by e.position desc limit 1), 0) as head
from counterfoil.books b
where b.tenant_id = %(tenant_id)s::integer;

-- name: page
-- One page of what matches, between two positions, from either end. `up_to` is the head
-- of the first page on all later ones, so that they show nothing above it. One event more
-- than the page holds is asked for, to know whether there is more.
select b.incarnation, b.head, shown.position, shown.text
from (
    select b.tenant_id, b.incarnation::text as incarnation,
           coalesce((select e.position from counterfoil.events e where e.tenant_id = b.tenant_id
                     order by e.position desc limit 1), 0) as head
    from counterfoil.books b
    where b.tenant_id = %(tenant_id)s::integer
) as b
left join lateral (
    select e.position, counterfoil.event_text(e) as text
    from counterfoil.matching_v1(
        b.tenant_id, %(query)s::jsonb, %(payload)s::jsonb, %(after)s::bigint,
        least(b.head, %(up_to)s::bigint), %(limit)s::integer, %(newest_first)s::boolean
    ) as m (position)
    join counterfoil.events e on e.tenant_id = b.tenant_id and e.position = m.position
) as shown on true
order by case when %(newest_first)s::boolean then -shown.position else shown.position end;

-- name: latest
-- The tutorial's list: an agent's last events, newest first, in its five fields.
select b.incarnation, b.head, shown.text
from (
    select b.tenant_id, b.incarnation::text as incarnation,
           coalesce((select e.position from counterfoil.events e where e.tenant_id = b.tenant_id
                     order by e.position desc limit 1), 0) as head
    from counterfoil.books b
    where b.tenant_id = %(tenant_id)s::integer
) as b
left join lateral (
    select e.position,
           '{"id":' || e.position
           || ',"agent_name":' || to_json(e.agent_name)
           || ',"event_type":' || to_json(e.event_type)
           || ',"payload":' || coalesce(e.payload::text, 'null')
           || ',"created_at":"' || counterfoil.time_text(e.created_at) || '"}' as text
    from counterfoil.events e
    where e.tenant_id = b.tenant_id and e.agent_name = %(agent_name)s::text
      and e.position <= %(up_to)s::bigint
    order by e.position desc
    limit %(limit)s::integer
) as shown on true
order by shown.position desc;

-- name: one
select b.incarnation, b.head, shown.text
from (
    select b.tenant_id, b.incarnation::text as incarnation,
           coalesce((select e.position from counterfoil.events e where e.tenant_id = b.tenant_id
                     order by e.position desc limit 1), 0) as head
    from counterfoil.books b
    where b.tenant_id = %(tenant_id)s::integer
) as b
left join lateral (
    select counterfoil.event_text(e) as text
    from counterfoil.events e
    where e.tenant_id = b.tenant_id and e.position = %(position)s::bigint
) as shown on true;

-- name: at_positions
-- The events in the way of a condition, which the append answers by position only: they
-- never change, so they can be fetched after the lock is gone.
select counterfoil.event_text(e)
from counterfoil.events e
where e.tenant_id = %(tenant_id)s::integer and e.position = any (%(positions)s::bigint[])
order by e.position;

-- name: feed
-- What is new, once for all live readers: beside each event's text, what their filters ask.
select e.position, e.agent_name, e.event_type, e.tags, counterfoil.event_text(e)
from counterfoil.events e
where e.tenant_id = %(tenant_id)s::integer
  and e.position > %(after)s::bigint and e.position <= %(up_to)s::bigint
order by e.position
limit %(limit)s::integer;

-- name: ring
-- Tells the other processes that a book has grown. Never inside the append: the commit of
-- a notification takes a lock on the whole database. It may be lost, so it need not be
-- flushed either.
select set_config('synchronous_commit', 'off', true),
       pg_notify('counterfoil_heads', %(tenant_id)s::text || ':' || %(head)s::text);

-- name: listen
listen counterfoil_heads;

-- name: readiness
select current_setting('fsync') = 'on' as fsync,
       current_setting('full_page_writes') = 'on' as full_page_writes,
       not pg_is_in_recovery() as writable,
       (select count(*) from counterfoil.schema_migrations) as schema_version;

-- name: recover
-- A restored book's new incarnation. Run by the owner: the service may not.
update counterfoil.books as b
set incarnation = gen_random_uuid()
from counterfoil.books as before
where b.tenant_id = before.tenant_id
returning b.name, before.incarnation::text, b.incarnation::text;
