-- Handing in: an append that takes what it was about out of its holder's hands, in the same
-- step. Either the work is done and its outcome is in the book, or neither. All of this runs
-- within append_v4, under the book's head, and waits for nothing.

-- What a request hands in: the tokens, with its place among those of its group.
create function counterfoil.tokens_of(p_request counterfoil.new_request, p_nth integer)
returns counterfoil.token[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select row(p_nth, p_request.principal, (t.token ->> 0)::bigint, (t.token ->> 1)::bigint,
                   (t.token ->> 2)::integer)::counterfoil.token
        from jsonb_array_elements(p_request.hands_in -> 'tokens') as t (token));
end
$$;

-- Of what a group holds, what some requests of it do: from one of them to another.
create function counterfoil.held_by(
    p_held counterfoil.held_delivery[], p_from integer, p_to integer
) returns counterfoil.held_delivery[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_held = '{}' then
        return p_held;
    end if;
    return array(
        select h::counterfoil.held_delivery from unnest(p_held) as h
        where h.request between p_from and p_to);
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
-- waited for; who is not among these is looked at alone (hand_in_fault). `complete`: they all
-- are among these. `held` is what any of them holds, to be taken out of their hands (hand_in).
create function counterfoil.holders_in_group(
    p_tenant_id integer,
    p_requests counterfoil.new_request[],
    p_named integer,        -- how many deliveries they hand in together
    out requests integer[],
    out complete boolean,
    out held counterfoil.held_delivery[]
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
    v_now timestamptz;
    v_first_ends timestamptz;
    v_in_line boolean;
    v_line record;
    v_busy bigint[] := '{}';
begin
    -- Each is looked up by itself: a join of the two would, without statistics, walk all
    -- deliveries that there are, once for each token. Of a generation that is over, none is held.
    select coalesce(array_agg(row(t.request, t.generation, t.position, d.due_at, d.keys, d.place
                                  )::counterfoil.held_delivery), '{}'),
           count(distinct d.place) = p_named, min(d.due_at), bool_or(d.keys <> '{}')
    into held, complete, v_first_ends, v_in_line
    from (
        select r.nth::integer as request, r.principal, c.generation,
               (t.token ->> 1)::bigint as position, (t.token ->> 2)::integer as attempt
        from unnest(p_requests) with ordinality as r (
            principal, key, content_digest, events_count, events_to, cause_max, fail_if,
            after, incarnation, rules, own, effect, hands_in, nth)
        cross join lateral (
            select c.generation from counterfoil.consumers c
            where c.tenant_id = p_tenant_id and c.name = r.hands_in ->> 'consumer'
            offset 0
        ) as c
        cross join lateral jsonb_array_elements(r.hands_in -> 'tokens') as t (token)
        where (t.token ->> 0)::bigint = c.generation
    ) as t
    cross join lateral (
        select d.due_at, d.keys, d.ctid as place from counterfoil.deliveries d
        where d.tenant_id = p_tenant_id and d.generation = t.generation
          and d.position = t.position and d.state = 'held' and d.attempts = t.attempt
          and d.principal = t.principal
        for update skip locked
    ) as d;
    -- The clock is read once the locks are had.
    v_now := clock_timestamp();
    complete := complete and v_first_ends > v_now;
    if v_in_line then
        for v_line in
            select h.generation, array_agg(h.position) as positions from unnest(held) as h
            where h.keys <> '{}' group by h.generation
        loop
            -- Where one is locked, all of this generation look for themselves.
            if not (select l.complete from counterfoil.lock_next_in_line(
                p_tenant_id, v_line.generation, v_line.positions, false) as l)
            then
                v_busy := v_busy || v_line.generation;
                complete := false;
            end if;
        end loop;
    end if;
    if complete then
        requests := array(
            select r.nth
            from unnest(p_requests) with ordinality as r (
                principal, key, content_digest, events_count, events_to, cause_max, fail_if,
                after, incarnation, rules, own, effect, hands_in, nth)
            where r.hands_in is not null);
    else
        -- Of two that name the same, the later one looks for itself.
        requests := array(
            select h.request
            from (
                select h.request, row_number() over (
                           partition by h.place order by h.request) as bearer
                from unnest(held) as h
                where h.due_at > v_now and h.generation <> all (v_busy)
            ) as h
            group by h.request
            having count(*) = jsonb_array_length(p_requests[h.request].hands_in -> 'tokens')
               and max(h.bearer) = 1);
    end if;
end
$$;

-- Why one request cannot hand in what it names: null, row_busy, lease_lost or
-- consumer_not_found; and what it holds of that, locked. Under the head.
create function counterfoil.hand_in_fault(
    p_tenant_id integer,
    p_hands_in jsonb,
    p_tokens counterfoil.token[],
    out fault text,
    out held counterfoil.held_delivery[]
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
    v_now timestamptz;
    v_line record;
    v_generation bigint;
begin
    held := counterfoil.lock_held(p_tenant_id, p_tokens);
    v_now := clock_timestamp();
    select c.generation into v_generation from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_hands_in ->> 'consumer';
    if not found then
        fault := 'consumer_not_found';
    elsif exists (select from unnest(p_tokens) as t where t.generation <> v_generation)
       or exists (select from unnest(held) as h where h.due_at <= v_now)
    then
        fault := 'lease_lost';
    elsif cardinality(held) < cardinality(p_tokens) then
        -- Somebody has locked it, or it is not held in this attempt any more.
        fault := case when (
            select count(*)
            from unnest(p_tokens) as t
            cross join lateral (
                select d.due_at from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = t.generation
                  and d.position = t.position and d.state = 'held' and d.attempts = t.attempt
                  and d.principal = t.principal
                offset 0
            ) as d
            where d.due_at > v_now
        ) = cardinality(p_tokens) then 'row_busy' else 'lease_lost' end;
    end if;
    if fault is not null then
        return;
    end if;
    for v_line in
        select h.generation, array_agg(h.position) as positions from unnest(held) as h
        where h.keys <> '{}' group by h.generation
    loop
        if not (select l.complete from counterfoil.lock_next_in_line(
            p_tenant_id, v_line.generation, v_line.positions, false) as l)
        then
            fault := 'row_busy';
            return;
        end if;
    end loop;
end
$$;

-- Takes what was handed in out of the hands of those who held it, whose rows are locked, with
-- those who are next in line.
create function counterfoil.hand_in(
    p_tenant_id integer, p_held counterfoil.held_delivery[]
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    v_done record;
begin
    -- Who stands in no line lets nobody go. What is locked stays where it is.
    delete from counterfoil.deliveries d
    where d.ctid = any (array(
        select h.place from unnest(p_held) as h where h.keys = '{}'));
    for v_done in
        select h.generation, array_agg(h.position) as positions from unnest(p_held) as h
        where h.keys <> '{}'
        group by h.generation
    loop
        perform counterfoil.finish_deliveries(
            p_tenant_id, v_done.generation, v_done.positions, l.next_positions)
        from counterfoil.lock_next_in_line(
            p_tenant_id, v_done.generation, v_done.positions, false) as l;
    end loop;
end
$$;
