-- Calls that leave no event, and are asked for again under the same key: what they were answered
-- is remembered for a while (CALLS_REMEMBERED_SECONDS).

-- What is known of the requests of a group by their keys, each of which is used by one call at a
-- time from here on, whatever process that came to. By request:
--   null           nothing, or it has no key
--   replayed       it was done; `given` says what a claim was handed out
--   acknowledged   of a claim, what it was to acknowledge is done; it was handed out nothing
--   key_reused     its key was used for something else
--   again          an earlier one of this group has the same key
create function counterfoil.calls_before(
    p_tenant_id integer,
    p_calls text[],
    p_principals text[],
    p_more jsonb,
    out status text[],
    out given jsonb         -- {"<request, from 1>": [[generation, position, attempt], …]}
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_found record;
begin
    status := array_fill(null::text, array[cardinality(p_calls)]);
    given := '{}';
    perform pg_advisory_xact_lock(p_tenant_id, k.hash)
    from (
        select distinct hashtext(c.principal || ' ' || (c.more ->> 'key')) as hash
        from rows from (unnest(p_principals), jsonb_array_elements(p_more)) as c (principal, more)
        where c.more ? 'key'
        order by 1
    ) as k;
    for v_found in
        select c.nth, c.call, k.answer,
               case when exists (
                   -- An append has used it: that was another request, whatever it was.
                   select from counterfoil.idempotency_keys i
                   where i.tenant_id = p_tenant_id and i.principal = c.principal and i.key = c.key
                   offset 0) then false
               else decode(c.digest, 'hex') = k.content_digest end as same,
               row_number() over (partition by c.principal, c.key order by c.nth) as bearer
        from rows from (
            unnest(p_calls), unnest(p_principals), jsonb_to_recordset(p_more) as (key text, digest text)
        ) with ordinality as c (call, principal, key, digest, nth)
        left join lateral (
            select k.content_digest, k.answer from counterfoil.consumer_calls k
            where k.tenant_id = p_tenant_id and k.principal = c.principal and k.key = c.key
            offset 0
        ) as k on true
        where c.key is not null
        order by c.nth
    loop
        status[v_found.nth] := case
            when v_found.bearer > 1 then 'again'
            when v_found.same is null then null
            when not v_found.same then 'key_reused'
            -- Whoever asked for the answer again has them now.
            when v_found.call = 'give_back' then
                case when v_found.answer ? 'asked_again' then 'replayed' end
            -- What it was to acknowledge is done; what it was to be given, it was not.
            when v_found.call = 'claim' and v_found.answer -> 'taken' = '[]' then 'acknowledged'
            else 'replayed'
        end;
        if status[v_found.nth] = 'replayed' and v_found.call = 'claim' then
            given := jsonb_set(given, array[v_found.nth::text], v_found.answer -> 'taken');
        end if;
    end loop;
end
$$;

-- Of what claims that came again had been given, what they still hold.
create function counterfoil.given_before(
    p_tenant_id integer,
    p_principals text[],
    p_generation bigint,
    p_given jsonb           -- {"<request, from 1>": [[generation, position, attempt], …]}
) returns table (request integer, deliveries integer, answer text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
begin
    return query
        select a.nth, count(*)::integer, string_agg(counterfoil.delivery_text(
                   e.text, p_generation, d.position, d.attempts,
                   counterfoil.time_text(d.due_at)), ',' order by d.position)
        from (
            select a.key::integer as nth, (t.token ->> 0)::bigint as generation,
                   (t.token ->> 1)::bigint as position, (t.token ->> 2)::integer as attempt
            from jsonb_each(p_given) as a
            cross join lateral jsonb_array_elements(a.value) as t (token)
        ) as a
        -- Each by itself, as in consume_v2.
        cross join lateral (
            select d.position, d.attempts, d.due_at from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = p_generation
              and d.position = a.position and d.state = 'held' and d.attempts = a.attempt
              and d.principal = p_principals[a.nth] and d.due_at > v_now
            offset 0
        ) as d
        cross join lateral (
            select counterfoil.event_text(e) as text from counterfoil.events e
            where e.tenant_id = p_tenant_id and e.position = a.position
            offset 0
        ) as e
        where a.generation = p_generation
        group by a.nth;
end
$$;

-- Remembers what the requests of a group were answered.
create function counterfoil.remember_calls(
    p_tenant_id integer,
    p_calls text[],
    p_principals text[],
    p_more jsonb,
    p_status text[],
    p_generation bigint,
    -- What was handed out, and to which request, one array for each column.
    p_slots integer[], p_positions bigint[], p_attempts integer[],
    p_given jsonb           -- what claims that came again had been given, by request
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    insert into counterfoil.consumer_calls as k (
        tenant_id, principal, key, content_digest, answer, created_at)
    select p_tenant_id, c.principal, c.key, decode(c.digest, 'hex'),
           jsonb_build_object('taken', coalesce(t.taken, '[]')), clock_timestamp()
    from rows from (
        unnest(p_calls), unnest(p_principals), jsonb_to_recordset(p_more) as (key text, digest text)
    ) with ordinality as c (call, principal, key, digest, nth)
    left join (
        select t.request, jsonb_agg(
                   jsonb_build_array(p_generation, t.position, t.attempt)
                   order by t.position) as taken
        from unnest(p_slots, p_positions, p_attempts) as t (request, position, attempt)
        where t.position is not null
        group by t.request
    ) as t on t.request = c.nth
    where c.key is not null
      and (p_status[c.nth] = 'done' and c.call <> 'extend' or t.taken is not null)
    order by c.principal, c.key
    on conflict on constraint consumer_calls_pkey do update
    set answer = excluded.answer, created_at = excluded.created_at;
    update counterfoil.consumer_calls k set answer = k.answer || '{"asked_again": true}'
    where k.ctid = any (array(
        select o.ctid
        from jsonb_object_keys(p_given) as g (nth)
        cross join lateral (
            select o.ctid from counterfoil.consumer_calls o
            where o.tenant_id = p_tenant_id and o.principal = p_principals[g.nth::integer]
              and o.key = p_more -> (g.nth::integer - 1) ->> 'key'
            offset 0
        ) as o))
      and not k.answer ? 'asked_again';
end
$$;
