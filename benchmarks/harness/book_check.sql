-- The check of a book after a measurement: is it what a book must be?
--
-- Every statement answers with one number, or one row of numbers, that must be 0 where it
-- counts faults. %(stride)s looks at every so many-th event only; 1 looks at all.

-- name: room
-- Sorting and hashing a million tags in memory takes a third of the time.
select set_config('work_mem', '512MB', false);

-- name: head
-- The last position; 0 in an empty book.
select coalesce(max(position), 0) from counterfoil.events where tenant_id = 1;

-- name: counts
-- Positions are unique and positive (the schema says so); so 1, 2, 3 … without gaps means
-- that the last one is their number.
select count(*), coalesce(max(position), 0),
       (select count(*) from counterfoil.idempotency_keys where tenant_id = 1),
       (select coalesce(sum(event_count), 0)::bigint
        from counterfoil.idempotency_keys where tenant_id = 1)
from counterfoil.events where tenant_id = 1;

-- name: times_that_fall
-- Events whose time lies before that of the event in front of them.
select count(*)
from (
    select created_at < lag(created_at) over (order by position) as falls
    from counterfoil.events where tenant_id = 1
) as e
where e.falls;

-- name: wrong_digests
-- Events whose digest is not that of their salt and their payload as PostgreSQL writes it.
-- None of a benchmark's events is ever blanked, so one without a payload is wrong too.
select count(*)
from counterfoil.events
where tenant_id = 1
  and position %% %(stride)s = 0
  and (payload is null
       or digest is distinct from sha256(salt || convert_to(payload::text, 'UTF8')));

-- name: tags_that_differ
-- Tags that an event bears and the table of tags does not have, or the other way round.
select count(*)
from (
    select e.position, t.tag
    from counterfoil.events as e
    cross join lateral unnest(e.tags) as t (tag)
    where e.tenant_id = 1 and e.position %% %(stride)s = 0
) as borne
full join (
    select position, tag
    from counterfoil.event_tags
    where tenant_id = 1 and position %% %(stride)s = 0
) as listed
    on listed.position = borne.position and listed.tag = borne.tag
where borne.position is null or listed.position is null;

-- name: keys_astray
-- Keys whose events do not exist.
select count(*)
from counterfoil.idempotency_keys
where tenant_id = 1
  and (first_position < 1 or event_count < 1
       or first_position + event_count - 1 > %(head)s);

-- name: shared_events
-- Events that two keys claim for themselves.
select count(*)
from (
    select first_position
           < lag(first_position + event_count) over (order by first_position) as shared
    from counterfoil.idempotency_keys where tenant_id = 1
) as k
where k.shared;
