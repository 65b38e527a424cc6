-- The statements of consumers. consumers/store.py is the only caller. What makes and changes a
-- consumer, or sets something aside, is an append of the log (log/own.py).

-- name: consume
-- A group of requests about one consumer: see 07_handing_out.sql.
select request, deliveries, answer
from counterfoil.consume_v2(
    %(tenant_id)s::integer, %(name)s::text, %(calls)s::text[], %(principals)s::text[],
    %(named)s::integer[], %(holders)s::text[], %(counts)s::integer[],
    %(token_requests)s::integer[], %(generations)s::bigint[], %(positions)s::bigint[],
    %(attempts)s::integer[], %(more)s::jsonb, %(look_for_due)s::boolean,
    %(lock_wait_milliseconds)s::integer);

-- name: consumer
-- One consumer: what it reads, the event that made or changed it last, and how it stands.
select c.query::text, c.position, counterfoil.consumer_text(c)
from counterfoil.consumers c
where c.tenant_id = %(tenant_id)s::integer and c.name = %(name)s::text;

-- name: consumer_query
-- What a consumer reads, and the event that made or changed it last.
select c.query::text, c.position
from counterfoil.consumers c
where c.tenant_id = %(tenant_id)s::integer and c.name = %(name)s::text;

-- name: consumers
-- A page of a tenant's consumers by their names.
select c.name, counterfoil.consumer_text(c)
from (
    select c.* from counterfoil.consumers c
    where c.tenant_id = %(tenant_id)s::integer and c.name > %(after)s::text
    order by c.name
    limit %(limit)s::integer
) as c
order by c.name;

-- name: with_work
-- Which of these consumers have something ready, or due.
select c.name
from counterfoil.consumers c
join counterfoil.consumer_progress p
    on p.tenant_id = c.tenant_id and p.generation = c.generation
where c.tenant_id = %(tenant_id)s::integer
  and c.name = any (string_to_array(%(names)s::text, ','))
  and (exists (
      select from counterfoil.deliveries d
      where d.tenant_id = c.tenant_id and d.generation = c.generation and d.position >= p.low
        and d.state = 'ready'
      offset 0)
  or exists (
      select from counterfoil.deliveries d
      where d.tenant_id = c.tenant_id and d.generation = c.generation
        and d.due_at > p.due_low and d.due_at <= statement_timestamp()
      offset 0));

-- name: still_held
-- Which of these deliveries a principal still holds, as pairs of position and attempt.
select d.position, d.attempts
from counterfoil.consumers c
join counterfoil.deliveries d
    on d.tenant_id = c.tenant_id and d.generation = c.generation
where c.tenant_id = %(tenant_id)s::integer and c.name = %(name)s::text
  and d.position = any (%(positions)s::bigint[]) and d.state = 'held'
  and d.principal = %(principal)s::text and d.due_at > clock_timestamp();

-- name: exhausted
-- What is to be set aside.
select d.generation, d.position, d.attempts, d.history::text
from counterfoil.consumers c
join counterfoil.deliveries d
    on d.tenant_id = c.tenant_id and d.generation = c.generation
where c.tenant_id = %(tenant_id)s::integer and c.name = %(name)s::text and d.state = 'exhausted'
order by d.position
limit %(limit)s::integer;

-- name: histories
-- How earlier attempts at these deliveries ended, where any did.
select d.position, d.holder, counterfoil.time_text(d.claimed_at), coalesce(d.history, '[]')::text
from counterfoil.consumers c
join counterfoil.deliveries d
    on d.tenant_id = c.tenant_id and d.generation = c.generation
where c.tenant_id = %(tenant_id)s::integer and c.name = %(name)s::text
  and d.position = any (%(positions)s::bigint[]) and d.state = 'held'
  and d.principal = %(principal)s::text;

-- name: dead_letters
-- A page of a consumer's dead letters in the order of their events; or the one of an event.
select l.position, json_build_object(
           'event_id', l.position, 'attempts', l.history, 'reason', l.reason,
           'set_aside_at', counterfoil.time_text(l.set_aside_at), 'set_aside_by', l.set_aside_by,
           'said_by', l.said_by, 'holds_key', l.holds_key)
from counterfoil.dead_letters l
where l.tenant_id = %(tenant_id)s::integer and l.consumer = %(name)s::text
  and l.position > %(after)s::bigint and l.position <= %(up_to)s::bigint
order by l.position
limit %(limit)s::integer;

-- name: in_need
-- Consumers of all tenants that somebody has to look after; without a name, what a tenant has to
-- be cleared away.
select tenant_id, name from counterfoil.consumers_in_need_v1();

-- name: clear
-- Clears away what a tenant's consumers have left over, in steps.
select counterfoil.clear_consumers_v1(%(rows_max)s::integer);

-- name: states
-- How consumers of all tenants stand, each with its tenant's name.
select tenant_name, state from counterfoil.consumer_states_v1(%(limit)s::integer);
