-- Counterfoil's stored functions as pgbench calls them, with one request in each group: what the
-- service asks for, without the service. Those with :names are scripts of pgbench. The tenant is
-- set for one transaction, as the service sets it. A holder is handed its events whole; of each it
-- keeps the position and the attempt, which its token is made of.

-- name: generation
select c.generation from counterfoil.consumers c where c.tenant_id = 1 and c.name = %(name)s;

-- name: head
select max(e.position) as head from counterfoil.events e where e.tenant_id = 1;

-- What is done goes with the next claim.
-- name: done_with_the_next
select coalesce(array_agg((d.delivery -> 'event' ->> 'id')::bigint)
                    filter (where c.request is not null), '{}') as positions,
       coalesce(array_agg((d.delivery ->> 'attempt')::integer)
                    filter (where c.request is not null), '{}') as attempts,
       string_agg(d.delivery::text, ',') as messages
  from set_config('counterfoil.tenant_id', '1', true) as t (tenant_id)
 cross join lateral counterfoil.consume_v2(
           t.tenant_id::integer, :name, '{claim}', '{bench}',
           array[cardinality(:positions::bigint[])], '{holder}', array[:batch::integer],
           array_fill(1, array[cardinality(:positions::bigint[])]),
           array_fill(:generation::bigint, array[cardinality(:positions::bigint[])]),
           :positions::bigint[], :attempts::integer[], null, :due::integer = 1, 2000) as c
  left join lateral json_array_elements(('[' || c.answer || ']')::json) as d (delivery)
       on c.request is not null;

-- name: claim
select coalesce(array_agg((d.delivery -> 'event' ->> 'id')::bigint)
                    filter (where c.request is not null), '{}') as positions,
       coalesce(array_agg((d.delivery ->> 'attempt')::integer)
                    filter (where c.request is not null), '{}') as attempts,
       string_agg(d.delivery::text, ',') as messages, count(d.delivery) as held
  from set_config('counterfoil.tenant_id', '1', true) as t (tenant_id)
 cross join lateral counterfoil.consume_v2(
           t.tenant_id::integer, :name, '{claim}', '{bench}', '{0}', '{holder}',
           array[:batch::integer], '{}', '{}', '{}', '{}', null, :due::integer = 1, 2000) as c
  left join lateral json_array_elements(('[' || c.answer || ']')::json) as d (delivery)
       on c.request is not null;

-- The events are as many as a claim asks for; of fewer deliveries, as many are written. Fails, by
-- a division by zero, where something was not held any more.
-- name: acknowledge_with_outcomes
select 1 / (a.others is null)::integer
  from set_config('counterfoil.tenant_id', '1', true) as t (tenant_id)
 cross join lateral counterfoil.append_v4(
           t.tenant_id::integer,
           jsonb_build_array(jsonb_build_object(
               'operation', 'append', 'principal', 'bench', 'events', (
                   select jsonb_agg(e.event)
                     from jsonb_array_elements(:events::jsonb) with ordinality as e (event, nth)
                    where e.nth <= cardinality(:positions::bigint[])),
               'hands_in', jsonb_build_object('consumer', :name::text, 'tokens', (
                   select jsonb_agg(jsonb_build_array(:generation::bigint, h.position, h.attempt))
                     from unnest(:positions::bigint[], :attempts::integer[])
                       as h (position, attempt))))),
           2000) as a;
