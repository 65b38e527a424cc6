-- Handing in: an append that takes what it was about out of its holder's hands, in the same
-- step. Either the work is done and its outcome is in the book, or neither. All of this runs
-- within append_v4, under the book's head, and waits for nothing.

-- What these requests hand in, each token with the place of its request among them.
create function counterfoil.tokens_of(p_requests counterfoil.new_request[])
returns counterfoil.token[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select row(r.nth, r.principal, (t.token ->> 0)::bigint, (t.token ->> 1)::bigint,
                   (t.token ->> 2)::integer)::counterfoil.token
        from unnest(p_requests) with ordinality as r (
            principal, key, content_digest, events_count, events_to, cause_max, fail_if,
            after, incarnation, rules, own, effect, hands_in, nth)
        cross join lateral jsonb_array_elements(r.hands_in -> 'tokens') as t (token));
end
$$;

-- The tokens of those requests that have none of a generation that is over.
create function counterfoil.tokens_in_force(
    p_tenant_id integer, p_requests counterfoil.new_request[]
) returns counterfoil.token[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    return array(
        select row(f.request, f.principal, f.generation, f.position, f.attempt)::counterfoil.token
        from (
            select t.*, bool_and(exists (
                select from counterfoil.consumers c
                where c.tenant_id = p_tenant_id
                  and c.name = p_requests[t.request].hands_in ->> 'consumer'
                  and c.generation = t.generation
                offset 0)) over (partition by t.request) as in_force
            from unnest(counterfoil.tokens_of(p_requests)) as t
        ) as f
        where f.in_force);
end
$$;

-- When the first of these leases ends.
create function counterfoil.lease_ends(p_tenant_id integer, p_tokens counterfoil.token[])
returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    return (
        select min(d.due_at)
        from unnest(p_tokens) as t
        cross join lateral (
            select d.due_at from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = t.generation
              and d.position = t.position
            offset 0
        ) as d);
end
$$;

-- Of the requests of a group of appends that hand in what they hold: which have all of it,
-- locked, with those who are next in line. The caller holds the book's head, so nothing is
-- waited for; who is not among these is looked at alone (hand_in_fault).
create function counterfoil.holders_in_group(
    p_tenant_id integer,
    p_tokens counterfoil.token[]
) returns integer[]
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
    v_held counterfoil.held_delivery[];
    v_now timestamptz;
    v_line record;
    v_busy bigint[] := '{}';
begin
    v_held := counterfoil.lock_held(p_tenant_id, p_tokens);
    v_now := clock_timestamp();
    for v_line in
        select h.generation, array_agg(h.position) as positions from unnest(v_held) as h
        where h.keys <> '{}' group by h.generation
    loop
        -- Where one is locked, all of this generation look for themselves.
        if not (select l.complete from counterfoil.lock_next_in_line(
            p_tenant_id, v_line.generation, v_line.positions, false) as l)
        then
            v_busy := v_busy || v_line.generation;
        end if;
    end loop;
    -- Counted, not joined: each token would be held against all that is held.
    return array(
        select t.request
        from (
            select t.request, 1 as named, 0 as held, row_number() over (
                       partition by t.generation, t.position order by t.request) as bearer
            from unnest(p_tokens) as t
            union all
            select h.request, 0, 1, 1 from unnest(v_held) as h
            where h.due_at > v_now and h.generation <> all (v_busy)
        ) as t
        group by t.request
        having sum(t.named) = sum(t.held) and max(t.bearer) = 1);
end
$$;

-- Why one request cannot hand in what it names: null, row_busy, lease_lost or
-- consumer_not_found. Under the head.
create function counterfoil.hand_in_fault(
    p_tenant_id integer,
    p_hands_in jsonb,
    p_tokens counterfoil.token[]
) returns text
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
    v_held counterfoil.held_delivery[] := counterfoil.lock_held(p_tenant_id, p_tokens);
    v_now timestamptz := clock_timestamp();
    v_line record;
    v_generation bigint;
begin
    select c.generation into v_generation from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_hands_in ->> 'consumer';
    if not found then
        return 'consumer_not_found';
    elsif exists (select from unnest(p_tokens) as t where t.generation <> v_generation)
       or exists (select from unnest(v_held) as h where h.due_at <= v_now)
    then
        return 'lease_lost';
    elsif cardinality(v_held) < cardinality(p_tokens) then
        -- Somebody has locked it, or it is not held in this attempt any more.
        return case when (
            select count(*)
            from unnest(p_tokens) as t
            join counterfoil.deliveries d
                on d.tenant_id = p_tenant_id and d.generation = t.generation
                and d.position = t.position
            where d.state = 'held' and d.attempts = t.attempt and d.principal = t.principal
              and d.due_at > v_now
        ) = cardinality(p_tokens) then 'row_busy' else 'lease_lost' end;
    end if;
    for v_line in
        select h.generation, array_agg(h.position) as positions from unnest(v_held) as h
        where h.keys <> '{}' group by h.generation
    loop
        if not (select l.complete from counterfoil.lock_next_in_line(
            p_tenant_id, v_line.generation, v_line.positions, false) as l)
        then
            return 'row_busy';
        end if;
    end loop;
    return null;
end
$$;

-- Takes out what stored requests handed in. Their rows are locked, and those behind them.
create function counterfoil.hand_in(p_tenant_id integer, p_tokens counterfoil.token[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    v_done record;
    v_alone bigint[];
    v_positions bigint[];
    v_next bigint[];
begin
    for v_done in
        select t.generation, array_agg(t.position) as positions from unnest(p_tokens) as t
        group by t.generation
    loop
        -- Who stands in no line lets nobody go.
        with gone as (
            delete from counterfoil.deliveries d
            where d.ctid = any (counterfoil.rows_of_deliveries(
                    p_tenant_id, v_done.generation, v_done.positions))
              and d.keys = '{}'
            returning d.position
        )
        select coalesce(array_agg(g.position), '{}') into v_alone from gone g;
        continue when cardinality(v_alone) = cardinality(v_done.positions);
        v_positions := array(
            select p.position from unnest(v_done.positions) as p (position)
            where p.position <> all (v_alone));
        select l.next_positions into v_next from counterfoil.lock_next_in_line(
            p_tenant_id, v_done.generation, v_positions, false) as l;
        perform counterfoil.finish_deliveries(
            p_tenant_id, v_done.generation, v_positions, v_next);
    end loop;
end
$$;
