-- The statements of the log. log/store.py is the only caller; a test prepares each one.
--
-- Reads give the head and what was read in one statement, and so from one snapshot; the
-- functions that they call are STABLE and look through that same snapshot. A read always
-- answers at least one row: the head comes even when there is nothing to show with it.
-- `offset 0` where events are fetched by position has each looked up by its key: without
-- statistics the planner would rather read the whole book once. Around the head it has it
-- looked up once, and not again for each row that is shown.

-- name: append
select first_position, created_at, head, clock_ahead_seconds, has_listeners, others
from counterfoil.append_v4(%(tenant_id)s::integer, %(requests)s::jsonb, %(lock_wait_milliseconds)s::integer);

-- name: head
select b.incarnation::text as incarnation,
       coalesce((select e.position from counterfoil.events e where e.tenant_id = b.tenant_id
                 order by e.position desc limit 1), 0) as head
from counterfoil.books b
where b.tenant_id = %(tenant_id)s::integer;

-- name: page
-- One page of what matches, between two positions, from either end. `up_to` is the head
-- of the first page on all later ones, so that they show nothing above it. Of what was
-- found it shows what fits into `bytes_max`, and at least one event: `found` tells the
-- caller how much there was.
select b.incarnation, b.head, shown.position, shown.text, shown.found
from (
    select b.tenant_id, b.incarnation::text as incarnation,
           coalesce((select e.position from counterfoil.events e where e.tenant_id = b.tenant_id
                     order by e.position desc limit 1), 0) as head
    from counterfoil.books b
    where b.tenant_id = %(tenant_id)s::integer
    offset 0
) as b
left join lateral (
    select measured.*, count(*) over () as found,
           sum(measured.bytes) over (order by measured.nth) - measured.bytes as bytes_before
    from (
        select m.position, e.text, octet_length(e.text) as bytes, m.nth
        from counterfoil.matching_v1(
            b.tenant_id, %(query)s::jsonb, %(payload)s::jsonb, %(after)s::bigint,
            least(b.head, %(up_to)s::bigint), %(limit)s::integer, %(newest_first)s::boolean
        ) with ordinality as m (position, nth)
        cross join lateral (
            select counterfoil.event_text(e) as text
            from counterfoil.events e
            where e.tenant_id = b.tenant_id and e.position = m.position
            offset 0
        ) as e
    ) as measured
) as shown on shown.bytes_before < %(bytes_max)s::bigint
order by shown.nth;

-- name: latest
-- The tutorial's list: an agent's last events, newest first, in its five fields; measured
-- as `page` is.
select b.incarnation, b.head, shown.text, shown.found
from (
    select b.tenant_id, b.incarnation::text as incarnation,
           coalesce((select e.position from counterfoil.events e where e.tenant_id = b.tenant_id
                     order by e.position desc limit 1), 0) as head
    from counterfoil.books b
    where b.tenant_id = %(tenant_id)s::integer
    offset 0
) as b
left join lateral (
    select measured.*, count(*) over () as found,
           sum(measured.bytes) over (order by measured.nth) - measured.bytes as bytes_before
    from (
        select e.text, octet_length(e.text) as bytes, m.nth
        from counterfoil.matching_v1(
            b.tenant_id,
            jsonb_build_array(jsonb_build_object('agents', array[%(agent_name)s::text])), null, 0,
            %(up_to)s::bigint, %(limit)s::integer, true
        ) with ordinality as m (position, nth)
        cross join lateral (
            select '{"id":' || e.position
                   || ',"agent_name":' || to_json(e.agent_name)
                   || ',"event_type":' || to_json(e.event_type)
                   || ',"payload":' || coalesce(e.payload::text, 'null')
                   || ',"created_at":"' || counterfoil.time_text(e.created_at) || '"}' as text
            from counterfoil.events e
            where e.tenant_id = b.tenant_id and e.position = m.position
            offset 0
        ) as e
    ) as measured
) as shown on shown.bytes_before < %(bytes_max)s::bigint
order by shown.nth;

-- name: one
select b.incarnation, b.head, shown.text
from (
    select b.tenant_id, b.incarnation::text as incarnation,
           coalesce((select e.position from counterfoil.events e where e.tenant_id = b.tenant_id
                     order by e.position desc limit 1), 0) as head
    from counterfoil.books b
    where b.tenant_id = %(tenant_id)s::integer
    offset 0
) as b
left join lateral (
    select counterfoil.event_text(e) as text
    from counterfoil.events e
    where e.tenant_id = b.tenant_id and e.position = %(position)s::bigint
) as shown on true;

-- name: at_positions
-- The events in the way of a condition, which the append answers by position only: they
-- never change, so they can be fetched after the lock is gone.
select e.text
from unnest(%(positions)s::bigint[]) as wanted (position)
cross join lateral (
    select counterfoil.event_text(e) as text
    from counterfoil.events e
    where e.tenant_id = %(tenant_id)s::integer and e.position = wanted.position
    offset 0
) as e
order by wanted.position;

-- name: feed
-- Where a book stands, and what is new in it, once for all live readers: what their filters ask,
-- and each event's text where somebody is to get it. Nothing new: one row without an event.
select b.incarnation::text as incarnation,
       coalesce((select e.position from counterfoil.events e where e.tenant_id = b.tenant_id
                 order by e.position desc limit 1), 0) as head,
       fed.position, fed.agent_name, fed.event_type, to_json(fed.tags), fed.text
from counterfoil.books b
left join lateral (
    select next.*,
           sum(coalesce(octet_length(next.text), 0)) over (order by next.position)
               - coalesce(octet_length(next.text), 0) as bytes_before
    from (
        select e.position, e.agent_name, e.event_type, e.tags,
               case when %(with_text)s::boolean then counterfoil.event_text(e) end as text
        from counterfoil.events e
        -- Positions have no gaps, so these are as many as may be shown at once.
        where e.tenant_id = %(tenant_id)s::integer and e.position > %(after)s::bigint
          and e.position <= %(after)s::bigint + %(limit)s::integer
    ) as next
) as fed on fed.bytes_before < %(bytes_max)s::bigint
where b.tenant_id = %(tenant_id)s::integer
order by fed.position;

-- name: ring
-- Tells the other processes that a book has grown, or that a consumer has something again. Never
-- inside the append: the commit of a notification takes a lock on the whole database. It may be
-- lost, so it need not be flushed either.
select set_config('synchronous_commit', 'off', true),
       pg_notify('counterfoil_heads', %(tenant_id)s::text || ':' || %(what)s::text);

-- name: listen
listen counterfoil_heads;

-- name: tell_of_listening
-- Held for as long as the session listens: append_v4 sees by it that somebody does, and the
-- writers need not ring where nobody does.
select pg_advisory_lock_shared(7163395187);

-- name: readiness
-- A standby is read only, and so is a database that its host shut to writers (a full disk).
select current_setting('fsync') = 'on' as fsync,
       current_setting('full_page_writes') = 'on' as full_page_writes,
       current_setting('transaction_read_only') = 'off' as writable,
       (select count(*) from counterfoil.schema_migrations) as schema_version;

-- name: see_all_books
-- For the transaction: the policies show the owner no book, unless it is asked for them all.
select set_config('counterfoil.books', 'all', true);

-- name: recover
-- A restored book's new incarnation. Run by the owner: the service may not.
update counterfoil.books as b
set incarnation = gen_random_uuid()
from counterfoil.books as before
where b.tenant_id = before.tenant_id
returning b.name, before.incarnation::text, b.incarnation::text;
