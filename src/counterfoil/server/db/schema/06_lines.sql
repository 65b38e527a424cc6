-- The lines in which deliveries of one key stand: who joins, who leaves, and who goes on then. The
-- rule is at the top of 06_consumers.sql.

-- The positions of those who stand in lines right behind these places, locked. False: some of
-- them are locked by others, which is possible only without waiting.
create function counterfoil.lock_next_in_line(
    p_tenant_id integer,
    p_generation bigint,
    p_positions bigint[],
    p_wait boolean,
    out next_positions bigint[],
    out complete boolean
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
    v_locked bigint[];
begin
    next_positions := array(
        select distinct following.position
        from unnest(p_positions) as leaving (position)
        cross join lateral (
            select d.keys, d.place from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = p_generation
              and d.position = leaving.position
            offset 0
        ) as d
        cross join lateral unnest(d.keys) as k (key)
        cross join lateral (
            select q.position from counterfoil.delivery_keys q
            where q.tenant_id = p_tenant_id and q.generation = p_generation
              and q.key = k.key and q.place > d.place
            order by q.place limit 1
        ) as following
        where following.position <> all (p_positions));
    if next_positions = '{}' then
        complete := true;
    elsif p_wait then
        perform from (
            select n.position from unnest(next_positions) as n (position)
            order by n.position
            offset 0
        ) as n
        cross join lateral (
            select from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = p_generation
              and d.position = n.position
            for no key update
        ) as d;
        complete := true;
    else
        v_locked := array(
            select d.position
            from unnest(next_positions) as n (position)
            cross join lateral (
                select d.position from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = p_generation
                  and d.position = n.position
                for no key update skip locked
            ) as d);
        complete := cardinality(v_locked) = cardinality(next_positions);
    end if;
end
$$;

-- Takes deliveries out, for good, and lets those go who were behind them. The caller holds
-- their locks, and the locks of those behind them.
create function counterfoil.finish_deliveries(
    p_tenant_id integer,
    p_generation bigint,
    p_positions bigint[],
    p_next_positions bigint[]
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
    with gone as (
        delete from counterfoil.deliveries d
        where d.ctid = any (
            counterfoil.rows_of_deliveries(p_tenant_id, p_generation, p_positions))
        returning d.keys, d.place
    )
    -- Each by itself: a join of the two would, without statistics, walk all lines that there are.
    delete from counterfoil.delivery_keys q
    where q.ctid = any (array(
        select o.ctid
        from gone
        cross join lateral unnest(gone.keys) as k (key)
        cross join lateral (
            select o.ctid from counterfoil.delivery_keys o
            where o.tenant_id = p_tenant_id and o.generation = p_generation
              and o.key = k.key and o.place = gone.place
            offset 0
        ) as o));
    if p_next_positions <> '{}' then
        update counterfoil.deliveries d set state = 'ready'
        where d.ctid = any (
            counterfoil.rows_of_deliveries(p_tenant_id, p_generation, p_next_positions))
          and d.state = 'waiting'
          and not exists (
              select from unnest(d.keys) as k (key)
              cross join lateral (
                  select from counterfoil.delivery_keys q
                  where q.tenant_id = p_tenant_id and q.generation = p_generation
                    and q.key = k.key and q.place < d.place
                  limit 1
              ) as before);
    end if;
end
$$;

-- Which lines these events would join, in this order, and who would have to wait. Whoever is
-- last in one is locked, so that it is still there at the commit, and lets them go later.
create function counterfoil.join_lines(
    p_tenant_id integer,
    p_generation bigint,
    p_order_by text,
    p_positions bigint[]
) returns counterfoil.joining[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_joining counterfoil.joining[];
    v_last bigint[];
    v_locked bigint[];
begin
    v_joining := array(
        select row(p.position, coalesce(array(
            select t.tag from unnest(e.tags) as t (tag)
            where starts_with(t.tag, p_order_by || ':')), '{}'), false)::counterfoil.joining
        from unnest(p_positions) with ordinality as p (position, nth)
        cross join lateral (
            select e.tags from counterfoil.events e
            where e.tenant_id = p_tenant_id and e.position = p.position
            offset 0
        ) as e
        order by p.nth);
    v_last := array(
        select distinct last.position
        from (
            select distinct k.key
            from unnest(v_joining) as j (position, keys, waits)
            cross join lateral unnest(j.keys) as k (key)
        ) as k
        cross join lateral (
            select q.position from counterfoil.delivery_keys q
            where q.tenant_id = p_tenant_id and q.generation = p_generation and q.key = k.key
            order by q.place desc limit 1
        ) as last);
    if v_last <> '{}' then
        v_locked := array(
            select d.position
            from unnest(v_last) as l (position)
            cross join lateral (
                select d.position from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = p_generation
                  and d.position = l.position
                for key share skip locked
            ) as d);
    end if;
    -- Who was last and is not locked has left meanwhile, or is about to: that the lines say now.
    return array(
        select row(j.position, j.keys, case
            when bool_or(k.last_position is not null and k.last_position <> all (coalesce(v_locked, '{}')))
                then null
            else coalesce(bool_or(k.last_position is not null or k.first_nth < j.nth), false)
        end)::counterfoil.joining
        from unnest(v_joining) with ordinality as j (position, keys, waits, nth)
        left join (
            select k.nth, k.key, min(k.nth) over (partition by k.key) as first_nth, (
                       select q.position from counterfoil.delivery_keys q
                       where q.tenant_id = p_tenant_id and q.generation = p_generation
                         and q.key = k.key
                       order by q.place desc limit 1) as last_position
            from (
                select j.nth, k.key
                from unnest(v_joining) with ordinality as j (position, keys, waits, nth)
                cross join lateral unnest(j.keys) as k (key)
            ) as k
        ) as k on k.nth = j.nth
        group by j.nth, j.position, j.keys
        order by j.nth);
end
$$;
